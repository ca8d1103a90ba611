//! Subjects of TrafficTargets to identities: ServiceAccounts, and IdentityBindings with their schemes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_policy::{InvalidSpiffeId, Origin, PodName, Source, SpiffeId};
use heddle_smi::{IdentityBinding, Schemes, Subject, SubjectKind, TrafficTarget};

use crate::facts::{Fact, Labels};
use crate::missing::{self, Elsewhere};
use crate::settings::Settings;
use crate::workloads::Workloads;
use crate::{Problem, ProblemReason, ResourceSet};

/// Resolves the subjects of targets.
pub(crate) struct Identities<'a> {
    pub(crate) set: &'a ResourceSet,
    pub(crate) settings: &'a Settings,
    pub(crate) workloads: &'a Workloads<'a>,
}

// === impl Identities ===

impl Identities<'_> {
    /// Who the sources of a target are. What does not resolve is a problem and grants nothing (I6).
    pub(crate) fn sources(
        &self,
        target: &Fact<TrafficTarget>,
        subjects: &[Subject],
        problems: &mut Vec<Problem>,
    ) -> Vec<Source> {
        let mut sources = Vec::new();
        for (number, subject) in subjects.iter().enumerate() {
            let origin = target.at(&format!("spec.sources[{number}]"));
            let namespace = subject.namespace.as_deref().unwrap_or(&target.origin.namespace);
            match &subject.kind {
                SubjectKind::ServiceAccount => {
                    let identity = self.account(namespace, &subject.name, &origin, problems);
                    sources.extend(identity.map(|identity| Source { identity, pods: None, origin }));
                }
                SubjectKind::IdentityBinding => {
                    let Some(binding) = self.binding(namespace, &subject.name, &origin, problems) else { continue };
                    let schemes = &binding.spec.schemes;
                    // Nothing is known of who is in another trust domain.
                    if !schemes.spiffe_identities.iter().any(|text| self.is_foreign(text)) {
                        let whose = format!("the IdentityBinding `{namespace}/{}`", subject.name);
                        problems.extend(self.absence(&self.bearers(namespace, schemes), &whose, &origin));
                    }
                    sources.extend(self.binding_sources(namespace, schemes, &origin));
                }
                // smi has said so (A26).
                SubjectKind::Other(_) => {}
            }
        }
        sources
    }

    /// The workloads that a target's destination names, by their numbers.
    pub(crate) fn destination(
        &self,
        target: &Fact<TrafficTarget>,
        subject: &Subject,
        problems: &mut Vec<Problem>,
    ) -> Vec<usize> {
        let origin = target.at("spec.destination");
        let namespace = subject.namespace.as_deref().unwrap_or(&target.origin.namespace);
        match &subject.kind {
            SubjectKind::ServiceAccount => {
                self.account(namespace, &subject.name, &origin, problems);
                self.workloads.of_account(namespace, &subject.name).to_vec()
            }
            SubjectKind::IdentityBinding => {
                let Some(binding) = self.binding(namespace, &subject.name, &origin, problems) else {
                    return Vec::new();
                };
                let workloads = self.bound_workloads(namespace, &binding.spec.schemes, &origin, problems);
                let whose = format!("the IdentityBinding `{namespace}/{}`", subject.name);
                problems.extend(self.absence(&workloads, &whose, &origin));
                workloads
            }
            SubjectKind::Other(_) => Vec::new(),
        }
    }

    /// Says of every binding which of its schemes stand for nobody, whether or not a target names it.
    pub(crate) fn bindings(&self, problems: &mut Vec<Problem>) {
        for fact in self.set.bindings.values() {
            let Some(schemes) = fact.value.as_ref().map(|binding| &binding.spec.schemes) else { continue };
            let namespace = &fact.origin.namespace;
            if let Some(account) = &schemes.service_account {
                self.account(namespace, account, &fact.at("spec.schemes.serviceAccount"), problems);
            }
            if schemes.pod_label_selector.is_some() {
                let origin = fact.at("spec.schemes.podLabelSelector");
                let whose = format!("the namespace `{namespace}` with these labels");
                problems.extend(self.absence(&self.selected(namespace, schemes), &whose, &origin));
            }
            for (number, text) in schemes.spiffe_identities.iter().enumerate() {
                let origin = fact.at(&format!("spec.schemes.spiffeIdentities[{number}]"));
                self.written(text, &origin, problems);
            }
        }
    }

    /// Says of a SPIFFE ID in a binding what keeps its bearers from being heard.
    fn written(&self, text: &str, origin: &Origin, problems: &mut Vec<Problem>) {
        if self.is_foreign(text) {
            let message = format!(
                "`{text}` is of another trust domain than the mesh (`{}`): as a source it cannot connect yet, because \
                 proxies believe certificates of their own trust domain alone",
                self.settings.trust_domain
            );
            let hint = format!("clients of this mesh have `spiffe://{}/ns/...`", self.settings.trust_domain);
            problems.push(Problem::warning(origin.clone(), ProblemReason::NotFederated, message).hint(hint));
            return;
        }
        match self.spiffe_id(text).as_ref().and_then(SpiffeId::service_account) {
            Some((namespace, account)) => {
                self.account(namespace, account, origin, problems);
            }
            None => {
                let message = format!("no workload has the identity `{text}`: those of the mesh name a ServiceAccount");
                let form = format!("write `spiffe://{}/ns/<namespace>/sa/<name>`", self.settings.trust_domain);
                problems.push(Problem::warning(origin.clone(), ProblemReason::NoWorkload, message).hint(form));
            }
        }
    }

    /// The identity of a ServiceAccount.
    fn account(&self, namespace: &str, name: &str, origin: &Origin, problems: &mut Vec<Problem>) -> Option<SpiffeId> {
        let whose = format!("the ServiceAccount `{namespace}/{name}`");
        let absence = self.absence(self.workloads.of_account(namespace, name), &whose, origin);
        problems.extend(self.no_account(namespace, name, origin).or(absence));
        let identity = SpiffeId::of_service_account(&self.settings.trust_domain, namespace, name);
        let invalid = |error: InvalidSpiffeId| {
            Problem::error(origin.clone(), ProblemReason::UnknownSubject, error.to_string())
                .hint("correct the name of the ServiceAccount or of its namespace")
        };
        identity.map_err(|error| problems.push(invalid(error))).ok()
    }

    /// Says of a ServiceAccount that nothing has, neither an object nor a workload: nobody can prove to be it.
    fn no_account(&self, namespace: &str, name: &str, origin: &Origin) -> Option<Problem> {
        let accounts = &self.set.accounts;
        let has = |namespace: &str, name: &str| accounts.contains_key(&(namespace.into(), name.into()));
        // Kubernetes makes `default` in every namespace. A cluster's set has it; manifests say nothing of the namespaces
        // that they have no ServiceAccount of.
        let is_known = has("default", "default") || accounts.keys().any(|(of, _)| **of == *namespace);
        let is_there = name == "default" || has(namespace, name);
        if !is_known || is_there || !self.workloads.of_account(namespace, name).is_empty() {
            return None;
        }
        let message = format!("the ServiceAccount `{namespace}/{name}` does not exist: nobody has its identity");
        let hint = missing::hint(accounts, "ServiceAccount", namespace, name, Elsewhere::Named);
        Some(Problem::warning(origin.clone(), ProblemReason::RefNotFound, message).hint(hint))
    }

    /// It is worth knowing that there are no workloads of a name, or that they have no proxy to prove who they are or to
    /// enforce anything.
    fn absence(&self, workloads: &[usize], whose: &str, origin: &Origin) -> Option<Problem> {
        if workloads.is_empty() {
            let message = format!("there is no workload of {whose}");
            let problem = Problem::note(origin.clone(), ProblemReason::NoWorkload, message);
            return Some(problem.hint("nothing is to be done if its workloads come later; else correct the name"));
        }
        let is_outside = |&number: &usize| self.workloads.all[number].identity.is_none();
        workloads.iter().all(is_outside).then(|| {
            let message = format!(
                "no workload of {whose} is in the mesh: without a proxy it neither proves its identity nor enforces access"
            );
            Problem::warning(origin.clone(), ProblemReason::NotInMesh, message)
                .hint("remove the label `heddle.dev/inject: disabled` or `hostNetwork` that keeps them out")
        })
    }

    /// A binding that is there and valid.
    fn binding(
        &self,
        namespace: &str,
        name: &str,
        origin: &Origin,
        problems: &mut Vec<Problem>,
    ) -> Option<&IdentityBinding> {
        let fact = self.set.bindings.get(&(namespace.into(), name.into()));
        let binding = fact.and_then(|fact| fact.value.as_ref());
        if binding.is_none() {
            let state = if fact.is_some() { "is not valid" } else { "does not exist" };
            let message = format!("the IdentityBinding `{namespace}/{name}` {state}: it stands for nobody");
            let hint = missing::hint(&self.set.bindings, "IdentityBinding", namespace, name, Elsewhere::Named);
            problems.push(Problem::error(origin.clone(), ProblemReason::RefNotFound, message).hint(hint));
        }
        binding
    }

    /// The union of a binding's schemes (I1). Labels are in no certificate, so that the pods they select are named (I8).
    fn binding_sources(&self, namespace: &str, schemes: &Schemes, origin: &Origin) -> Vec<Source> {
        let of_account =
            |name: &String| SpiffeId::of_service_account(&self.settings.trust_domain, namespace, name).ok();
        let account = schemes.service_account.iter().filter_map(of_account);
        let written = schemes.spiffe_identities.iter().filter_map(|id| self.spiffe_id(id));
        let mut sources: Vec<Source> =
            account.chain(written).map(|identity| Source { identity, pods: None, origin: origin.clone() }).collect();
        let mut selected: BTreeMap<&SpiffeId, BTreeSet<PodName>> = BTreeMap::new();
        for number in self.selected(namespace, schemes) {
            let member = &self.workloads.all[number];
            if let Some(identity) = member.identity.as_ref().filter(|_| !member.workload.is_template) {
                selected.entry(identity).or_default().insert(member.workload.name.clone());
            }
        }
        sources.extend(selected.into_iter().map(|(identity, pods)| Source {
            identity: identity.clone(),
            pods: Some(pods),
            origin: origin.clone(),
        }));
        sources
    }

    /// The workloads that have a binding's identity as sources, in any namespace.
    fn bearers(&self, namespace: &str, schemes: &Schemes) -> Vec<usize> {
        let mut numbers = self.selected(namespace, schemes);
        let account = schemes.service_account.iter();
        numbers.extend(account.flat_map(|name| self.workloads.of_account(namespace, name)));
        let written = schemes.spiffe_identities.iter().filter_map(|text| self.spiffe_id(text));
        for id in written {
            let account = id.service_account();
            numbers.extend(account.iter().flat_map(|(of, name)| self.workloads.of_account(of, name)));
        }
        numbers
    }

    /// The workloads of a binding's namespace that it names. It has no say over others (I3, I4).
    fn bound_workloads(
        &self,
        namespace: &str,
        schemes: &Schemes,
        origin: &Origin,
        problems: &mut Vec<Problem>,
    ) -> Vec<usize> {
        let mut numbers: BTreeSet<usize> = self.selected(namespace, schemes).into_iter().collect();
        let account = schemes.service_account.iter();
        numbers.extend(account.flat_map(|name| self.workloads.of_account(namespace, name)));
        for text in &schemes.spiffe_identities {
            let id = self.spiffe_id(text).filter(|_| !self.is_foreign(text));
            match id.as_ref().and_then(SpiffeId::service_account) {
                Some((of, name)) if of == namespace => numbers.extend(self.workloads.of_account(namespace, name)),
                _ => {
                    let message =
                        format!("`{text}` is no identity of the namespace `{namespace}`: it is not a destination");
                    let problem = Problem::error(origin.clone(), ProblemReason::ForeignIdentity, message);
                    problems.push(problem.hint("a binding names destinations of its own namespace alone"));
                }
            }
        }
        numbers.into_iter().collect()
    }

    fn selected(&self, namespace: &str, schemes: &Schemes) -> Vec<usize> {
        let Some(selector) = &schemes.pod_label_selector else { return Vec::new() };
        let arc = |(key, value): (&String, &String)| (Arc::from(key.as_str()), Arc::from(value.as_str()));
        let labels: Labels = selector.match_labels.iter().map(arc).collect();
        self.workloads.select(namespace, &labels)
    }

    /// Reads an identity as it is written in a binding. Open Service Mesh wrote `<ServiceAccount>/<namespace>` as the
    /// path; in our own trust domain nothing else looks like it.
    fn spiffe_id(&self, text: &str) -> Option<SpiffeId> {
        let id: SpiffeId = text.parse().ok()?;
        let domain = id.trust_domain();
        let path: Vec<&str> = id.as_str().split('/').skip(3).collect();
        match path.as_slice() {
            [account, namespace] if domain == &*self.settings.trust_domain => {
                SpiffeId::of_service_account(domain, namespace, account).ok()
            }
            _ => Some(id),
        }
    }

    fn is_foreign(&self, text: &str) -> bool {
        text.parse().is_ok_and(|id: SpiffeId| id.trust_domain() != &*self.settings.trust_domain)
    }
}
