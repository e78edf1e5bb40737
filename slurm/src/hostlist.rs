//! Hostlist expressions such as `n[01-03,10],login1` (scontrol(1), `HOSTLIST EXPRESSIONS`).
//!
//! ```text
//! list  := item ("," item)*
//! item  := (text | "[" range ("," range)* "]")+
//! range := digits ["-" digits]
//! ```
//!
//! Order, duplicates and zero padding are kept, because the list is paired with the counts of tasks per
//! node. Several brackets make a product, the leftmost slowest. Text after a bracket is accepted
//! although Slurm 22.05 refuses it: newer releases do not.

use std::fmt::Write as _;

/// The most hosts one expression may stand for; a longer list is a mistake, not a machine.
pub const MAX_HOSTS: usize = 1 << 17;

/// Why a hostlist expression is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostlistError {
    /// Something else stands where the grammar wants a certain thing.
    #[error("column {column} of '{expression}': expected {expected}")]
    Syntax {
        /// The whole expression.
        expression: String,
        /// Where, counted in characters from 1.
        column: usize,
        /// What the grammar wants there.
        expected: &'static str,
    },
    /// The expression stands for more than [`MAX_HOSTS`] hosts.
    #[error("'{expression}' stands for more than {MAX_HOSTS} hosts")]
    TooMany {
        /// The whole expression.
        expression: String,
    },
}

/// Expands a hostlist expression to host names, in its own order.
///
/// # Errors
/// [`HostlistError`] names the column and what was expected there.
pub fn parse_hostlist(expression: &str) -> Result<Vec<String>, HostlistError> {
    Parser { expression, rest: expression }.parse_list()
}

struct Parser<'a> {
    expression: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn parse_list(mut self) -> Result<Vec<String>, HostlistError> {
        let mut hosts = Vec::new();
        loop {
            let item = self.parse_item()?;
            if hosts.len() + item.len() > MAX_HOSTS {
                return Err(self.too_many());
            }
            hosts.extend(item);
            if self.rest.is_empty() {
                return Ok(hosts);
            }
            self.expect(',', "',' or the end")?;
        }
    }

    fn parse_item(&mut self) -> Result<Vec<String>, HostlistError> {
        let mut names = vec![String::new()];
        let start = self.rest;
        loop {
            let text = self.take_while(|c| !matches!(c, ',' | '[' | ']') && !c.is_whitespace());
            for name in &mut names {
                name.push_str(text);
            }
            if !self.rest.starts_with('[') {
                break;
            }
            let numbers = self.parse_bracket()?;
            if names.len().saturating_mul(numbers.len()) > MAX_HOSTS {
                return Err(self.too_many());
            }
            names = names.iter().flat_map(|name| numbers.iter().map(move |number| format!("{name}{number}"))).collect();
        }
        if start.len() == self.rest.len() {
            return Err(self.syntax("a host name"));
        }
        Ok(names)
    }

    fn parse_bracket(&mut self) -> Result<Vec<String>, HostlistError> {
        self.expect('[', "'['")?;
        let mut numbers = Vec::new();
        loop {
            self.parse_range(&mut numbers)?;
            if self.rest.starts_with(']') {
                self.expect(']', "']'")?;
                return Ok(numbers);
            }
            self.expect(',', "',', '-' or ']'")?;
        }
    }

    fn parse_range(&mut self, numbers: &mut Vec<String>) -> Result<(), HostlistError> {
        let (low_text, low) = self.parse_number()?;
        if !self.rest.starts_with('-') {
            numbers.push(low_text.to_owned());
            return Ok(());
        }
        self.expect('-', "'-'")?;
        let before_high = self.rest;
        let (_, high) = self.parse_number()?;
        if high < low {
            self.rest = before_high;
            return Err(self.syntax("a number not below the start of its range"));
        }
        let room = MAX_HOSTS.saturating_sub(numbers.len());
        if usize::try_from(high - low).map_or(true, |more| more >= room) {
            return Err(self.too_many());
        }
        let width = low_text.len();
        for number in low..=high {
            let mut text = String::with_capacity(width);
            let _ = write!(text, "{number:0width$}");
            numbers.push(text);
        }
        Ok(())
    }

    fn parse_number(&mut self) -> Result<(&'a str, u64), HostlistError> {
        let before = self.rest;
        let digits = self.take_while(|c| c.is_ascii_digit());
        if let Ok(number) = digits.parse() {
            return Ok((digits, number));
        }
        self.rest = before;
        Err(self.syntax("a number"))
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn expect(&mut self, wanted: char, expected: &'static str) -> Result<(), HostlistError> {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.syntax(expected)),
        }
    }

    fn syntax(&self, expected: &'static str) -> HostlistError {
        let read = &self.expression[..self.expression.len() - self.rest.len()];
        HostlistError::Syntax { expression: self.expression.to_owned(), column: read.chars().count() + 1, expected }
    }

    fn too_many(&self) -> HostlistError {
        HostlistError::TooMany { expression: self.expression.to_owned() }
    }
}
