//! The kinds of objects that are measured.

use heddle_smi::metrics::RESOURCES;

/// A kind that SMI measures (M2), in the order of [`RESOURCES`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    ReplicationController,
    Service,
    DaemonSet,
    Deployment,
    ReplicaSet,
    StatefulSet,
    Job,
    TrafficSplit,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::ReplicationController,
        Self::Service,
        Self::DaemonSet,
        Self::Deployment,
        Self::ReplicaSet,
        Self::StatefulSet,
        Self::Job,
        Self::TrafficSplit,
    ];

    /// Such as `Deployment`.
    pub fn name(self) -> &'static str {
        RESOURCES[self as usize].1
    }

    /// Such as `deployments`.
    pub fn plural(self) -> &'static str {
        RESOURCES[self as usize].0
    }

    pub fn is_namespaced(self) -> bool {
        RESOURCES[self as usize].2
    }

    /// The API that the objects themselves are of.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::ReplicationController | Self::Service => "v1",
            Self::DaemonSet | Self::Deployment | Self::ReplicaSet | Self::StatefulSet => "apps/v1",
            Self::Job => "batch/v1",
            Self::TrafficSplit => "split.smi-spec.io/v1alpha4",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn of_plural(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m2_the_eleven_kinds_are_those_of_the_specification() {
        for (kind, (plural, name, is_namespaced)) in Kind::ALL.into_iter().zip(RESOURCES) {
            assert_eq!((Kind::of_name(name), Kind::of_plural(plural)), (Some(kind), Some(kind)));
            assert_eq!((kind.plural(), kind.name(), kind.is_namespaced()), (plural, name, is_namespaced));
        }
    }
}
