//! `heddle up --watch`: what is edited is applied, and a mistake changes nothing.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::mesh::{HEDDLE, eventually, has_tools, kill, machine};

const PATIENCE: Duration = Duration::from_secs(100);
const SETTINGS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  color: red\n";
const SLEEPER: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: sleeper\nspec:\n  terminationGracePeriodSeconds: 1\n  \
                       containers:\n    - name: main\n      image: example.com/any\n      command: [sleep, infinity]\n";

/// A `heddle up` in the foreground.
struct Up {
    child: Child,
    lines: Receiver<String>,
    kubeconfig: String,
}

impl Up {
    fn start(manifests: &Path, state: &Path) -> Self {
        let mut child = Command::new(HEDDLE)
            .arg("up")
            .arg(manifests)
            .args(["--watch", "--capture", "env", "--state-dir"])
            .arg(state)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("heddle runs");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut up = Self { child, lines, kubeconfig: String::new() };
        up.kubeconfig = up.wait_for("export KUBECONFIG=").trim_start_matches("export KUBECONFIG=").trim().to_owned();
        up
    }

    /// The next line that contains a text.
    fn wait_for(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("heddle up did not say {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn color(&self) -> String {
        let args = ["get", "configmap", "settings", "-o", "jsonpath={.data.color}", "--kubeconfig", &self.kubeconfig];
        let output = Command::new("kubectl").args(args).output().expect("kubectl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What it says on standard error until it ends, and how it ends.
    fn end(mut self) -> (String, Option<i32>) {
        let mut said = String::new();
        self.child.stderr.take().expect("its errors").read_to_string(&mut said).expect("UTF-8");
        (said, self.child.wait().expect("it ends").code())
    }

    /// Ctrl-C, and what `up` makes of it.
    fn interrupt(self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it is ours");
        let (said, code) = self.end();
        assert_eq!(code, Some(0), "Ctrl-C is a good end: {said}");
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The command lines that name a directory.
fn processes_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.map(|line| line.replace('\0', " ")).filter(|line| line.contains(&dir.display().to_string())).collect()
}

#[test]
fn an_edit_is_applied_and_a_mistake_leaves_the_last_good_manifests_in_force() {
    let _machine = machine();
    if !has_tools() {
        return;
    }
    let (manifests, state) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let beside = TempDir::new().expect("a directory");
    let (settings, sleeper) = (manifests.path().join("settings.yaml"), manifests.path().join("sleeper.yaml"));
    // At once, as editors do it: a file that is half written would be a manifest too.
    let write = |path: &Path, text: &str| {
        let new = beside.path().join("new.yaml");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, path).expect("renamed");
    };
    write(&settings, SETTINGS);
    write(&sleeper, SLEEPER);
    let up = Up::start(manifests.path(), state.path());
    up.wait_for("Ctrl-C");
    assert_eq!(up.color(), "red");

    write(&settings, &SETTINGS.replace("red", "green"));
    up.wait_for("applied ConfigMap settings");
    assert_eq!(up.color(), "green");

    write(&settings, &SETTINGS.replace("\ndata:", "\ndada:").replace("red", "blue"));
    up.wait_for("settings.yaml:5:1");
    up.wait_for("the last good manifests are in force");
    assert_eq!(up.color(), "green");

    write(&settings, &SETTINGS.replace("red", "blue"));
    up.wait_for("applied ConfigMap settings");
    assert_eq!(up.color(), "blue");

    std::fs::remove_file(&settings).expect("removed");
    up.wait_for("deleted ConfigMap settings");
    assert_eq!(up.color(), "");
    up.interrupt();
    assert_eq!(processes_of(state.path()), Vec::<String>::new(), "nothing stays");
}

#[test]
fn a_node_that_was_killed_ends_up_with_a_word_and_leaves_nothing() {
    let _machine = machine();
    let (manifests, state) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let limited = format!("{SLEEPER}      resources: {{limits: {{memory: 1Gi}}}}\n");
    std::fs::write(manifests.path().join("sleeper.yaml"), limited).expect("written");
    let up = Up::start(manifests.path(), state.path());
    up.wait_for("Ctrl-C");
    let node = std::fs::read_to_string(state.path().join("lock")).expect("the lock").trim().parse().expect("a number");
    kill(node);
    let (said, code) = up.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the node ended"), "{said}");
    assert!(said.contains("warning: Pod sleeper: spec.containers[0].resources.limits is not honoured"), "{said}");
    eventually("nothing stays", || processes_of(state.path()).is_empty());
}
