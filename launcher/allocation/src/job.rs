//! The variables and files of one process.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::AllocationError;
use crate::grammars::{Hosts, parse_number};

/// What a line of a file adds to the hosts, or what is wrong with it.
type ParseLine = fn(&str, &mut Hosts) -> Result<(), String>;

pub(crate) struct Job<R> {
    vars: BTreeMap<String, String>,
    read_file: R,
}

impl<R: Fn(&Path) -> io::Result<String>> Job<R> {
    /// An empty variable counts as one that is not set.
    pub(crate) fn new(vars: BTreeMap<String, String>, read_file: R) -> Self {
        Self { vars, read_file }
    }

    pub(crate) fn vars(&self) -> &BTreeMap<String, String> {
        &self.vars
    }

    pub(crate) fn get(&self, variable: &str) -> Option<&str> {
        self.vars.get(variable).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    pub(crate) fn has(&self, variable: &str) -> bool {
        self.get(variable).is_some()
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, variable: &'static str) -> Result<Option<T>, AllocationError> {
        let Some(value) = self.get(variable) else {
            return Ok(None);
        };
        parse_number(value).map(Some).ok_or_else(|| AllocationError::Variable {
            variable,
            value: value.to_owned(),
            found: "this is no number".to_owned(),
            expected: "digits alone",
        })
    }

    /// The hosts in the file that a variable names; `expected` is what a right line looks like.
    pub(crate) fn hosts_in_file(
        &self,
        variable: &'static str,
        job_variable: &'static str,
        parse_line: ParseLine,
        expected: &'static str,
    ) -> Result<Hosts, AllocationError> {
        let path = PathBuf::from(self.get(variable).ok_or(AllocationError::Missing { variable, job_variable })?);
        let text = (self.read_file)(&path).map_err(|error| AllocationError::File {
            variable,
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let mut hosts = Hosts::default();
        if add_lines(&text, variable, &path, parse_line, expected, &mut hosts)? {
            Ok(hosts)
        } else {
            Err(AllocationError::Empty { variable, path, expected })
        }
    }

    /// Adds what the file has that a variable names; a file that cannot be read has nothing.
    pub(crate) fn add_from_file(
        &self,
        variable: &'static str,
        parse_line: ParseLine,
        expected: &'static str,
        hosts: &mut Hosts,
    ) -> Result<(), AllocationError> {
        let Some(path) = self.get(variable).map(Path::new) else {
            return Ok(());
        };
        let Ok(text) = (self.read_file)(path) else {
            return Ok(());
        };
        add_lines(&text, variable, path, parse_line, expected, hosts).map(drop)
    }
}

/// Whether there was a line that is not empty.
fn add_lines(
    text: &str,
    variable: &'static str,
    path: &Path,
    parse_line: ParseLine,
    expected: &'static str,
    hosts: &mut Hosts,
) -> Result<bool, AllocationError> {
    let mut any = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        any = true;
        parse_line(line, hosts).map_err(|found| AllocationError::Line {
            variable,
            path: path.to_owned(),
            line: index + 1,
            found,
            expected,
        })?;
    }
    Ok(any)
}
