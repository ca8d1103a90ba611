//! The logs of containers: one file for each run, lines in the format of the container runtime interface.
//!
//! `2025-01-01T00:00:00.000000000Z stdout F text`: the time, the stream, whether the line is whole (`F`) or goes on in
//! the next (`P`), and the text.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::watch;

/// A file is turned over at this size; one older part is kept.
const MAX_BYTES: u64 = 10 << 20;
/// A longer line is split.
const MAX_LINE: usize = 16 << 10;
/// Files of this many runs are kept: the current one and the previous.
const KEPT_RUNS: u32 = 2;

/// The log of one container of one pod.
#[derive(Clone, Debug)]
pub struct Log {
    directory: PathBuf,
    shared: Arc<Mutex<Current>>,
    /// Counts writes, so that followers wake.
    written: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Current {
    run: u32,
    file: Option<fs::File>,
    bytes: u64,
    /// No run is going on and none will follow.
    closed: bool,
}

/// What a reader wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Of the run before the current one.
    pub previous: bool,
    /// Go on until the container ends.
    pub follow: bool,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only lines from this time on.
    pub since: Option<Timestamp>,
    /// Stop after this many bytes.
    pub limit_bytes: Option<usize>,
}

// === impl Log ===

impl Log {
    /// A log in `directory`, which is made when it is missing. `run` numbers the first run.
    pub fn open(directory: PathBuf, run: u32) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        let shared = Arc::new(Mutex::new(Current { run, ..Current::default() }));
        Ok(Self { directory, shared, written: Arc::new(watch::Sender::new(0)) })
    }

    /// Begins the file of a run, and removes those that are too old.
    pub fn begin(&self, run: u32) -> io::Result<()> {
        let file = fs::OpenOptions::new().create(true).append(true).open(self.path(run))?;
        let bytes = file.metadata()?.len();
        *self.current() = Current { run, file: Some(file), bytes, closed: false };
        if let Some(old) = run.checked_sub(KEPT_RUNS) {
            for path in [self.path(old), turned_over(&self.path(old))] {
                fs::remove_file(path).ok();
            }
        }
        self.wake();
        Ok(())
    }

    /// Lets followers of the current run come to their end.
    pub fn close(&self) {
        self.current().closed = true;
        self.wake();
    }

    /// Copies what a process writes to the log until it closes its end.
    pub async fn copy(self, stream: &'static str, from: impl AsyncRead + Unpin) {
        let mut reader = BufReader::with_capacity(MAX_LINE, from);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = (&mut reader).take(MAX_LINE as u64);
            match limited.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => self.write(stream, &line),
            }
        }
    }

    /// Writes a line of the kubelet's own.
    pub fn note(&self, text: &str) {
        self.write("stderr", format!("{text}\n").as_bytes());
    }

    fn write(&self, stream: &str, line: &[u8]) {
        // What a process leaves unended as it closes the stream counts as a line.
        let tag = if line.len() == MAX_LINE && !line.ends_with(b"\n") { 'P' } else { 'F' };
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let mut entry = format!("{:.9} {stream} {tag} ", Timestamp::now()).into_bytes();
        entry.extend(text);
        entry.push(b'\n');
        let mut current = self.current();
        if current.bytes > MAX_BYTES {
            self.turn_over(&mut current);
        }
        let written = current.file.as_mut().map(|file| io::Write::write_all(file, &entry));
        if let Some(Err(error)) = written {
            tracing::warn!(%error, directory = %self.directory.display(), "a log line is lost");
        }
        current.bytes += entry.len() as u64;
        drop(current);
        self.wake();
    }

    fn turn_over(&self, current: &mut Current) {
        let path = self.path(current.run);
        let renamed = fs::rename(&path, turned_over(&path));
        let opened = renamed.and_then(|()| fs::OpenOptions::new().create(true).append(true).open(&path));
        match opened {
            Ok(file) => current.file = Some(file),
            Err(error) => tracing::warn!(%error, path = %path.display(), "a log grows beyond its size"),
        }
        current.bytes = 0;
    }

    /// The last lines of the current run as text, at most `bytes` long: what a container says as it dies.
    pub fn tail(&self, bytes: usize) -> String {
        let path = self.path(self.current().run);
        let content = fs::read(path).unwrap_or_default();
        let mut text = Vec::new();
        for line in content.split(|byte| *byte == b'\n').rev() {
            let Some(line) = Line::parse(line) else { continue };
            if text.len() + line.text.len() > bytes {
                break;
            }
            text.insert(0, String::from_utf8_lossy(line.text).into_owned());
        }
        text.join("\n")
    }

    /// The lines that are asked for, as they are, with their line ends.
    pub fn read(&self, selection: Selection) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>> {
        let run = self.current().run;
        let run = if selection.previous { run.checked_sub(1).ok_or(io::ErrorKind::NotFound)? } else { run };
        let path = self.path(run);
        if selection.previous && !path.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let old = fs::read(turned_over(&path)).unwrap_or_default();
        let content = [old, fs::read(&path).unwrap_or_default()].concat();
        let complete = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let offset =
            fs::metadata(&path).map_or(0, |found| found.len()).saturating_sub((content.len() - complete) as u64);
        let first = select(&content[..complete], &selection);
        let follow = selection.follow && !selection.previous;
        let left = selection.limit_bytes.unwrap_or(usize::MAX);
        let follower =
            follow.then(|| Follower { log: self.clone(), run, path, offset, selection, pending: Vec::new() });
        Ok(futures::stream::unfold((Some(first), follower, left), |(first, mut follower, left)| async move {
            let part = match first {
                _ if left == 0 => return None,
                Some(first) => Ok(first),
                None => follower.as_mut()?.next().await?,
            };
            let part = part.map(|part| part.slice(..part.len().min(left)));
            let left = left - part.as_ref().map_or(0, Bytes::len);
            Some((part, (None, follower, left)))
        }))
    }

    fn path(&self, run: u32) -> PathBuf {
        self.directory.join(format!("{run}.log"))
    }

    /// The lock is held for the time of a write, and nothing panics under it.
    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.written.send_modify(|count| *count += 1);
    }
}

