//! The settings of the mesh and of its namespaces: mode, trust domain, cluster domain.

use std::collections::HashMap;
use std::sync::Arc;

use heddle_policy::Mode;
use heddle_smi as smi;

use crate::{Problem, ProblemReason, ResourceSet};

pub(crate) struct Settings {
    pub(crate) trust_domain: Arc<str>,
    pub(crate) cluster_domain: Arc<str>,
    /// Whether a target may name a destination in another namespace (A23).
    pub(crate) allow_foreign_targets: bool,
    mode: Mode,
    /// Of the namespaces with a mode of their own.
    modes: HashMap<Arc<str>, Mode>,
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
}
