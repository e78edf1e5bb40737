//! The interpreter of the engines, which has to be one that can be embedded, and the one that clients are likely to run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;

use super::ask::{Ask, Unanswered};
use super::finding::{Finding, Verdict};
use crate::rank_program::Description;

const CHECK: &str = "interpreter";
const PACKAGE: &str = "package";
const PACKAGES: &str = "other packages";
const CLIENT: &str = "client";

/// Oldest CPython that engines embed.
const OLDEST: (u32, u32) = (3, 11);

/// What a rank asks of the interpreter, and what is asked here besides; each prints one line of JSON.
const QUESTION: &str = concat!(include_str!("../../../rank-engine/src/probe.py"), "\n", include_str!("packages.py"));

/// What the interpreter says of itself to a rank.
#[derive(Debug, Clone, Deserialize)]
struct Interpreter {
    executable: String,
    implementation: String,
    version: (u32, u32, u32),
    free_threaded: bool,
    libpython: Option<String>,
    package: bool,
}

/// What is installed there.
#[derive(Debug, Clone, Deserialize)]
struct Packages {
    prefix: PathBuf,
    pxcluster: Import,
    #[serde(rename = "IPython")]
    ipython: Option<String>,
    cloudpickle: Option<String>,
    numpy: Option<String>,
}

/// How the import of pxcluster went.
#[derive(Debug, Clone, Deserialize)]
struct Import {
    version: Option<String>,
    failure: Option<String>,
}

/// Why an interpreter cannot be asked.
#[derive(Debug, thiserror::Error)]
enum Dumb {
    #[error("no Python can be started as {program}: {reason}")]
    NotStarted { program: String, reason: Unanswered },
    #[error("{program} does not answer as a Python interpreter does: {words}")]
    NoAnswer { program: String, words: String },
}

type Told = (Interpreter, Packages);

/// Asks the engines' interpreter, which is the user's choice or what the rank program says, then the one on `PATH`.
pub(crate) fn examine(ask: &Ask, chosen: Option<&Path>, description: Option<&Description>) -> Vec<Finding> {
    let active = description.and_then(|description| description.python.as_deref());
    let program = chosen.or(active).unwrap_or(Path::new("python3"));
    let told = interrogate(ask, program);
    let first = judge_interpreter(&told);
    // What is installed for an interpreter that cannot be used does not matter.
    let Some(engines) = told.ok().filter(|_| first.verdict == Verdict::Ok) else { return vec![first] };
    let (interpreter, packages) = &engines;
    let mut findings = vec![first, judge_package(interpreter, packages, env!("CARGO_PKG_VERSION"))];
    if packages.pxcluster.version.is_some() {
        findings.push(judge_packages(interpreter, packages));
        let client = interrogate(ask, Path::new("python3"));
        findings.extend(client.ok().map(|client| judge_client(&engines, &client)));
    }
    findings
}

fn interrogate(ask: &Ask, program: &Path) -> Result<Told, Dumb> {
    let name = program.display().to_string();
    match ask.program(Command::new(program).args(["-c", QUESTION])) {
        Ok(output) => {
            parse_answers(&output).ok_or_else(|| Dumb::NoAnswer { words: last_words(&output), program: name })
        }
        Err(reason) => Err(Dumb::NotStarted { program: name, reason }),
    }
}

/// Reads the two last lines, because an interpreter may be a script that prints something first.
fn parse_answers(output: &Output) -> Option<Told> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines().rev();
    let packages = serde_json::from_str(lines.next()?).ok()?;
    Some((serde_json::from_str(lines.next()?).ok()?, packages))
}

/// Where Python says what was wrong.
fn last_words(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    words.trim().lines().last().unwrap_or("it printed nothing").to_owned()
}

