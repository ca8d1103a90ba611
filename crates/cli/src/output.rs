//! What commands print: text for people, JSON for programs.

use std::io::{self, IsTerminal, Write as _};

use clap::ValueEnum;
pub(crate) use heddle_traffic::text::table;

/// How data is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(format!("{}\n", serde_json::to_string_pretty(value)?).as_bytes())?;
    Ok(())
}

/// Writes to standard output; whether anybody reads on. Who has seen enough, as `head`, makes no error of it.
pub(crate) fn print(bytes: &[u8]) -> io::Result<bool> {
    let mut out = io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// Whether colors are for a terminal that somebody looks at, who did not set `NO_COLOR` (no-color.org).
pub(crate) fn is_colored(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A count and its noun: `1 problem`, `2 problems`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// An error as a reader wants it: each cause once, and what a Kubernetes API answered in its own words.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain() {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref() {
            said.push(status.message.clone());
            break;
        }
        let text = cause.to_string();
        // Many errors tell their cause in their own text.
        if !said.last().is_some_and(|last| last.contains(&text)) {
            said.push(text);
        }
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let error = anyhow::anyhow!("refused").context("cannot connect: refused").context("no answer");
        assert_eq!(explain(&error), "no answer: cannot connect: refused");
    }
}
