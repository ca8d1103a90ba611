//! The embedded API, its controllers and the kubelet through real `kubectl`s: the one on PATH and, where `KUBECTL_1_20`
//! names it, Debian's 1.20. What is done and what is to be seen is in `fixtures/kubectl/*.session`.

mod served;
mod session;

use std::path::{Path, PathBuf};

use served::Served;
use session::Shell;

/// The kubectls that are here, by the names that sessions know them by. Those that are not are named on stderr; CI sets
/// `HEDDLE_REQUIRE_KUBECTL`, and fails without them.
fn kubectls() -> Vec<(&'static str, PathBuf)> {
    let old = std::env::var_os("KUBECTL_1_20").map(PathBuf::from);
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let current = std::env::split_paths(&directories).map(|dir| dir.join("kubectl")).find(|path| path.exists());
    let wanted = [("1.20", old, "KUBECTL_1_20 names none"), ("current", current, "there is none on PATH")];
    let mut found = Vec::new();
    for (name, path, why) in wanted {
        match path.filter(|path| path.exists()) {
            Some(path) => found.push((name, path)),
            None => eprintln!("kubectl {name} is not tested: {why}"),
        }
    }
    assert!(found.len() == 2 || std::env::var_os("HEDDLE_REQUIRE_KUBECTL").is_none(), "both kubectls are required");
    found
}

/// Runs a session with every kubectl, each against a node of its own.
async fn holds(session: &str) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kubectl");
    let session = std::fs::read_to_string(fixtures.join(session).with_extension("session")).expect("a session");
    for (name, kubectl) in kubectls() {
        let served = Served::start().await;
        let dir = served.dir.path();
        let tools = dir.join("bin");
        std::fs::create_dir(&tools).expect("a directory");
        std::os::unix::fs::symlink(&kubectl, tools.join("kubectl")).expect("a link");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("a PATH"));
        let env = vec![
            ("PATH", path),
            ("HOME", dir.display().to_string()),
            ("TMP", dir.display().to_string()),
            ("KUBECONFIG", dir.join("kubeconfig").display().to_string()),
            ("API_PORT", served.address.port().to_string()),
            ("CRDS", Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds").display().to_string()),
        ];
        let outcome = session::run(&session, &Shell { kubectl: name, env, dir: &fixtures }).await;
        served.stop().await;
        if let Err(why) = outcome {
            panic!("kubectl {name}, {why}");
        }
    }
}

macro_rules! sessions {
    ($($test:ident: $file:literal,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            holds($file).await;
        })*
    };
}

sessions! {
    objects_are_shown_in_every_form: "reading",
    objects_are_changed_by_every_verb: "writing",
    what_is_not_valid_is_refused_with_the_field: "refusals",
    deletion_takes_or_leaves_what_an_object_owns: "deleting",
    rollouts_are_followed_undone_and_paused: "rollouts",
    pods_are_logged_entered_and_forwarded: "pods",
    the_api_tells_what_it_is: "discovery",
    custom_kinds_are_like_built_in_ones: "custom",
}
