//! What a check has found, and how it is shown.

use std::error::Error;
use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A cluster starts, but something will be slow, or fail in some of its uses.
    Warning,
    /// No cluster starts, or not safely.
    Problem,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word or two; for programs that read the JSON.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub mend: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, found: impl AsRef<str>) -> Self {
        Self { check, verdict: Verdict::Ok, found: one_line(found.as_ref()), mend: None }
    }

    pub(crate) fn warning(check: &'static str, found: impl AsRef<str>, mend: impl AsRef<str>) -> Self {
        let (found, mend) = (one_line(found.as_ref()), Some(one_line(mend.as_ref())));
        Self { check, verdict: Verdict::Warning, found, mend }
    }

    pub(crate) fn problem(check: &'static str, found: impl AsRef<str>, mend: impl AsRef<str>) -> Self {
        Self { verdict: Verdict::Problem, ..Self::warning(check, found, mend) }
    }

    /// A problem in the words of the command that would meet it: errors end with the mend, after their last semicolon.
    pub(crate) fn of_error(check: &'static str, error: &dyn Error, otherwise: &str) -> Self {
        let text = error.to_string();
        let (found, mend) = text.rsplit_once("; ").unwrap_or((&text, otherwise));
        Self::problem(check, found, mend)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
        };
        write!(f, "{word:<8}{}", self.found)?;
        self.mend.as_ref().map_or(Ok(()), |mend| write!(f, ": {mend}"))
    }
}

/// What other programs have said may have any number of lines.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last line.
pub(crate) fn summary(findings: &[Finding]) -> String {
    let count = |verdict, noun| match findings.iter().filter(|finding| finding.verdict == verdict).count() {
        0 => None,
        1 => Some(format!("1 {noun}")),
        many => Some(format!("{many} {noun}s")),
    };
    let bad: Vec<String> =
        [count(Verdict::Problem, "problem"), count(Verdict::Warning, "warning")].into_iter().flatten().collect();
    match bad.as_slice() {
        [] => format!("{} checks, all is well", findings.len()),
        bad => format!("{} checks, {}", findings.len(), bad.join(", ")),
    }
}

/// A size as people write it: 64 MiB, 23.5 GiB.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1023.5 {
            let digits = usize::from(unit != "B" && value < 99.95 && value.fract() != 0.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_one_line() {
        assert_eq!(Finding::ok("x", "two\nlines").to_string(), "ok      two lines");
        assert_eq!(
            Finding::warning("x", "it is small", "make\tit larger").to_string(),
            "warning it is small: make it larger"
        );
        assert_eq!(Finding::problem("x", "none", "get one").to_string(), "PROBLEM none: get one");
    }

    #[test]
    fn the_summary_counts_what_is_bad() {
        let [ok, warning, problem] =
            [Finding::ok("x", "a"), Finding::warning("x", "b", "c"), Finding::problem("x", "d", "e")];
        assert_eq!(summary(&[ok.clone(), ok.clone()]), "2 checks, all is well");
        assert_eq!(summary(&[ok.clone(), warning.clone()]), "2 checks, 1 warning");
        assert_eq!(summary(&[ok, warning, problem.clone(), problem]), "4 checks, 2 problems, 1 warning");
    }

    #[test]
    fn errors_end_with_the_mend() {
        let split = |text: &str| {
            let error = std::io::Error::other(text.to_owned());
            let finding = Finding::of_error("x", &error, "look");
            (finding.found, finding.mend.unwrap())
        };
        assert_eq!(split("it is; not there; get it"), ("it is; not there".into(), "get it".into()));
        assert_eq!(split("it is not there"), ("it is not there".into(), "look".into()));
    }

    #[test]
    fn sizes_have_units() {
        for (bytes, shown) in [(0, "0 B"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"), (1 << 42, "4.0 TiB")] {
            assert_eq!(size(bytes), shown);
        }
    }
}
