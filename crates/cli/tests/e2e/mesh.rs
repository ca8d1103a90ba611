//! A mesh for a test: started by `heddle up`, stopped when it is dropped.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

/// The machine has few cores: meshes do not run side by side.
static MACHINE: Mutex<()> = Mutex::new(());

pub(crate) const HEDDLE: &str = env!("CARGO_BIN_EXE_heddle");
const BOOKSTORE: &str = "../../examples/bookstore";
const SHOP: &str = "http://bookstore.bookstore:14001/books-bought";

/// Whether the machine has the programs that tests use as people do. Where one is missing this says so.
pub(crate) fn has_tools() -> bool {
    let missing = ["curl", "kubectl"].into_iter().find(|tool| Command::new(tool).arg("--help").output().is_err());
    let Some(missing) = missing else { return true };
    assert!(std::env::var_os("HEDDLE_REQUIRE_KUBECTL").is_none(), "{missing} is not there");
    eprintln!("not tested, as this machine has no {missing}");
    false
}

/// Waits until no other mesh runs.
pub(crate) fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Mesh {
    state: TempDir,
    /// Holds the program of a mesh that is another user's.
    _home: Option<TempDir>,
    _machine: MutexGuard<'static, ()>,
}

/// What `heddle demo load` counted.
#[derive(Debug)]
pub(crate) struct Tally(Value);

impl Mesh {
    /// Runs manifests; `None` where the machine gives no namespaces, or lacks a program that tests use.
    pub(crate) fn up(manifests: &str, options: &[&str]) -> Option<Self> {
        Self::start(manifests, &[&["--capture", "netns"], options].concat())
    }

    /// Runs the bookstore in the way that every machine permits.
    pub(crate) fn bookstore_without_namespaces() -> Option<Self> {
        Self::start("examples/bookstore", &["--capture", "env"])
    }

    /// Runs the bookstore as a user without rights, in the way that is found to be permitted.
    pub(crate) fn bookstore_of(uid: u32) -> Option<Self> {
        let (state, home) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
        for dir in [&state, &home] {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(uid)).expect("root gives it away");
        }
        // The directory of the build may be closed to others.
        let program = home.path().join("heddle");
        std::fs::copy(HEDDLE, &program).expect("the program is copied");
        let manifests = home.path().join("bookstore");
        std::fs::create_dir(&manifests).expect("a directory");
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(BOOKSTORE)).expect("the bookstore") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, manifests.join(path.file_name().expect("a name"))).expect("it is copied");
        }
        let mut command = Command::new(program);
        command.uid(uid).gid(uid).env("HOME", home.path()).current_dir(home.path());
        let mut mesh = Self::start_by(command, state, "bookstore", &[])?;
        mesh._home = Some(home);
        Some(mesh)
    }

    fn start(manifests: &str, options: &[&str]) -> Option<Self> {
        let mut command = Command::new(HEDDLE);
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        Self::start_by(command, TempDir::new().expect("a directory"), manifests, options)
    }

    fn start_by(mut command: Command, state: TempDir, manifests: &str, options: &[&str]) -> Option<Self> {
        if !has_tools() {
            return None;
        }
        let mesh = Self { state, _home: None, _machine: machine() };
        let output = command
            .args(["up", manifests, "--detach", "--timeout", "90s", "--state-dir"])
            .arg(mesh.state.path())
            .args(options)
            .output()
            .expect("heddle runs");
        let error = String::from_utf8_lossy(&output.stderr);
        if options.contains(&"netns") && error.contains("namespace") && !output.status.success() {
            assert!(std::env::var_os("HEDDLE_REQUIRE_NETNS").is_none(), "no network namespaces: {error}");
            eprintln!("not tested, as this machine gives no network namespaces: {error}");
            return None;
        }
        assert!(output.status.success(), "heddle up failed: {error}\n{}", mesh.node_log());
        eprintln!("{error}");
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

    /// Applies an object as `kubectl apply` does.
    pub(crate) fn apply(&self, object: &str) {
        let file = self.state.path().join("applied.json");
        std::fs::write(&file, object).expect("the state directory is ours");
        self.kubectl(&["apply", "-f", &file.display().to_string()]);
    }

    /// The status of a request for the count of books, made by `curl` as a workload; 000 when there was no answer.
    pub(crate) fn status_for(&self, workload: &str) -> String {
        let target = format!("deploy/{workload}");
        let curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", SHOP];
        let args = [&["exec", "-n", workload, &target, "--"], &curl[..]].concat();
        let output = self.command(HEDDLE, &args).output().expect("heddle runs");
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
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
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Answers { child, lines }
    }

    /// Sets the weights of the bookstore's backends: when that began, in microseconds since 1970.
    pub(crate) fn split(&self, weights: &[(&str, u64)]) -> u128 {
        let began = now();
        let backends: Vec<Value> = weights
            .iter()
            .map(|(service, weight)| serde_json::json!({ "service": service, "weight": weight }))
            .collect();
        let patch = serde_json::json!({ "spec": { "backends": backends } }).to_string();
        self.kubectl(&["patch", "trafficsplit", "-n", "bookstore", "bookstore", "--type", "merge", "-p", &patch]);
        began
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

/// Microseconds since 1970.
pub(crate) fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_micros()
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
            // A mesh that did not start answers nothing.
            let pods = self.command("kubectl", &["get", "pods", "-A"]).output();
            eprintln!("{}", pods.map(|pods| String::from_utf8_lossy(&pods.stdout).into_owned()).unwrap_or_default());
            eprintln!("{}", self.node_log());
        }
        let down = Command::new(HEDDLE).args(["down", "--state-dir"]).arg(self.state.path()).output();
        assert!(std::thread::panicking() || down.expect("heddle runs").status.success(), "heddle down");
    }
}

pub(crate) fn kill(pid: i32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Asks a process to end.
pub(crate) fn terminate(pid: i32) {
    signal(pid, rustix::process::Signal::TERM);
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("it is ours to signal");
}

/// Waits until `check` holds; a test that waits for more than 100 seconds has failed.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(100);
    while !check() {
        assert!(Instant::now() < end, "it never came to be that {what}");
        std::thread::sleep(Duration::from_millis(20));
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
        self.of_status(200)
    }

    pub(crate) fn of_status(&self, status: u16) -> u64 {
        self.0["statuses"][status.to_string()].as_u64().unwrap_or(0)
    }

    /// One of the percentiles `p50`, `p90` and `p99`, in milliseconds.
    pub(crate) fn latency_ms(&self, percentile: &str) -> f64 {
        self.0["latencyMs"][percentile].as_f64().expect("a percentile")
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
    lines: Receiver<String>,
}

impl Answers {
    /// Waits for an answer of `identity` that came after `since`: when it came. Both in microseconds since 1970.
    pub(crate) fn wait_for(&self, identity: &str, since: u128) -> u128 {
        self.wait_for_word(2, identity, since)
    }

    /// Waits for an answer with a status, in the same way.
    pub(crate) fn wait_for_status(&self, status: &str, since: u128) -> u128 {
        self.wait_for_word(1, status, since)
    }

    /// Waits until the line of a change has `word` at `index`.
    fn wait_for_word(&self, index: usize, word: &str, since: u128) -> u128 {
        let end = Instant::now() + Duration::from_secs(60);
        let mut last = String::new();
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            last = line.unwrap_or_else(|error| panic!("no answer was {word}, and the last was `{last}`: {error}"));
            let words: Vec<&str> = last.split_whitespace().collect();
            let came: u128 = words[0].parse().expect("a time");
            if came >= since && words.get(index) == Some(&word) {
                return came;
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
