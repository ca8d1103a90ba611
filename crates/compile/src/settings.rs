//! The settings of the mesh and of its namespaces: mode, trust domain, cluster domain.

use std::collections::HashMap;
use std::sync::Arc;

use heddle_policy::{AccessLog, Mode, Origin, OtlpProtocol, Tracing};
use heddle_smi as smi;

use crate::facts::{Fact, Workload};
use crate::{Problem, ProblemReason, ResourceSet};

pub(crate) struct Settings {
    pub(crate) trust_domain: Arc<str>,
    pub(crate) cluster_domain: Arc<str>,
    /// Whether a target may name a destination in another namespace (A23).
    pub(crate) allow_foreign_targets: bool,
    mode: Mode,
    /// Of the namespaces with a mode of their own.
    modes: HashMap<Arc<str>, Mode>,
    pub(crate) tracing: Option<Tracing>,
    /// Of the namespaces that say something of it.
    access_logs: HashMap<Arc<str>, AccessLog>,
}

/// Reads the MeshConfig that counts, and the labels of namespaces. What cannot be read is the default, which enforces.
pub(crate) fn settings(set: &ResourceSet, problems: &mut Vec<Problem>) -> Settings {
    let fact = set.mesh_configs.get(&(Arc::default(), smi::MESH_CONFIG_NAME.into()));
    let spec = fact.and_then(|fact| fact.value.as_ref()).map(|config| config.spec.clone()).unwrap_or_default();
    let mode = match spec.mode {
        smi::Mode::Enforce => Mode::Enforce,
        smi::Mode::Audit => Mode::Audit,
        smi::Mode::Permissive => Mode::Permissive,
    };
    Settings {
        trust_domain: spec.trust_domain.as_str().into(),
        cluster_domain: spec.cluster_domain.as_str().into(),
        allow_foreign_targets: spec.allow_foreign_targets,
        mode,
        modes: namespace_modes(set, problems),
        tracing: spec.tracing.as_ref().map(tracing),
        access_logs: namespace_access_logs(set, problems),
    }
}

fn tracing(spec: &smi::TracingSpec) -> Tracing {
    Tracing {
        endpoint: spec.endpoint.as_str().into(),
        protocol: match spec.protocol {
            smi::OtlpProtocol::Grpc => OtlpProtocol::Grpc,
            smi::OtlpProtocol::Http => OtlpProtocol::Http,
        },
        ca_certificates: spec.ca_certificates.as_deref().map(Arc::from),
        samples_per_million: spec.sampling_ratio.per_million(),
    }
}

fn namespace_access_logs(set: &ResourceSet, problems: &mut Vec<Problem>) -> HashMap<Arc<str>, AccessLog> {
    let field = format!("metadata.annotations[{}]", smi::ACCESS_LOG_ANNOTATION);
    let facts = set.namespaces.iter().filter_map(|((_, name), fact)| {
        let setting = fact.value.as_ref()?.access_log.as_ref();
        Some((name.clone(), access_log(setting, || fact.at(&field), problems)?))
    });
    facts.collect()
}

/// What the annotation of an object asks for; a text that means nothing is as none.
fn access_log(
    setting: Option<&Result<AccessLog, Arc<str>>>,
    origin: impl FnOnce() -> Origin,
    problems: &mut Vec<Problem>,
) -> Option<AccessLog> {
    match setting? {
        Ok(access_log) => Some(*access_log),
        Err(text) => {
            let message = format!("`{text}` is not a choice of access log; it is as if there were none");
            let problem = Problem::warning(origin(), ProblemReason::Doubtful, message);
            problems.push(problem.hint("the choices are `off`, `denied` and `all`"));
            None
        }
    }
}

fn namespace_modes(set: &ResourceSet, problems: &mut Vec<Problem>) -> HashMap<Arc<str>, Mode> {
    let mut modes = HashMap::new();
    for ((_, name), fact) in &set.namespaces {
        match fact.value.as_ref().and_then(|namespace| namespace.mode.as_ref()) {
            Some(Ok(mode)) => {
                modes.insert(name.clone(), *mode);
            }
            Some(Err(text)) => {
                modes.insert(name.clone(), Mode::Enforce);
                let origin = fact.at(&format!("metadata.labels[{}]", smi::MODE_LABEL));
                let message = format!("`{text}` is not a mode; the namespace enforces");
                problems.push(
                    Problem::error(origin, ProblemReason::Invalid, message)
                        .hint("the modes are `enforce`, `audit` and `permissive`"),
                );
            }
            None => {}
        }
    }
    modes
}

// === impl Settings ===

impl Settings {
    /// The mode of the workloads in `namespace`.
    pub(crate) fn mode(&self, namespace: &str) -> Mode {
        self.modes.get(namespace).copied().unwrap_or(self.mode)
    }

    /// The access log of a workload: its own choice, or that of its namespace.
    pub(crate) fn access_log(
        &self,
        fact: &Fact<Workload>,
        workload: &Workload,
        problems: &mut Vec<Problem>,
    ) -> AccessLog {
        let origin = || fact.at_pod(&format!("metadata.annotations[{}]", smi::ACCESS_LOG_ANNOTATION));
        let own = access_log(workload.access_log.as_ref(), origin, problems);
        let of_namespace = || self.access_logs.get(&workload.name.namespace).copied();
        own.or_else(of_namespace).unwrap_or_default()
    }
}
