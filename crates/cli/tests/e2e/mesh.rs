//! A mesh for a test: started by `heddle up`, stopped when it is dropped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The machine has few cores: meshes do not run side by side.
static MACHINE: Mutex<()> = Mutex::new(());

pub(crate) const HEDDLE: &str = env!("CARGO_BIN_EXE_heddle");
const SHOP: &str = "http://bookstore.bookstore:14001/books-bought";

pub(crate) struct Mesh {
    state: TempDir,
    _machine: MutexGuard<'static, ()>,
}

/// What `heddle demo load` counted.
#[derive(Debug)]
pub(crate) struct Tally(Value);

impl Mesh {
    /// Runs manifests; `None` where the machine gives no namespaces.
    pub(crate) fn up(manifests: &str, options: &[&str]) -> Option<Self> {
        Self::start(manifests, &[&["--capture", "netns"], options].concat())
    }

    /// Runs the bookstore in the way that every machine permits.
    pub(crate) fn bookstore_without_namespaces() -> Self {
        Self::start("examples/bookstore", &["--capture", "env"]).expect("no namespaces are needed")
    }

    fn start(manifests: &str, options: &[&str]) -> Option<Self> {
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let state = TempDir::new().expect("a directory");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mesh = Self { state, _machine: machine };
        let output = Command::new(HEDDLE)
            .args(["up", manifests, "--detach", "--timeout", "90s", "--state-dir"])
            .arg(mesh.state.path())
            .args(options)
            .current_dir(root)
            .output()
            .expect("heddle runs");
        let error = String::from_utf8_lossy(&output.stderr);
        if options.contains(&"netns") && error.contains("namespace") && !output.status.success() {
            assert!(std::env::var_os("HEDDLE_REQUIRE_NETNS").is_none(), "no network namespaces: {error}");
            eprintln!("not tested, as this machine gives no network namespaces: {error}");
            return None;
        }
        assert!(output.status.success(), "heddle up failed: {error}\n{}", mesh.node_log());
        Some(mesh)
    }

    pub(crate) fn bookstore(options: &[&str]) -> Option<Self> {
        Self::up("examples/bookstore", options)
    }

    fn node_log(&self) -> String {
        std::fs::read_to_string(self.state.path().join("node.log")).unwrap_or_default()
    }

    /// A command that finds this mesh by KUBECONFIG.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("KUBECONFIG", self.state.path().join("kubeconfig"));
        command
    }

    /// Runs a command to its end, which must be a good one.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program, args).output().expect("the command runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {text}{error}");
        text
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.run("kubectl", args)
    }

    /// The status of a request for the count of books, made by `curl` as a workload.
    pub(crate) fn status_for(&self, workload: &str) -> String {
        let target = format!("deploy/{workload}");
        let curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", SHOP];
        self.run(HEDDLE, &[&["exec", "-n", workload, &target, "--"], &curl[..]].concat())
    }

    /// Starts a command as the buyer.
    pub(crate) fn start_as_buyer(&self, command: &[&str]) -> Child {
        let mut args = vec!["exec", "-n", "bookbuyer", "deploy/bookbuyer", "--", "heddle", "demo"];
        args.extend(command);
        self.command(HEDDLE, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("heddle exec runs")
    }

    pub(crate) fn start_load(&self, seconds: u64) -> Child {
        self.start_as_buyer(&["load", "--connections", "8", "--seconds", &seconds.to_string(), SHOP])
    }

    /// Sends so many requests as the buyer.
    pub(crate) fn load(&self, requests: u64) -> Tally {
        let requests = requests.to_string();
        Tally::of(self.start_as_buyer(&["load", "--connections", "8", "--requests", &requests, SHOP]))
    }

    /// The answers to the buyer, a line at each change: microseconds since 1970, status, who answered.
    pub(crate) fn watch_answers(&self) -> Answers {
        let mut child = self.start_as_buyer(&["watch", SHOP]);
        let output = child.stdout.take().expect("its output");
        Answers { child, lines: BufReader::new(output) }
    }

    /// Sets the weights of the bookstore's backends.
    pub(crate) fn split(&self, weights: &[(&str, u64)]) {
        let backends: Vec<Value> = weights
            .iter()
            .map(|(service, weight)| serde_json::json!({ "service": service, "weight": weight }))
            .collect();
        let patch = serde_json::json!({ "spec": { "backends": backends } }).to_string();
        self.kubectl(&["patch", "trafficsplit", "-n", "bookstore", "bookstore", "--type", "merge", "-p", &patch]);
    }

    /// The processes of the mesh whose command line contains `words`, one after the other.
    pub(crate) fn processes(&self, words: &[&str]) -> Vec<i32> {
        let lock = std::fs::read_to_string(self.state.path().join("lock")).expect("the lock");
        let root: i32 = lock.trim().parse().expect("a process id");
        let all: Vec<(i32, i32)> = processes().collect();
        let mut ours = vec![root];
        let mut at = 0;
        while let Some(&parent) = ours.get(at) {
            ours.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        let line = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let matches = |pid: &i32| {
            let line = String::from_utf8_lossy(&line(pid)).replace('\0', " ");
            words.iter().all(|word| line.contains(word))
        };
        ours.into_iter().filter(matches).collect()
    }
}

/// Every process of the machine with its parent.
fn processes() -> impl Iterator<Item = (i32, i32)> {
    std::fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.run("kubectl", &["get", "pods", "-A"]));
            eprintln!("{}", self.node_log());
        }
        let down = Command::new(HEDDLE).args(["down", "--state-dir"]).arg(self.state.path()).output();
        assert!(std::thread::panicking() || down.expect("heddle runs").status.success(), "heddle down");
    }
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours to kill");
}

/// Waits until `check` holds; a test that waits for more than a minute has failed.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !check() {
        assert!(Instant::now() < end, "it never came to be that {what}");
        std::thread::yield_now();
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn of(child: Child) -> Self {
        let output = child.wait_with_output().expect("the load ends");
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        Self(serde_json::from_str(&text).unwrap_or_else(|_| panic!("the load printed {text}{error}")))
    }

    pub(crate) fn answers_of(&self, identity: &str) -> u64 {
        self.0["identities"][identity].as_u64().unwrap_or(0)
    }

    pub(crate) fn successes(&self) -> u64 {
        self.0["statuses"]["200"].as_u64().unwrap_or(0)
    }

    /// Every request was answered, and with 200.
    pub(crate) fn assert_none_failed(&self) {
        let statuses = self.0["statuses"].as_object().expect("statuses");
        assert!(statuses.keys().all(|status| status == "200"), "{self:?}");
        assert!(self.0["errors"].as_object().expect("errors").is_empty(), "{self:?}");
        assert!(self.successes() > 0, "{self:?}");
    }
}

/// A running `heddle demo watch`.
pub(crate) struct Answers {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Answers {
    /// Waits for an answer of `identity`: when it came, in microseconds since 1970.
    pub(crate) fn wait_for(&mut self, identity: &str) -> u128 {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("its output") > 0, "the watch ended");
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.get(2) == Some(&identity) {
                return words[0].parse().expect("a time");
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
