//! Sessions: what somebody types at a shell and what he reads, in files that look like it.
//!
//! A line `$ COMMAND` must succeed, `! COMMAND` must fail, and a line that begins with `> ` goes on with either. With
//! `(1.20) ` or `(current) ` before it a command is for that kubectl alone. What follows are lines that the command
//! prints, on either output and in this order, though not all of them: any space is as good as another, and `*` stands
//! for any text. A line `~ TEXT` must not be printed. `#` begins a remark.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use regex::Regex;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// One command and what is expected of it.
#[derive(Default)]
struct Step {
    /// Where it is in the session, from 1.
    line: usize,
    /// The only kubectl it is for.
    only: Option<String>,
    command: String,
    fails: bool,
    expected: Vec<String>,
    unexpected: Vec<String>,
}

/// The shell in which commands run: its variables are those of `env`, its directory that of the fixtures.
pub(super) struct Shell<'a> {
    /// `1.20` or `current`.
    pub kubectl: &'a str,
    pub env: Vec<(&'static str, String)>,
    pub dir: &'a Path,
}

/// Runs a session to its end, or to the first command that does not do what is written.
pub(super) async fn run(session: &str, shell: &Shell<'_>) -> Result<(), String> {
    for step in steps(session) {
        if step.only.as_deref().is_none_or(|only| only == shell.kubectl) {
            step.run(shell).await.map_err(|why| format!("line {}: {}\n{why}", step.line, step.command))?;
        }
    }
    Ok(())
}

fn steps(session: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, line) in session.lines().enumerate() {
        let (only, rest) = match line.strip_prefix('(').and_then(|line| line.split_once(") ")) {
            Some((only, rest)) if rest.starts_with(['$', '!']) => (Some(only.to_owned()), rest),
            _ => (None, line),
        };
        let words = rest.get(2..).unwrap_or_default().to_owned();
        match (rest.get(..2), steps.last_mut()) {
            (Some("$ "), _) => steps.push(Step { line: index + 1, only, command: words, ..Step::default() }),
            (Some("! "), _) => {
                steps.push(Step { line: index + 1, only, command: words, fails: true, ..Step::default() });
            }
            (Some("> "), Some(step)) => step.command += &format!("\n{words}"),
            (Some("~ "), Some(step)) => step.unexpected.push(words),
            (_, Some(step)) if !line.is_empty() && !line.starts_with('#') => step.expected.push(line.to_owned()),
            _ => {}
        }
    }
    steps
}

impl Step {
    async fn run(&self, shell: &Shell<'_>) -> Result<(), String> {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{}", self.command)]);
        command.envs(shell.env.iter().cloned()).current_dir(shell.dir).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("bash starts");
        let (mut stdout, mut said) = (child.stdout.take().expect("it is piped"), Vec::new());
        let ending = async {
            stdout.read_to_end(&mut said).await.expect("its output");
            child.wait().await.expect("its end")
        };
        let status = tokio::time::timeout(PATIENCE, ending).await;
        let said = String::from_utf8_lossy(&said);
        let status = status.map_err(|_| format!("does not end\n{said}"))?;
        if status.success() == self.fails || status.signal().is_some() {
            return Err(format!("ended with {status}\n{said}"));
        }
        let lines: Vec<String> = said.lines().map(words).collect();
        let mut rest = lines.iter();
        for expected in &self.expected {
            let pattern = pattern(expected);
            if !rest.any(|line| pattern.is_match(line)) {
                return Err(format!("does not print: {expected}\n{said}"));
            }
        }
        let unexpected = self.unexpected.iter().find(|text| lines.iter().any(|line| pattern(text).is_match(line)));
        unexpected.map_or(Ok(()), |text| Err(format!("prints: {text}\n{said}")))
    }
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn pattern(text: &str) -> Regex {
    let text = regex::escape(&words(text)).replace("\\*", ".*");
    Regex::new(&format!("^{text}$")).expect("an escaped text is a pattern")
}

#[test]
fn a_session_is_read_as_it_is_written() {
    let session = "# remark\n$ a\nb * d\n\n(1.20) ! e\n> f\n~ g\n";
    let steps = steps(session);
    assert_eq!((steps[0].command.as_str(), steps[0].fails, steps[0].expected.len()), ("a", false, 1));
    assert_eq!((steps[1].command.as_str(), steps[1].only.as_deref()), ("e\nf", Some("1.20")));
    assert!(steps[1].fails && steps[1].unexpected == ["g"]);
    assert!(pattern("b * d").is_match(&words("b   c c\td")) && !pattern("b * d").is_match("b d e"));
}
