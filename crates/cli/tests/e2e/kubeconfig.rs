//! Which Kubernetes API a command talks to, and what it says when that one is not there. Nothing is running.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::mesh::HEDDLE;

/// Port 1 is nobody's, and refuses.
const DEAD: &str = r#"{
    "apiVersion": "v1", "kind": "Config", "current-context": "dead",
    "clusters": [{"name": "dead", "cluster": {"server": "https://127.0.0.1:1"}}],
    "contexts": [{"name": "dead", "context": {"cluster": "dead", "user": "nobody"}}],
    "users": [{"name": "nobody", "user": {}}]
}"#;

fn write(directory: &Path, text: &str) -> String {
    let file = directory.join("config");
    std::fs::create_dir_all(directory).expect("a directory");
    std::fs::write(&file, text).expect("written");
    file.display().to_string()
}

/// What `heddle status` says of a mesh that it cannot talk to.
fn status(home: &Path, kubeconfig: Option<&str>) -> String {
    let mut command = Command::new(HEDDLE);
    command.arg("status").env_remove("KUBECONFIG").env("HOME", home);
    kubeconfig.map(|files| command.env("KUBECONFIG", files));
    let output = command.output().expect("heddle runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_file_that_led_to_no_api_is_named() {
    let home = TempDir::new().expect("a directory");
    let home = home.path();
    let said = status(home, None);
    assert!(said.contains("KUBECONFIG is not set") && !said.contains(".kube"), "{said}");

    let default = write(&home.join(".kube"), DEAD);
    let unanswered = format!("the Kubernetes API at https://127.0.0.1:1/, which {default} names, does not answer: ");
    for unset in [None, Some(""), Some(":")] {
        let said = status(home, unset);
        assert!(said.contains(&unanswered) && said.contains("KUBECONFIG is not set"), "{said}");
    }

    let other = write(&home.join("other"), DEAD);
    let said = status(home, Some(&other));
    assert!(said.contains(&format!("which KUBECONFIG={other} names, does not answer")), "{said}");
    let said = status(home, Some(&format!("{other}:{other}.old")));
    assert!(said.contains(&format!("KUBECONFIG names {other}.old, which does not exist")), "{said}");

    write(&home.join(".kube"), "what: ever\nclusters: 1\n");
    let said = status(home, None);
    assert!(said.contains(&format!("{default} is no kubeconfig: ")), "{said}");
}
