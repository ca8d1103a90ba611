//! What every namespace has (ServiceAccount `default`, ConfigMap `kube-root-ca.crt`) and how one ends.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ApiResource;

use super::driver::Settings;
use super::plan::{Deletion, Op, Plan, Target};
use super::world::{World, resource_key};

const COMPONENT: &str = "namespace-controller";
const ROOT_CA: &str = "kube-root-ca.crt";

pub(crate) fn reconcile(world: &World, settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    for namespace in world.namespaces.iter() {
        if namespace.metadata.deletion_timestamp.is_some() {
            empty(world, namespace, &mut plan);
        } else {
            default_service_account(world, namespace, &mut plan);
            root_ca(world, settings, namespace, &mut plan);
        }
    }
    plan
}

fn default_service_account(world: &World, namespace: &Namespace, plan: &mut Plan) {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    if world.service_accounts.get(name, "default").is_some() {
        return;
    }
    let account = ServiceAccount { metadata: meta(name, "default"), ..Default::default() };
    plan.act(COMPONENT, namespace, Op::create(&account));
}

fn root_ca(world: &World, settings: &Settings, namespace: &Namespace, plan: &mut Plan) {
    let Some(pem) = &settings.root_ca else { return };
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let data = Some(BTreeMap::from([("ca.crt".to_owned(), pem.clone())]));
    match world.config_maps.get(name, ROOT_CA) {
        None => {
            let mut metadata = meta(name, ROOT_CA);
            let note = "Contains a CA bundle that can be used to verify the API of this cluster.".to_owned();
            metadata.annotations = Some(BTreeMap::from([("kubernetes.io/description".to_owned(), note)]));
            let map = ConfigMap { metadata, data, ..Default::default() };
            plan.act(COMPONENT, namespace, Op::create(&map));
        }
        Some(known) if known.data != data => {
            let updated = ConfigMap { data, ..ConfigMap::clone(known) };
            plan.act(COMPONENT, namespace, Op::patch(&**known, &updated));
        }
        Some(_) => {}
    }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..Default::default() }
}

/// Deletes what a terminating namespace contains and, when nothing is known to be left, the namespace.
fn empty(world: &World, namespace: &Namespace, plan: &mut Plan) {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
        return;
    }
    let name = namespace.metadata.name.as_deref();
    let mut left = false;
    for (resource, meta) in world.objects() {
        if meta.namespace.as_deref() != name {
            continue;
        }
        left = true;
        if meta.deletion_timestamp.is_none() {
            let target = Target { resource_version: None, ..Target::from_meta(resource.clone(), meta) };
            plan.act(COMPONENT, namespace, Op::Delete(target, Deletion::Background));
        }
    }
    if !left && world.complete {
        let resources = namespaced(world);
        plan.act(COMPONENT, namespace, Op::Finalize { namespace: Target::of(namespace), resources });
    }
}

/// The kinds that a namespace may contain, events among them though they are not watched.
fn namespaced(world: &World) -> Vec<ApiResource> {
    let cluster_scoped = ["namespaces.", "nodes."];
    let typed = World::typed().into_iter().filter(|it| !cluster_scoped.contains(&resource_key(it).as_str()));
    let typed = typed.filter(|it| world.served.contains(&resource_key(it)));
    let others = world.others.values().filter(|other| other.namespaced).map(|other| other.resource.clone());
    let events = ApiResource::erase::<k8s_openapi::api::core::v1::Event>(&());
    typed.chain(others).chain([events]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;

    #[test]
    fn a_namespace_has_a_service_account_and_the_root_certificates() {
        let mut cluster = Cluster::new("");
        cluster.settle();
        assert_eq!(cluster.get("serviceaccounts/default", "/metadata/namespace"), "default");
        assert_eq!(cluster.get("configmaps/kube-root-ca.crt", "/data/ca.crt"), "PEM");
        cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: kube-root-ca.crt}, data: {ca.crt: forged}}");
        cluster.settle();
        assert_eq!(cluster.get("configmaps/kube-root-ca.crt", "/data/ca.crt"), "PEM");
    }

    #[test]
    fn a_deleted_namespace_takes_its_content_along_pods_last() {
        let mut cluster = Cluster::new("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}");
        cluster.settle();
        cluster.request_deletion("namespaces/default", None);
        cluster.settle();
        assert_eq!(cluster.names("serviceaccounts").len() + cluster.names("configmaps").len(), 0);
        assert_eq!(cluster.names("namespaces"), ["default"], "a pod is still terminating");
        cluster.run_pods();
        assert_eq!(cluster.names("namespaces").len(), 0);
    }
}
