//! One container: started, watched, stopped, and started again as its restart policy says.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::action::{Action, Target};
use super::backoff::Backoff;
use super::context::Context;
use super::event::Kind;
use super::log::Log;
use super::prepare::{PrepareError, Prepared};
use super::probe::Probe;
use super::process::{Group, StartError, Started};
use super::state::{ContainerState, Phase, Terminated, Waiting};

/// What the pod tells its containers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// Stop, and be gone by then.
    pub stop: Option<Instant>,
    /// A container that was started under a smaller number is started again.
    pub generation: u64,
}

/// When a container that ended is started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Runs one container of a pod.
pub(super) struct Runner {
    pub pod: Arc<Context>,
    pub spec: core::Container,
    /// The container's path in the pod, such as `spec.containers[0]`.
    pub at: String,
    pub policy: RestartPolicy,
    pub control: watch::Receiver<Control>,
}

/// Why a running container is to end.
enum Cause {
    /// The pod is to end, by this time.
    Stop(Instant),
    /// The proxy beside it ended, so its connections are broken.
    Proxy,
    /// A probe or hook failed: the sentence for the event, and the time it gets.
    Unhealthy(String, Duration),
}

/// One run that came to its end.
struct Run {
    end: Terminated,
    lasted: Duration,
    /// It is started again whatever the policy says, and not held against it.
    renew: bool,
}

/// How long to wait before a container is tried again whose configuration is wrong or incomplete.
const RETRY: Duration = Duration::from_secs(2);
/// What a container gets to end in when the proxy beside it is gone.
const PROXY_GONE_GRACE: Duration = Duration::from_secs(2);
/// The exit code of a container whose command could not be run, as in Kubernetes.
const CANNOT_START: i32 = 128;
/// As much of a termination message as is kept, as in Kubernetes.
const MAX_MESSAGE: usize = 4096;

