//! The state directory of `heddle up`: one mesh at a time, known by a lock that its process holds.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};

/// Where `up` and `down` look when they are not told.
pub(crate) fn default_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(|| PathBuf::from("/var/lib")).join("heddle")
}

/// A state directory and the file whose lock says that a mesh runs in it. The file holds the process's id.
pub(crate) struct StateDir {
    path: PathBuf,
    lock: File,
}

impl StateDir {
    /// Opens the directory, and makes it (0700) when it is missing.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the state directory {}", path.display()))?;
        let path =
            path.canonicalize().with_context(|| format!("cannot read the state directory {}", path.display()))?;
        let file = path.join("lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .with_context(|| format!("cannot open {}; choose another directory with --state-dir", file.display()))?;
        Ok(Self { path, lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    /// Takes the lock for a new mesh, in this process's name until [`StateDir::set_process`]. It is held for as long as
    /// a copy of the returned file is open in any process.
    pub(crate) fn lock(&self) -> anyhow::Result<&File> {
        if self.try_lock()? {
            self.set_process(std::process::id())?;
            return Ok(&self.lock);
        }
        let process = self.process().map(|pid| format!(" (process {})", pid.as_raw_nonzero())).unwrap_or_default();
        bail!(
            "a mesh is already running in {}{process}\n  stop it:          heddle down --state-dir {}\n  or run another:   heddle up --state-dir OTHER-DIR ...",
            self.path.display(),
            self.path.display()
        )
    }

    /// Writes down which process holds the lock.
    pub(crate) fn set_process(&self, pid: u32) -> anyhow::Result<()> {
        self.lock.set_len(0)?;
        (&self.lock).rewind()?;
        (&self.lock).write_all(pid.to_string().as_bytes())?;
        Ok(())
    }

    /// Takes away what leads to a mesh that has ended. Only for who holds the lock.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        // `up` writes it anew; one that is left leads to nobody.
        std::fs::remove_file(self.kubeconfig()).ok();
        Ok(self.lock.set_len(0)?)
    }

    /// Stops the mesh: asks its process to end, and after `patience` ends it. Whether there was one.
    pub(crate) fn stop(&self, patience: Duration) -> anyhow::Result<bool> {
        if self.try_lock()? {
            return Ok(false);
        }
        let pid = self.holder()?;
        rustix::process::kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop process {pid:?}"))?;
        if !self.wait_unlocked(patience)? {
            // Another than before when the mesh was about to start.
            let pid = self.holder()?;
            rustix::process::kill_process(pid, Signal::KILL)?;
            if !self.wait_unlocked(Duration::from_secs(10))? {
                bail!("process {} does not end", pid.as_raw_nonzero());
            }
        }
        self.forget()?;
        Ok(true)
    }

    /// The process that the file names, which must be one that holds the lock: an id that was left in the file may be
    /// anybody's by now.
    fn holder(&self) -> anyhow::Result<Pid> {
        let dir = self.path.display();
        let pid = self
            .process()
            .with_context(|| format!("a mesh runs in {dir}, but {dir}/lock does not name its process; try again"))?;
        if !self.is_open_in(pid)? {
            bail!(
                "a mesh runs in {dir}, but process {}, which {dir}/lock names, is not it; try again",
                pid.as_raw_nonzero()
            );
        }
        Ok(pid)
    }

    /// Whether a process has the lock's file open. One that may not be looked into is believed to.
    fn is_open_in(&self, pid: Pid) -> anyhow::Result<bool> {
        let own = self.lock.metadata()?;
        let same = |found: std::fs::Metadata| (found.dev(), found.ino()) == (own.dev(), own.ino());
        match std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) {
            Ok(open) => Ok(open.flatten().any(|entry| std::fs::metadata(entry.path()).is_ok_and(same))),
            Err(error) => Ok(error.kind() == std::io::ErrorKind::PermissionDenied),
        }
    }

    fn wait_unlocked(&self, patience: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if self.try_lock()? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    fn try_lock(&self) -> anyhow::Result<bool> {
        match rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error).context("cannot lock the state directory"),
        }
    }

    fn process(&self) -> Option<Pid> {
        let mut text = String::new();
        (&self.lock).rewind().ok()?;
        (&self.lock).read_to_string(&mut text).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_lock_is_in_the_name_of_who_took_it_and_of_nobody_afterwards() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(dir.path()).expect("a state directory");
        state.set_process(1).expect("an earlier run");
        state.lock().expect("free");
        assert_eq!(state.process(), Some(rustix::process::getpid()));
        state.forget().expect("forgotten");
        assert_eq!(state.process(), None);
    }

    #[test]
    fn a_process_that_does_not_hold_the_lock_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(dir.path()).expect("a state directory");
        state.lock().expect("free");
        // It ends with its input, which is this test's.
        let mut bystander = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a process");
        state.set_process(bystander.id()).expect("a stale id");
        let refused = StateDir::open(dir.path()).expect("the same").stop(Duration::ZERO).expect_err("refused");
        assert!(refused.to_string().contains("is not it"), "{refused}");
        drop(bystander.stdin.take());
        assert!(bystander.wait().expect("its end").success(), "it was killed");
    }
}
