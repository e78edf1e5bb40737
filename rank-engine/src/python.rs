//! Which Python the engines embed: found once, by rank 0, by asking the interpreter itself.

use serde::Deserialize;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Oldest CPython that the extension module works with.
const OLDEST: (u32, u32) = (3, 11);

/// Asked of the interpreter; prints one line of JSON.
const QUESTION: &str = include_str!("probe.py");

/// An interpreter that can be embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// Its program, absolute; names the virtual environment.
    pub(crate) executable: String,
    /// Its shared library, absolute.
    pub(crate) libpython: String,
    /// Full version, such as `3.11.7`.
    pub(crate) version: String,
}

/// Why no interpreter can be embedded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PythonError {
    #[error("no Python can be started as {program}: {source}; activate an environment or name one with --python")]
    NotStarted { program: String, source: io::Error },
    #[error("{program} does not answer as a Python interpreter does: {words}")]
    NoAnswer { program: String, words: String },
    #[error(
        "{program} is Python {version}, and engines need CPython 3.11 or newer: activate another environment or name one with --python"
    )]
    TooOld { program: String, version: String },
    #[error(
        "{program} is a free-threaded build of Python {version}, which engines cannot embed: use the ordinary build"
    )]
    FreeThreaded { program: String, version: String },
    #[error("{program} is {implementation}, and engines embed CPython only: name a CPython with --python")]
    NotCPython { program: String, implementation: String },
    #[error(
        "Python {version} at {program} has no shared library (libpython{minor}.so): install it (Debian: apt-get install libpython{minor}) or use a Python built with --enable-shared"
    )]
    NoLibrary { program: String, version: String, minor: String },
    #[error(
        "the pxcluster package is not installed for {program}: activate the environment that has it, or run `{program} -m pip install` of pxcluster there"
    )]
    NoPackage { program: String },
}

#[derive(Debug, Deserialize)]
struct Answer {
    executable: String,
    implementation: String,
    version: (u32, u32, u32),
    free_threaded: bool,
    libpython: Option<String>,
    package: bool,
}

/// A question under way: Python starts while MPI does.
pub(crate) struct Probe {
    program: OsString,
    child: io::Result<Child>,
}

impl Probe {
    /// Asks the interpreter that the user means: `chosen`, else the active environment's, else the one
    /// beside this program, else `python3` on `PATH`.
    pub(crate) fn spawn(chosen: Option<&Path>) -> Self {
        let program = chosen.map_or_else(active, |path| path.as_os_str().to_owned());
        let child = Command::new(&program)
            .args(["-c", QUESTION])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self { program, child }
    }

    /// Waits for the answer and judges it.
    pub(crate) fn wait(self) -> Result<Interpreter, PythonError> {
        let program = self.program.to_string_lossy().into_owned();
        let output = self.child.and_then(Child::wait_with_output);
        let output = output.map_err(|source| PythonError::NotStarted { program: program.clone(), source })?;
        let text = String::from_utf8_lossy(&output.stdout);
        judge(&program, text.lines().last().unwrap_or_default()).ok_or_else(|| {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.trim().lines().last().unwrap_or("it printed nothing").to_owned();
            PythonError::NoAnswer { program, words }
        })?
    }
}

/// The active environment's interpreter, else the one of the environment that this program is installed in.
pub(crate) fn active() -> OsString {
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os);
    let programs = environments.map(|prefix| PathBuf::from(prefix).join("bin/python"));
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("python"));
    let mut candidates = programs.chain(beside);
    candidates.find(|program| program.exists()).map_or_else(|| "python3".into(), PathBuf::into_os_string)
}

/// Judges an answer; `None` if it is none.
fn judge(program: &str, answer: &str) -> Option<Result<Interpreter, PythonError>> {
    let answer: Answer = serde_json::from_str(answer).ok()?;
    let (major, minor, micro) = answer.version;
    let (program, version) = (program.to_owned(), format!("{major}.{minor}.{micro}"));
    Some(if answer.implementation != "cpython" {
        Err(PythonError::NotCPython { program, implementation: answer.implementation })
    } else if (major, minor) < OLDEST {
        Err(PythonError::TooOld { program, version })
    } else if answer.free_threaded {
        Err(PythonError::FreeThreaded { program, version })
    } else if let Some(libpython) = answer.libpython {
        if answer.package {
            Ok(Interpreter { executable: answer.executable, libpython, version })
        } else {
            Err(PythonError::NoPackage { program })
        }
    } else {
        Err(PythonError::NoLibrary { program, version, minor: format!("{major}.{minor}") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: &str, free_threaded: bool, libpython: &str, package: bool) -> Result<Interpreter, PythonError> {
        let answer = format!(
            r#"{{"executable":"/v/bin/python","implementation":"cpython","version":[{version}],
                "free_threaded":{free_threaded},"libpython":{libpython},"package":{package}}}"#
        );
        judge("/v/bin/python", &answer).expect("is an answer")
    }

    #[test]
    fn what_cannot_be_embedded_is_named() {
        let good = answer("3,13,0", false, r#""/lib/libpython3.13.so""#, true).expect("can be embedded");
        assert_eq!(good.version, "3.13.0");
        let library = r#""/lib/libpython.so""#;
        assert!(matches!(answer("3,10,13", false, library, true), Err(PythonError::TooOld { .. })));
        assert!(matches!(answer("3,13,0", true, library, true), Err(PythonError::FreeThreaded { .. })));
        assert!(matches!(answer("3,12,1", false, "null", true), Err(PythonError::NoLibrary { .. })));
        assert!(matches!(answer("3,12,1", false, library, false), Err(PythonError::NoPackage { .. })));
        assert!(judge("x", "Segmentation fault").is_none());
    }
}
