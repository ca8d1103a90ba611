//! Every kind of workload and every form of a pod's configuration, run from plain manifests.

use crate::mesh::{HEDDLE, Mesh, eventually};

#[test]
fn every_kind_of_workload_runs_as_its_manifest_says() {
    let Some(mesh) = Mesh::up("crates/cli/tests/fixtures/workloads", &[]) else { return };
    forms_of_configuration(&mesh);
    stateful_pods_have_names(&mesh);
    stateful_pods_keep_what_they_claimed(&mesh);
    let ready = ["get", "daemonset", "-n", "shop", "agent", "-o", "jsonpath={.status.numberReady}"];
    assert_eq!(mesh.kubectl(&ready), "1");
    mesh.kubectl(&["wait", "-n", "shop", "--for=condition=Complete", "job/sum", "--timeout=60s"]);
    assert_eq!(mesh.kubectl(&["logs", "-n", "shop", "job/sum"]).trim(), "3");
    let succeeded = ["get", "job", "-n", "shop", "sum", "-o", "jsonpath={.status.succeeded}"];
    assert_eq!(mesh.kubectl(&succeeded), "2");
    eventually("the CronJob has run", || {
        let jobs = mesh.kubectl(&[
            "get",
            "jobs",
            "-n",
            "shop",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name}={.status.succeeded} {end}",
        ]);
        jobs.split_whitespace().any(|job| job.starts_with("tick-") && job.ends_with("=1"))
    });
}

fn forms_of_configuration(mesh: &Mesh) {
    let mut said = String::new();
    eventually("the pod has said all", || {
        said = mesh.kubectl(&["logs", "-n", "shop", "forms", "-c", "forms"]);
        said.contains("done")
    });
    let expected = [
        "plain=plain composed=plain-$(kept)",
        "color=green password=xyzzy prefixed=large key=xyzzy",
        "name=forms cpus=2",
        "mapped=green secret=xyzzy",
        "projected=green labels=app=\"forms\" token=ey",
        "note=written by the first in /shared",
        "done",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let beside = mesh.run(HEDDLE, &["exec", "-n", "shop", "forms", "-c", "beside", "--", "cat", "/shared/note"]);
    assert_eq!(beside, "written by the first\n", "containers of a pod share its volumes");
}

/// The pods of a StatefulSet answer to names of their own below its headless Service.
fn stateful_pods_have_names(mesh: &Mesh) {
    for (name, pod) in [("db-0.db", "db-0"), ("db-1.db.shop.svc.cluster.local", "db-1")] {
        let url = format!("http://{name}:14001/ready");
        let curl = ["curl", "-s", "-D", "-", "-o", "/dev/null", "--max-time", "10", &url];
        let head = mesh.run(HEDDLE, &[&["exec", "-n", "shop", "forms", "--"], &curl[..]].concat());
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(&format!("identity: {pod}")), "{name}: {head}");
    }
}

fn stateful_pods_keep_what_they_claimed(mesh: &Mesh) {
    let shell = |script| mesh.command(HEDDLE, &["exec", "-n", "shop", "db-0", "--", "sh", "-c", script]).output();
    assert!(shell("echo kept > /data/file").expect("heddle runs").status.success());
    mesh.kubectl(&["delete", "pod", "-n", "shop", "db-0"]);
    // There is a time in which nobody has noticed yet that the pod is missing.
    let mut read = Vec::new();
    eventually("the pod runs again", || {
        let output = shell("cat /data/file").expect("heddle runs");
        read = output.stdout;
        output.status.success()
    });
    assert_eq!(String::from_utf8_lossy(&read), "kept\n");
}
