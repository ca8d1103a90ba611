//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, for rolling updates and `kubectl rollout undo`.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use serde_json::{Value, json};

use super::adoption::{claim, selector};
use super::plan::{Op, Plan, controller_reference};
use super::pods;
use super::world::World;

/// The label by which a pod tells its revision, and a revision its hash.
pub(crate) const POD_REVISION: &str = "controller-revision-hash";
const HASH: &str = "controller.kubernetes.io/hash";

/// The revisions of one owner.
pub(crate) struct History {
    /// Oldest first.
    pub(crate) all: Vec<Arc<ControllerRevision>>,
    /// The revision of the present template, which may be about to be created.
    pub(crate) update: ControllerRevision,
    /// How often a name was taken by another template.
    pub(crate) collisions: i32,
}

/// Finds the owner's revisions and plans what makes the present template the latest of them.
pub(crate) fn observe<O: Resource<DynamicType = ()>>(
    component: &'static str,
    owner: &O,
    labels: &LabelSelector,
    template: &PodTemplateSpec,
    world: &World,
    collisions: i32,
    plan: &mut Plan,
) -> Option<History> {
    let mut all = claim(component, owner, &selector(labels)?, &world.controller_revisions, plan, |_| true);
    all.retain(|revision| revision.metadata.deletion_timestamp.is_none());
    all.sort_by(|a, b| (a.revision, &a.metadata.name).cmp(&(b.revision, &b.metadata.name)));
    let data = data(template);
    let next = all.last().map_or(1, |last| last.revision + 1);
    let found = all.iter().rposition(|revision| content(revision) == Some(&data));
    let mut collisions = collisions;
    let update = match found.map(|at| (&all[at], at + 1 == all.len())) {
        Some((latest, true)) => ControllerRevision::clone(latest),
        Some((older, false)) => {
            let raised = ControllerRevision { revision: next, ..ControllerRevision::clone(older) };
            plan.act(component, owner, Op::patch(&**older, &raised));
            raised
        }
        None => {
            let created = new(owner, template, data, next, &mut collisions, world);
            if owner.meta().deletion_timestamp.is_none() {
                plan.act(component, owner, Op::create(&created));
            }
            created
        }
    };
    Some(History { all, update, collisions })
}

/// The patch that gives an owner this template, which is what `kubectl rollout undo` applies.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = json!("replace");
    json!({ "spec": { "template": template } })
}

fn content(revision: &ControllerRevision) -> Option<&Value> {
    revision.data.as_ref().map(|data| &data.0)
}

fn new<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
    data: Value,
    revision: i64,
    collisions: &mut i32,
    world: &World,
) -> ControllerRevision {
    let meta = owner.meta();
    let taken = |name: &str| world.controller_revisions.get(meta.namespace.as_deref().unwrap_or_default(), name);
    let named = |collisions: i32| {
        let hash = pods::hash(&data, (collisions > 0).then_some(collisions));
        (format!("{}-{hash}", meta.name.as_deref().unwrap_or_default()), hash)
    };
    while taken(&named(*collisions).0).is_some() {
        *collisions += 1;
    }
    let (name, hash) = named(*collisions);
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH.to_owned(), hash);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..Default::default()
        },
        data: Some(RawExtension(data)),
        revision,
    }
}

/// The name of a revision.
pub(crate) fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// The hash of a revision.
pub(crate) fn hash(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).map_or("", String::as_str)
}

/// The template that a revision keeps.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = content(revision)?.pointer("/spec/template")?.clone();
    template.as_object_mut()?.shift_remove("$patch");
    serde_json::from_value(template).ok()
}

impl History {
    /// Deletes the oldest revisions that nothing uses, beyond those that are kept.
    pub(crate) fn truncate<O: Resource<DynamicType = ()>>(
        &self,
        component: &'static str,
        owner: &O,
        used: &BTreeSet<&str>,
        limit: Option<i32>,
        plan: &mut Plan,
    ) {
        let is_used = |revision: &ControllerRevision| used.contains(name(revision)) || used.contains(hash(revision));
        let unused: Vec<_> = self.all.iter().filter(|revision| !is_used(revision)).collect();
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        for revision in unused.iter().take(unused.len().saturating_sub(limit)) {
            plan.act(component, owner, Op::delete(&***revision));
        }
    }
}
