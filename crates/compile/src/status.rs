//! What is written back on resources: conditions, from the problems found.

use std::collections::HashMap;
use std::fmt;

use heddle_policy::Origin;

use crate::resource_set::Facts;
use crate::{Problem, ResourceSet, Severity};

/// The status of one resource, which its conditions make up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceStatus {
    /// The resource.
    pub origin: Origin,
    /// `Accepted`, `ResolvedRefs`, `Programmed`.
    pub conditions: [Condition; 3],
}

/// One condition, as Kubernetes has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    pub r#type: ConditionType,
    pub status: ConditionStatus,
    /// In CamelCase.
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ConditionType {
    /// The resource is valid and takes part in the mesh.
    Accepted,
    /// Everything it names is there.
    ResolvedRefs,
    /// The mesh does what it says. The compiler can only say that proxies are told; whether they have it, the control
    /// plane knows.
    Programmed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConditionStatus {
    True,
    False,
}

/// What the compiler says of every SMI resource.
pub(crate) fn statuses(set: &ResourceSet, problems: &[Problem]) -> Vec<ResourceStatus> {
    let mut by_resource: HashMap<(&str, &str, &str), Vec<&Problem>> = HashMap::new();
    for problem in problems {
        let Origin { kind, namespace, name, .. } = &problem.origin;
        by_resource.entry((kind, namespace, name)).or_default().push(problem);
    }
    let mut statuses = Vec::new();
    let mut add = |origin: &Origin| {
        let key = (&*origin.kind, &*origin.namespace, &*origin.name);
        statuses.push(status(origin, by_resource.get(&key).map_or(&[], Vec::as_slice)));
    };
    origins(&set.targets).for_each(&mut add);
    origins(&set.bindings).for_each(&mut add);
    origins(&set.groups).for_each(&mut add);
    origins(&set.tcp_routes).for_each(&mut add);
    origins(&set.udp_routes).for_each(&mut add);
    origins(&set.splits).for_each(&mut add);
    origins(&set.mesh_configs).for_each(&mut add);
    statuses
}

fn origins<T>(facts: &Facts<T>) -> impl Iterator<Item = &Origin> {
    facts.values().map(|fact| &fact.origin)
}

fn status(origin: &Origin, problems: &[&Problem]) -> ResourceStatus {
    use ConditionType::{Accepted, Programmed, ResolvedRefs};
    let accepted = condition(Accepted, problems).unwrap_or_else(|| Condition::good(Accepted, "the resource is valid"));
    let resolved = condition(ResolvedRefs, problems)
        .unwrap_or_else(|| Condition::good(ResolvedRefs, "everything that the resource names is there"));
    let is_void = problems.iter().any(|problem| problem.condition().is_some() && problem.reason.is_fatal());
    let programmed = if is_void {
        let (status, message) = (ConditionStatus::False, "the resource has no effect as it stands".to_owned());
        Condition { r#type: Programmed, status, reason: "NoEffect", message }
    } else {
        condition(Programmed, problems)
            .unwrap_or_else(|| Condition::good(Programmed, "the mesh is told what the resource says"))
    };
    ResourceStatus { origin: origin.clone(), conditions: [accepted, resolved, programmed] }
}

/// The condition as the problems that make it false have it: the gravest and first of them in full.
fn condition(r#type: ConditionType, problems: &[&Problem]) -> Option<Condition> {
    let about = problems.iter().filter(|problem| problem.condition() == Some(r#type));
    let mut about: Vec<&&Problem> = about.collect();
    about.sort_by_key(|problem| problem.severity);
    let first = about.first()?;
    let mut message = match &*first.origin.field {
        "" => first.message.clone(),
        field => format!("{field}: {}", first.message),
    };
    if about.len() > 1 {
        message.push_str(&format!(" (and {} more)", about.len() - 1));
    }
    Some(Condition { r#type, status: ConditionStatus::False, reason: first.reason.code(), message })
}

// === impl Condition ===

impl Condition {
    fn good(r#type: ConditionType, message: &str) -> Self {
        let reason = r#type.as_str();
        Self { r#type, status: ConditionStatus::True, reason, message: message.to_owned() }
    }
}

impl Problem {
    /// The condition that this makes false. A note makes none.
    fn condition(&self) -> Option<ConditionType> {
        self.reason.condition().filter(|_| self.severity != Severity::Note)
    }
}

impl ConditionType {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
        }
    }
}

impl ConditionStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
