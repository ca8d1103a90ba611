//! Which objects a controller's object controls: those it owns and selects; selected orphans are adopted, owned objects
//! that are no longer selected are released.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Resource;
use kube::core::{Selector, SelectorExt};
use serde::Serialize;

use super::plan::{Op, Plan, controller_reference};
use super::world::{Table, controller_uid};

/// A label selector in the form that matches; none when it is not valid, and then nothing is selected.
pub(crate) fn selector(selector: &LabelSelector) -> Option<Selector> {
    Selector::try_from(selector.clone()).ok()
}

/// The objects that `owner` controls. Adoptions and releases become actions of the plan and count at once.
pub(crate) fn claim<O, K>(
    component: &'static str,
    owner: &O,
    selector: &Selector,
    table: &Table<K>,
    plan: &mut Plan,
    adoptable: impl Fn(&K) -> bool,
) -> Vec<Arc<K>>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Serialize + Clone,
{
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let mut claimed = Vec::new();
    let is_selected = |meta: &ObjectMeta| selector.matches(meta.labels.as_ref().unwrap_or(&Default::default()));
    for object in table.within(namespace) {
        let meta = object.meta();
        match controller_uid(meta) {
            Some(controller) if controller != uid => {}
            Some(_) if is_selected(meta) => claimed.push(object.clone()),
            Some(_) => release(component, owner, object, plan),
            None if is_alive(owner) && is_alive(&**object) && is_selected(meta) && adoptable(object) => {
                adopt(component, owner, object, plan);
                claimed.push(object.clone());
            }
            None => {}
        }
    }
    claimed
}

fn is_alive<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_none()
}

fn adopt<O, K>(component: &'static str, owner: &O, object: &Arc<K>, plan: &mut Plan)
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Serialize + Clone,
{
    let mut adopted = K::clone(object);
    adopted.meta_mut().owner_references.get_or_insert_default().push(controller_reference(owner));
    plan.act(component, owner, Op::patch(&**object, &adopted));
}

fn release<O, K>(component: &'static str, owner: &O, object: &Arc<K>, plan: &mut Plan)
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Serialize + Clone,
{
    if !is_alive(&**object) {
        return;
    }
    let mut released = K::clone(object);
    let uid = owner.meta().uid.as_deref();
    released.meta_mut().owner_references.iter_mut().for_each(|owners| owners.retain(|it| Some(it.uid.as_str()) != uid));
    plan.act(component, owner, Op::patch(&**object, &released));
}
