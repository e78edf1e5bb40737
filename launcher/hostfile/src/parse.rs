//! Both grammars, line by line.

use crate::{Grammar, Host};

/// Why a hostfile cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostfileError {
    /// A line is not of the grammar.
    #[error("{file}:{line}: {found}; expected {expected}")]
    Line {
        /// The file's name, as the caller gave it.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        found: String,
        /// What a right line looks like.
        expected: &'static str,
    },
    /// No line names a host.
    #[error("{file} names no host; expected a line such as {expected}")]
    Empty {
        /// The file's name, as the caller gave it.
        file: String,
        /// What a right line looks like.
        expected: &'static str,
    },
}

/// Reads a hostfile's text. `file` is only for messages. Hosts come in the order of their first line.
///
/// # Errors
/// [`HostfileError`] says file, line and what was expected.
pub fn parse_hostfile(grammar: Grammar, file: &str, text: &str) -> Result<Vec<Host>, HostfileError> {
    let mut hosts: Vec<Host> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let parsed = match grammar {
            Grammar::OpenMpi => parse_open_mpi(line),
            Grammar::Mpich => parse_mpich(line),
        };
        let host = parsed.map_err(|found| HostfileError::Line {
            file: file.to_owned(),
            line: index + 1,
            found,
            expected: grammar.example(),
        })?;
        match hosts.iter_mut().find(|known| known.name == host.name) {
            None => hosts.push(host),
            Some(known) => {
                known.slots = known.slots.saturating_add(host.slots);
                known.max_slots = match (known.max_slots, host.max_slots) {
                    (Some(one), Some(other)) => Some(one.saturating_add(other)),
                    (one, other) => one.or(other),
                };
            }
        }
    }
    if hosts.is_empty() {
        return Err(HostfileError::Empty { file: file.to_owned(), expected: grammar.example() });
    }
    Ok(hosts)
}

fn parse_open_mpi(line: &str) -> Result<Host, String> {
    // Spaces around '=' are allowed, so they are taken away before words are told apart.
    let mut line = line.to_owned();
    for spaced in [" =", "= ", "\t=", "=\t"] {
        while line.contains(spaced) {
            line = line.replace(spaced, "=");
        }
    }
    let mut words = line.split_whitespace();
    let name = parse_name(words.next().unwrap_or_default())?;
    let (mut slots, mut max_slots) = (None, None);
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("'{word}' is no setting"))?;
        let field = match key {
            "slots" => &mut slots,
            "max_slots" | "max-slots" => &mut max_slots,
            _ => return Err(format!("'{key}' is no setting of a host")),
        };
        if field.replace(parse_count(key, value)?).is_some() {
            return Err(format!("'{key}' is set twice"));
        }
    }
    let host = Host { name, slots: slots.unwrap_or(1), max_slots };
    match max_slots {
        Some(max) if max < host.slots => Err(format!("max_slots={max} is below slots={}", host.slots)),
        _ => Ok(host),
    }
}

fn parse_mpich(line: &str) -> Result<Host, String> {
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or_default();
    if let Some(word) = words.next() {
        return Err(format!("'{word}' is not expected after the host"));
    }
    let (name, slots) = match first.split_once(':') {
        None => (first, 1),
        Some((name, count)) => (name, parse_count("the number after ':'", count)?),
    };
    Ok(Host { name: parse_name(name)?, slots, max_slots: None })
}

fn parse_name(word: &str) -> Result<String, String> {
    let bare = word.rsplit('@').next().unwrap_or_default();
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !bare.is_empty() && bare.chars().all(plain) {
        Ok(word.to_owned())
    } else {
        Err(format!("'{word}' is no host name"))
    }
}

fn parse_count(what: &str, value: &str) -> Result<u32, String> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    match value.parse() {
        Ok(count) if digits && count > 0 => Ok(count),
        _ => Err(format!("{what} is '{value}', which is no count above 0")),
    }
}