fn turned_over(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

// === reading ===

struct Line<'a> {
    time: &'a str,
    whole: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let (_stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { time, whole: tag == b"F", text })
    }
}

/// The text of the selected lines of whole stored lines.
fn select(content: &[u8], selection: &Selection) -> Bytes {
    let mut lines: Vec<Line<'_>> = content.split(|byte| *byte == b'\n').filter_map(Line::parse).collect();
    if let Some(since) = selection.since {
        lines.retain(|line| line.time.parse::<Timestamp>().is_ok_and(|time| time >= since));
    }
    if let Some(tail) = selection.tail {
        let mut wanted = tail;
        let mut start = lines.len();
        while start > 0 && (!lines[start - 1].whole || wanted > 0) {
            wanted -= usize::from(lines[start - 1].whole).min(wanted);
            start -= 1;
        }
        lines.drain(..start);
    }
    let mut text = Vec::new();
    let mut continued = false;
    for line in lines {
        if selection.timestamps && !continued {
            text.extend(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend(line.text);
        text.extend(line.whole.then_some(b'\n'));
        continued = !line.whole;
    }
    text.into()
}

/// Reads what is written after the first look.
struct Follower {
    log: Log,
    run: u32,
    path: PathBuf,
    offset: u64,
    selection: Selection,
    pending: Vec<u8>,
}

impl Follower {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut written = self.log.written.subscribe();
        let selection = Selection { timestamps: self.selection.timestamps, ..Selection::default() };
        loop {
            written.borrow_and_update();
            let over = {
                let current = self.log.current();
                current.closed || current.run != self.run
            };
            if let Err(error) = self.read_on().await {
                return Some(Err(error));
            }
            let complete = self.pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            if complete > 0 {
                let lines: Vec<u8> = self.pending.drain(..complete).collect();
                return Some(Ok(select(&lines, &selection)));
            }
            if over || written.changed().await.is_err() {
                return None;
            }
        }
    }

    async fn read_on(&mut self) -> io::Result<()> {
        let mut file = match tokio::fs::File::open(&self.path).await {
            // The container has not started yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        if file.metadata().await?.len() < self.offset {
            // The file was turned over.
            self.offset = 0;
        }
        file.seek(io::SeekFrom::Start(self.offset)).await?;
        self.offset += file.take(1 << 20).read_to_end(&mut self.pending).await? as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    async fn text(log: &Log, selection: Selection) -> String {
        let parts: Vec<Bytes> = log.read(selection).unwrap().try_collect().await.unwrap();
        String::from_utf8(parts.concat()).unwrap()
    }

    #[tokio::test]
    async fn lines_are_kept_by_run_and_read_as_asked() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(directory.path().join("app"), 0).unwrap();
        log.begin(0).unwrap();
        log.clone().copy("stdout", &b"first run\n"[..]).await;
        log.begin(1).unwrap();
        log.clone().copy("stdout", &b"one\ntwo\nthree"[..]).await;
        assert_eq!(text(&log, Selection::default()).await, "one\ntwo\nthree\n");
        assert_eq!(text(&log, Selection { tail: Some(1), ..Selection::default() }).await, "three\n");
        assert_eq!(text(&log, Selection { previous: true, ..Selection::default() }).await, "first run\n");
        assert_eq!(text(&log, Selection { limit_bytes: Some(2), ..Selection::default() }).await, "on");
        let stamped = text(&log, Selection { timestamps: true, ..Selection::default() }).await;
        let time = stamped.split(' ').next().unwrap();
        assert!(time.parse::<Timestamp>().is_ok() && stamped.ends_with("three\n"), "{stamped}");
        assert_eq!(log.tail(4096), "one\ntwo\nthree");
    }

    #[tokio::test]
    async fn a_follower_sees_new_lines_until_the_container_ends() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(directory.path().join("app"), 0).unwrap();
        log.begin(0).unwrap();
        log.note("before");
        let reading = tokio::spawn({
            let log = log.clone();
            async move { text(&log, Selection { follow: true, ..Selection::default() }).await }
        });
        let limited = Selection { follow: true, limit_bytes: Some(3), ..Selection::default() };
        assert_eq!(text(&log, limited).await, "bef", "a limit ends it before");
        log.note("after");
        log.close();
        assert_eq!(reading.await.unwrap(), "before\nafter\n");
    }
}