impl RestartPolicy {
    /// Of a pod's regular containers.
    pub(super) fn of(spec: &core::PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn restarts(self, code: i32) -> bool {
        self == Self::Always || self == Self::OnFailure && code != 0
    }
}

// === impl Runner ===

impl Runner {
    /// Runs the container until it is stopped or its policy lets it rest.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        while self.stopping().is_none() {
            let Some(run) = self.run_once().await else { return };
            let restarts = run.renew || self.policy.restarts(run.end.code);
            let delay = match (run.renew, restarts) {
                (false, true) => backoff.next(run.lasted),
                _ => Duration::ZERO,
            };
            let rests = !restarts || self.stopping().is_some();
            self.ended(run.end, delay, rests);
            if rests {
                self.close_log();
                return;
            }
            self.pause(delay).await;
            self.update(|state| state.restarts += 1);
        }
    }

    /// Starts the container and stays until its end; absent when it was stopped before it started.
    async fn run_once(&mut self) -> Option<Run> {
        let generation = self.control.borrow().generation;
        self.until_ready_to_start().await?;
        let prepared = self.prepare().await?;
        let begun = Instant::now();
        match self.start(&prepared).await {
            Ok((started, log)) => Some(self.watch(started, prepared, log, begun, generation).await),
            Err(error) => Some(Run { end: self.not_started(&error), lasted: begun.elapsed(), renew: false }),
        }
    }

    /// Waits until the pod's proxy, if it has one, is ready.
    async fn until_ready_to_start(&mut self) -> Option<()> {
        let pod = self.pod.clone();
        tokio::select! {
            () = pod.proxy_ready() => Some(()),
            () = stopped(&mut self.control) => None,
        }
    }

    /// What the container needs, as soon as all of it exists.
    async fn prepare(&mut self) -> Option<Prepared> {
        while self.stopping().is_none() {
            let error = match Prepared::new(&self.pod, &self.spec, &self.at).await {
                Ok(prepared) => return Some(prepared),
                Err(error) => error,
            };
            let reason = match &error {
                PrepareError::Config(_) => "CreateContainerConfigError",
                PrepareError::NoCommand => "NoCommand",
                PrepareError::Node(_) => "CreateContainerError",
            };
            let message = error.to_string();
            self.event(Kind::Warning, if reason == "NoCommand" { reason } else { "Failed" }, &message);
            self.update(|state| state.current = Phase::Waiting(Waiting::new(reason, message)));
            self.pause(RETRY).await;
        }
        None
    }

    async fn start(&self, prepared: &Prepared) -> Result<(Started, Log), StartError> {
        let run = self.state(|state| state.restarts).unwrap_or(0);
        let log = self.pod.log(&self.spec.name).map_err(StartError::Namespace)?;
        log.begin(u32::try_from(run).unwrap_or(0)).map_err(StartError::Namespace)?;
        let started = self.pod.start(&prepared.process, prepared.root.as_ref()).await?;
        for warning in &started.warnings {
            self.event(Kind::Warning, "NotIsolated", warning);
        }
        Ok((started, log))
    }

    fn not_started(&self, error: &StartError) -> Terminated {
        let message = error.to_string();
        self.event(Kind::Warning, "Failed", &format!("Error: {message}"));
        if let Ok(log) = self.pod.log(&self.spec.name) {
            log.note(&message);
        }
        let now = Timestamp::now();
        Terminated {
            code: CANNOT_START,
            signal: None,
            reason: "StartError".to_owned(),
            message: Some(message),
            started_at: None,
            finished_at: now,
            id: String::new(),
        }
    }

    /// Stays with a running container until it has ended, by itself or for a cause.
    async fn watch(&mut self, started: Started, prepared: Prepared, log: Log, begun: Instant, generation: u64) -> Run {
        let Started { mut child, group, .. } = started;
        let since = Timestamp::now();
        let id = format!("heddle://{}", uuid::Uuid::new_v4().simple());
        let copies = [
            child.stdout.take().map(|out| tokio::spawn(log.clone().copy("stdout", out))),
            child.stderr.take().map(|err| tokio::spawn(log.clone().copy("stderr", err))),
        ];
        self.event(Kind::Normal, "Started", &format!("Started container {}", self.spec.name));
        let target = prepared.target(&self.pod, group.leader());
        self.pod.set_live(&self.spec.name, Some(target.clone()));
        self.update(|state| {
            state.current = Phase::Running { since, id: id.clone() };
            (state.started, state.ready) = (false, false);
        });
        let mut control = self.control.clone();
        let (status, cause) = {
            let health = pin!(self.health(&target));
            tokio::select! {
                status = child.wait() => (status, None),
                cause = told(&mut control, generation) => (Ok(std::process::ExitStatus::default()), Some(cause)),
                cause = health => (Ok(std::process::ExitStatus::default()), Some(cause)),
            }
        };
        let renew = matches!(cause, Some(Cause::Proxy)) && self.policy != RestartPolicy::Never;
        let status = match cause {
            None => status,
            Some(cause) => self.end(&mut child, &group, &target, cause).await,
        };
        group.kill();
        self.pod.set_live(&self.spec.name, None);
        for copy in copies.into_iter().flatten() {
            // A process that left the container may hold the pipe; what it says is no longer of the container.
            tokio::time::timeout(Duration::from_secs(1), copy).await.ok();
        }
        let end = terminated(status, self.message(&prepared, &log), since, id);
        Run { end, lasted: begun.elapsed(), renew: renew && self.stopping().is_none() }
    }

    /// Ends a running container: the hook, SIGTERM, and SIGKILL when its time is over.
    async fn end(
        &self,
        child: &mut tokio::process::Child,
        group: &Group,
        target: &Target,
        cause: Cause,
    ) -> std::io::Result<std::process::ExitStatus> {
        let name = &self.spec.name;
        let (deadline, message) = match cause {
            Cause::Stop(deadline) => (deadline, format!("Stopping container {name}")),
            Cause::Proxy => {
                (Instant::now() + PROXY_GONE_GRACE, format!("Container {name} is restarted with its proxy"))
            }
            Cause::Unhealthy(why, grace) => {
                (Instant::now() + grace, format!("Container {name} {why}, will be restarted"))
            }
        };
        self.event(Kind::Normal, "Killing", &message);
        self.update(|state| state.ready = false);
        if let Some(hook) = self.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let hook = Action::of_hook(hook, &self.spec);
            let outcome = tokio::select! {
                biased;
                outcome = hook.run(target, left) => outcome,
                () = over(self.control.clone(), deadline) => Err("it took longer than the container may".to_owned()),
            };
            if let Err(error) = outcome {
                self.event(Kind::Warning, "FailedPreStopHook", &format!("PreStopHook failed: {error}"));
            }
        }
        group.signal(Signal::TERM);
        // As in Kubernetes a container has a moment to end even when the hook took all the time.
        let moment = tokio::time::sleep(Duration::from_millis(100));
        tokio::select! {
            status = child.wait() => return status,
            _ = async { tokio::join!(moment, over(self.control.clone(), deadline)) } => {}
        }
        group.kill();
        child.wait().await
    }

    /// The hook after the start, then the probes; ends when the container is to be killed.
    async fn health(&self, target: &Target) -> Cause {
        let grace = self.pod.grace();
        if let Some(hook) = self.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref())
            && let Err(error) = Action::of_hook(hook, &self.spec).run(target, Duration::from_secs(600)).await
        {
            self.event(Kind::Warning, "FailedPostStartHook", &format!("PostStartHook failed: {error}"));
            return Cause::Unhealthy("failed its postStart hook".to_owned(), grace);
        }
        if let Some(startup) = &self.spec.startup_probe
            && let Some(cause) = self.startup(startup, target).await
        {
            return cause;
        }
        let without_probe = self.spec.readiness_probe.is_none();
        self.update(|state| (state.started, state.ready) = (true, without_probe));
        let readiness = async {
            if let Some(probe) = &self.spec.readiness_probe {
                let probe = Probe::new(probe, &self.spec);
                probe.watch(target, |outcome, tally| self.readiness(&outcome, tally.believed)).await;
            }
            std::future::pending::<Cause>().await
        };
        let liveness = async {
            match &self.spec.liveness_probe {
                Some(probe) => self.until_failed(probe, "Liveness", target).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            cause = liveness => cause,
            cause = readiness => cause,
        }
    }

    /// Waits for the startup probe; a cause when it failed.
    async fn startup(&self, probe: &core::Probe, target: &Target) -> Option<Cause> {
        let (done, mut outcome) = watch::channel(None);
        let watched = Probe::new(probe, &self.spec);
        let watching = watched.watch(target, |result, tally| {
            self.unhealthy("Startup", &result);
            done.send_replace(tally.believed);
        });
        tokio::select! {
            () = watching => None,
            believed = outcome.wait_for(Option::is_some) => {
                let failed = believed.ok().and_then(|believed| *believed) == Some(false);
                failed.then(|| Cause::Unhealthy("failed startup probe".to_owned(), self.grace_of(probe)))
            }
        }
    }

    async fn until_failed(&self, probe: &core::Probe, kind: &str, target: &Target) -> Cause {
        let (done, mut outcome) = watch::channel(None);
        let watched = Probe::new(probe, &self.spec);
        let watching = watched.watch(target, |result, tally| {
            self.unhealthy(kind, &result);
            done.send_replace(tally.believed);
        });
        tokio::select! {
            () = watching => {}
            _ = outcome.wait_for(|believed| *believed == Some(false)) => {}
        }
        Cause::Unhealthy(format!("failed {} probe", kind.to_ascii_lowercase()), self.grace_of(probe))
    }

    fn readiness(&self, outcome: &Result<(), String>, believed: Option<bool>) {
        self.unhealthy("Readiness", outcome);
        let ready = believed.unwrap_or(false);
        if self.state(|state| state.ready) != Some(ready) {
            self.update(|state| state.ready = ready);
        }
    }

    fn unhealthy(&self, kind: &str, outcome: &Result<(), String>) {
        if let Err(why) = outcome {
            self.event(Kind::Warning, "Unhealthy", &format!("{kind} probe failed: {why}"));
        }
    }

    fn grace_of(&self, probe: &core::Probe) -> Duration {
        let own = probe.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        own.map_or_else(|| self.pod.grace(), Duration::from_secs)
    }

    /// Shows how the container ended, and what becomes of it.
    fn ended(&self, end: Terminated, delay: Duration, rests: bool) {
        let name = &self.spec.name;
        let back_off = format!("back-off {}s restarting failed container={name}", delay.as_secs());
        if !rests && !delay.is_zero() {
            self.event(Kind::Warning, "BackOff", &back_off);
        }
        self.update(|state| {
            (state.started, state.ready) = (false, false);
            if rests {
                state.current = Phase::Terminated(end);
                return;
            }
            let waiting = match (&end.message, delay.is_zero()) {
                (Some(message), _) if end.reason == "StartError" => Waiting::new("RunContainerError", message.clone()),
                (_, true) => Waiting { reason: "ContainerCreating", message: None },
                (_, false) => Waiting::new("CrashLoopBackOff", back_off),
            };
            state.current = Phase::Waiting(waiting);
            state.last = Some(end);
        });
    }

    /// What the container left as its last word: its message file, or its log's end when the pod asks for that.
    fn message(&self, prepared: &Prepared, log: &Log) -> Option<String> {
        let written =
            prepared.message_file.as_ref().and_then(|path: &PathBuf| std::fs::read(path).ok()).unwrap_or_default();
        let written = String::from_utf8_lossy(&written[..written.len().min(MAX_MESSAGE)]).into_owned();
        let by_log = self.spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        match written.is_empty() {
            false => Some(written),
            true if by_log => Some(log.tail(MAX_MESSAGE / 2)).filter(|tail| !tail.is_empty()),
            true => None,
        }
    }

    fn close_log(&self) {
        if let Ok(log) = self.pod.log(&self.spec.name) {
            log.close();
        }
    }

    fn stopping(&self) -> Option<Instant> {
        self.control.borrow().stop
    }

    /// Sleeps, but not longer than until the container is to stop.
    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&mut self.control) => {}
        }
    }

    fn event(&self, kind: Kind, reason: &str, message: &str) {
        self.pod.event(Some(&self.spec.name), kind, reason, message);
    }

    fn update(&self, change: impl FnOnce(&mut ContainerState)) {
        self.pod.state.send_modify(|state| {
            if let Some(container) = state.container_mut(&self.spec.name) {
                change(container);
            }
        });
    }

    fn state<T>(&self, read: impl FnOnce(&ContainerState) -> T) -> Option<T> {
        self.pod.state.borrow().container(&self.spec.name).map(read)
    }
}

