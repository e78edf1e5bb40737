//! The program that each rank runs: without it, or without its MPI's libraries, nothing starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::ask::{Ask, Unanswered};
use super::finding::Finding;
use crate::rank_program::{self, DESCRIBE, Description, Mpi, RankProgramError};

const CHECK: &str = "rank program";
const REINSTALL: &str = "install all of pxcluster again with `pip install .`";

/// The rank program, if it works.
pub(crate) struct Rank(Result<Working, Broken>);

#[derive(Debug)]
struct Working {
    program: PathBuf,
    description: Description,
    /// What it prints as its version.
    version: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Program(#[from] RankProgramError),
    #[error("{} does not work on this host: {reason}", program.display())]
    Silent { program: PathBuf, reason: Unanswered },
}

impl Rank {
    pub(crate) fn find(ask: &Ask) -> Self {
        Self(rank_program::locate().map_err(Broken::from).and_then(|program| examine(ask, program)))
    }

    pub(crate) fn program(&self) -> Option<&Path> {
        self.0.as_ref().ok().map(|working| working.program.as_path())
    }

    pub(crate) fn description(&self) -> Option<&Description> {
        self.0.as_ref().ok().map(|working| &working.description)
    }

    pub(crate) fn mpi(&self) -> Mpi {
        self.description().map_or(Mpi::Other, |description| description.mpi)
    }

    pub(crate) fn finding(&self) -> Finding {
        judge(&self.0, env!("CARGO_PKG_VERSION"))
    }
}

fn examine(ask: &Ask, program: PathBuf) -> Result<Working, Broken> {
    let output = match ask.program(Command::new(&program).arg(DESCRIBE)) {
        Ok(output) => output,
        Err(Unanswered::NotRun(source)) => return Err(RankProgramError::Run { program, source }.into()),
        Err(reason) => return Err(Broken::Silent { program, reason }),
    };
    let description = rank_program::read_description(&program, &output)?;
    let output = ask.program(Command::new(&program).arg("--version")).ok();
    let version = output.and_then(|output| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.trim().strip_prefix("pxcluster ").map(str::to_owned)
    });
    Ok(Working { program, description, version })
}

fn judge(rank: &Result<Working, Broken>, own_version: &str) -> Finding {
    match rank {
        Err(error) => Finding::of_error(CHECK, error, REINSTALL),
        Ok(Working { program, version: Some(version), .. }) if version != own_version => Finding::warning(
            CHECK,
            format!("{} is of version {version}, this program of {own_version}", program.display()),
            format!("{REINSTALL}, or unset PXCLUSTER_RANK_PROGRAM if it is set"),
        ),
        Ok(Working { program, description, .. }) => {
            // Open MPI's has the package, date and revision behind the name and version.
            let library = description.library.split(',').next().unwrap_or_default();
            Finding::ok(CHECK, format!("{} works and was built with {}", program.display(), library.trim()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn working(version: &str) -> Working {
        let library = "Open MPI v4.1.4, package: Debian OpenMPI, May 26, 2022".to_owned();
        let description = Description { mpi: Mpi::OpenMpi, library, mpirun: None, python: None };
        Working { program: "/v/bin/pxcluster-rank".into(), description, version: Some(version.into()) }
    }

    #[test]
    fn a_rank_program_that_works_names_its_mpi() {
        let finding = judge(&Ok(working("1.2.3")), "1.2.3");
        assert_eq!(finding.to_string(), "ok      /v/bin/pxcluster-rank works and was built with Open MPI v4.1.4");
    }

    #[test]
    fn one_of_another_version_is_a_warning() {
        let finding = judge(&Ok(working("1.2.2")), "1.2.3").to_string();
        assert!(finding.starts_with("warning /v/bin/pxcluster-rank is of version 1.2.2, this program of 1.2.3: "));
    }

    #[test]
    fn one_that_does_not_work_is_a_problem_with_its_mend() {
        let program = PathBuf::from("/p");
        let missing = judge(&Err(RankProgramError::Missing(program.clone()).into()), "1");
        assert_eq!((missing.verdict, missing.found.as_str()), (Verdict::Problem, "/p does not exist"));
        assert!(missing.mend.unwrap().starts_with("install all of pxcluster"));
        let reason = "libmpi.so.40: no such file; sorry".to_owned();
        let broken = judge(&Err(RankProgramError::Broken { program: program.clone(), reason }.into()), "1");
        assert_eq!(broken.found, "/p does not work on this host: libmpi.so.40: no such file; sorry");
        let silent = judge(&Err(Broken::Silent { program, reason: Unanswered::Silent(2.0) }), "1");
        assert_eq!(silent.found, "/p does not work on this host: it did not answer within 2 seconds");
        assert_eq!(silent.mend.unwrap(), REINSTALL);
    }
}