fn judge_interpreter(told: &Result<Told, Dumb>) -> Finding {
    let another = "activate another environment or name one with --python";
    let interpreter = match told {
        Err(error) => return Finding::of_error(CHECK, error, another),
        Ok((interpreter, _)) => interpreter,
    };
    let Interpreter { executable, implementation, version: (major, minor, micro), .. } = interpreter;
    let name = format!("Python {major}.{minor}.{micro} at {executable}");
    if implementation != "cpython" {
        Finding::problem(CHECK, format!("{name} is {implementation}, and engines embed CPython only"), another)
    } else if (*major, *minor) < OLDEST {
        Finding::problem(CHECK, format!("{name} is too old, engines need CPython 3.11 or newer"), another)
    } else if interpreter.free_threaded {
        Finding::problem(CHECK, format!("{name} is a free-threaded build, which engines cannot embed"), another)
    } else if let Some(libpython) = &interpreter.libpython {
        Finding::ok(CHECK, format!("engines run {name}, from {libpython}"))
    } else {
        Finding::problem(
            CHECK,
            format!("{name} has no shared library (libpython{major}.{minor}.so)"),
            format!(
                "install it (Debian: apt-get install libpython{major}.{minor}) or use a Python built with \
                 --enable-shared"
            ),
        )
    }
}

fn judge_package(interpreter: &Interpreter, packages: &Packages, own_version: &str) -> Finding {
    let Interpreter { executable, package, .. } = interpreter;
    let install = format!("activate the environment that has it, or run `{executable} -m pip install .` in its source");
    match &packages.pxcluster {
        Import { version: Some(version), .. } if !package => Finding::problem(
            PACKAGE,
            format!("{executable} has pxcluster {version} for clients alone, without what engines need"),
            install,
        ),
        Import { version: Some(version), .. } if version != own_version => Finding::warning(
            PACKAGE,
            format!("{executable} has pxcluster {version}, and this program is of version {own_version}"),
            format!("install one version of both, with `{executable} -m pip install .` in its source"),
        ),
        Import { version: Some(version), .. } => {
            Finding::ok(PACKAGE, format!("pxcluster {version} is installed there, as this program"))
        }
        Import { failure: Some(failure), .. } if *package => {
            Finding::problem(PACKAGE, format!("pxcluster cannot be imported by {executable} ({failure})"), install)
        }
        _ => Finding::problem(PACKAGE, format!("the pxcluster package is not installed for {executable}"), install),
    }
}

/// What pxcluster depends on, and numpy, of which people ask the version.
fn judge_packages(interpreter: &Interpreter, packages: &Packages) -> Finding {
    let versions = [("IPython", &packages.ipython), ("cloudpickle", &packages.cloudpickle), ("numpy", &packages.numpy)];
    let word = |(name, version): &(&str, &Option<String>)| match version {
        Some(version) => format!("{name} {version}"),
        None => format!("no {name}"),
    };
    let found = format!("engines have {}", versions.iter().map(word).collect::<Vec<_>>().join(", "));
    let missing: Vec<&str> =
        versions[..2].iter().filter(|(_, version)| version.is_none()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        Finding::ok(PACKAGES, found)
    } else {
        let install = format!("run `{} -m pip install {}`", interpreter.executable, missing.join(" "));
        Finding::warning(PACKAGES, found, install)
    }
}

/// Functions are pickled by the client and run by engines, so that both must be of one minor version.
fn judge_client(engines: &Told, client: &Told) -> Finding {
    let ((engine, theirs), (python, packages)) = (engines, client);
    let (major, minor, micro) = python.version;
    let name = format!("python3 on PATH is Python {major}.{minor}.{micro} at {}", python.executable);
    if packages.prefix == theirs.prefix {
        return Finding::ok(CLIENT, "python3 on PATH is the engines' Python");
    }
    let Some(version) = &packages.pxcluster.version else {
        return Finding::ok(CLIENT, format!("{name} and has no pxcluster; clients are run by {}", engine.executable));
    };
    if (major, minor) != (engine.version.0, engine.version.1) {
        return Finding::warning(
            CLIENT,
            format!("{name}, whose clients cannot use engines of Python {}.{}", engine.version.0, engine.version.1),
            format!("run clients with {}, or start engines with --python {}", engine.executable, python.executable),
        );
    }
    match &theirs.pxcluster.version {
        Some(other) if other != version => Finding::warning(
            CLIENT,
            format!("{name} with pxcluster {version}, and engines have {other}"),
            format!("run clients with {}, or install one version in both", engine.executable),
        ),
        _ => Finding::ok(CLIENT, format!("{name} with pxcluster {version}, which engines' Python understands")),
    }
}

#[cfg(test)]
#[path = "python/tests.rs"]
mod tests;