async fn stopped(control: &mut watch::Receiver<Control>) {
    if control.wait_for(|control| control.stop.is_some()).await.is_err() {
        std::future::pending().await
    }
}

/// Waits for the deadline, or for an earlier one that the pod tells meanwhile.
async fn over(mut control: watch::Receiver<Control>, deadline: Instant) {
    let mut deadline = deadline;
    loop {
        let sooner = control.wait_for(|control| control.stop.is_some_and(|stop| stop < deadline));
        let told = tokio::time::timeout_at(deadline, sooner).await.map(|told| told.ok().and_then(|told| told.stop));
        match told {
            Ok(Some(stop)) => deadline = stop,
            // Nobody is left to tell.
            Ok(None) => return tokio::time::sleep_until(deadline).await,
            Err(_) => return,
        }
    }
}

/// Waits until the pod tells a container of this generation to end.
async fn told(control: &mut watch::Receiver<Control>, generation: u64) -> Cause {
    let told = control.wait_for(|control| control.stop.is_some() || control.generation > generation).await;
    match told.map(|control| control.stop) {
        Ok(Some(deadline)) => Cause::Stop(deadline),
        Ok(None) => Cause::Proxy,
        // The pod is gone without a word; so is the time to end in.
        Err(_) => Cause::Stop(Instant::now()),
    }
}

fn terminated(
    status: std::io::Result<std::process::ExitStatus>,
    message: Option<String>,
    since: Timestamp,
    id: String,
) -> Terminated {
    use std::os::unix::process::ExitStatusExt;
    let (code, signal) = match &status {
        Ok(status) => (status.code(), status.signal()),
        Err(_) => (Some(255), None),
    };
    let code = code.or(signal.map(|signal| 128 + signal)).unwrap_or(255);
    Terminated {
        code,
        signal,
        reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
        message,
        started_at: Some(since),
        finished_at: Timestamp::now(),
        id,
    }
}
