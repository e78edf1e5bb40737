//! mpirun: whether it is the rank program's, whether it starts processes, and whether others on `PATH` are in the way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::ask::{Ask, Unanswered, telling_line};
use super::finding::Finding;
use crate::mpirun::{self, MpirunError};
use crate::plan::{Flavour, Launch, Room, Starter, to_shell};
use crate::rank_program::{DESCRIBE, Description, Mpi};

const CHECK: &str = "mpirun";
const OTHERS: &str = "mpiruns on PATH";
const START: &str = "start of processes";
const NAME_ONE: &str = "name an mpirun with --mpirun or PXCLUSTER_MPIRUN";

/// The mpirun that `pxcluster start` would use.
pub(crate) struct Mpirun(Result<Usable, Unusable>);

struct Usable {
    path: PathBuf,
    flavour: Flavour,
    /// Whether the rank program has said which MPI it needs.
    is_matched: bool,
}

#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Mpirun(#[from] MpirunError),
    #[error("{} says nothing of its version: {reason}", mpirun.display())]
    Silent { mpirun: PathBuf, reason: Unanswered },
}

/// An mpirun on `PATH`, and whose it is, as far as it says so.
type Other = (PathBuf, Option<Flavour>);

impl Mpirun {
    pub(crate) fn find(ask: &Ask, wanted: Option<&Path>, description: Option<&Description>) -> Self {
        // Without a rank program nothing is known of the MPI, and any mpirun will do.
        let unknown = Description { mpi: Mpi::Other, library: String::new(), mpirun: None, python: None };
        let description = description.unwrap_or(&unknown);
        let found = mpirun::find(wanted, description, std::env::var_os("PATH").as_deref()).map_err(Unusable::from);
        Self(found.and_then(|path| {
            let output = match ask.program(Command::new(&path).arg("--version")) {
                Ok(output) => output,
                Err(Unanswered::NotRun(error)) => {
                    return Err(MpirunError::Run { mpirun: path, reason: error.to_string() }.into());
                }
                Err(reason) => return Err(Unusable::Silent { mpirun: path, reason }),
            };
            let flavour = mpirun::read_flavour(&path, description, &output)?;
            Ok(Usable { path, flavour, is_matched: description.mpi != Mpi::Other })
        }))
    }

    pub(crate) fn finding(&self) -> Finding {
        judge(&self.0)
    }

    /// Looks for mpiruns of another MPI: with one of those every process would be rank 0 of 1.
    pub(crate) fn others(&self, ask: &Ask) -> Option<Finding> {
        let usable = self.0.as_ref().ok()?;
        let others: Vec<Other> = on_path(&usable.path)
            .into_iter()
            .map(|path| {
                let output = ask.program(Command::new(&path).arg("--version")).ok();
                let flavour = output.and_then(|output| mpirun::parse_version(&String::from_utf8_lossy(&output.stdout)));
                (path, flavour)
            })
            .collect();
        Some(judge_others(usable, &others))
    }

    /// Starts two processes that end at once, with the flags of `pxcluster start`.
    pub(crate) fn start_two(&self, ask: &Ask, rank_program: Option<&Path>, room: Room) -> Option<Finding> {
        let usable = self.0.as_ref().ok()?;
        let launch = Launch {
            flavour: usable.flavour,
            starter: Starter::Mpirun(usable.path.clone()),
            rank_program: rank_program.unwrap_or(Path::new("true")).to_owned(),
            rank_args: rank_program.map(|_| DESCRIBE.into()).into_iter().collect(),
            engines: 1,
            room,
            as_root: nix::unistd::geteuid().is_root(),
            hostfile: None,
            spread: None,
            more: Vec::new(),
            binding_is_chosen: false,
            forward: Vec::new(),
        };
        let line = match launch.command_line() {
            Ok(line) => line,
            Err(error) => return Some(Finding::of_error(START, &error, NAME_ONE)),
        };
        let outcome = ask.program(Command::new(&line[0]).args(&line[1..]));
        Some(judge_start(&to_shell(&line), &outcome))
    }
}

/// Every `mpirun` and `mpiexec` on `PATH` but this one, each once however many names it has.
fn on_path(used: &Path) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut seen: BTreeSet<PathBuf> = used.canonicalize().into_iter().collect();
    std::env::split_paths(&path)
        .flat_map(|folder| ["mpirun", "mpiexec"].map(|name| folder.join(name)))
        .filter(|program| program.is_file())
        .filter(|program| program.canonicalize().is_ok_and(|real| seen.insert(real)))
        .collect()
}

fn judge(mpirun: &Result<Usable, Unusable>) -> Finding {
    match mpirun {
        Err(error) => Finding::of_error(CHECK, error, NAME_ONE),
        Ok(Usable { path, flavour, is_matched: true }) => {
            Finding::ok(CHECK, format!("{} is {flavour}'s, as pxcluster-rank needs it", path.display()))
        }
        Ok(Usable { path, flavour, .. }) => Finding::ok(CHECK, format!("{} is {flavour}'s", path.display())),
    }
}

fn judge_others(used: &Usable, others: &[Other]) -> Finding {
    let strange = others.iter().filter_map(|(path, flavour)| {
        let flavour = (*flavour)?;
        (used.is_matched && flavour != used.flavour).then(|| format!("{} is {flavour}'s", path.display()))
    });
    let strange: Vec<String> = strange.collect();
    if strange.is_empty() {
        return Finding::ok(OTHERS, format!("no mpirun on PATH belongs to another MPI than {}", used.flavour));
    }
    Finding::warning(
        OTHERS,
        format!("two MPIs are mixed on PATH: {}, but pxcluster needs {}'s", strange.join(", "), used.flavour),
        format!(
            "use `pxcluster start`, which takes the right one, write {} for mpirun, or put its directory first on PATH",
            used.path.display()
        ),
    )
}

fn judge_start(line: &str, outcome: &Result<Output, Unanswered>) -> Finding {
    match outcome {
        Ok(output) if output.status.success() => Finding::ok(START, format!("`{line}` starts two processes")),
        Ok(output) => Finding::problem(
            START,
            format!("`{line}` fails with {}, saying \"{}\"", output.status, telling_line(output)),
            "run that line by itself to see all that mpirun says, and set the MPI right",
        ),
        Err(reason @ Unanswered::Silent(_)) => Finding::problem(
            START,
            format!("`{line}` does not end: {reason}"),
            "run that line by itself; where it hangs, the usual causes are a host name that does not resolve, a \
             firewall between the hosts, or ssh that asks for a password",
        ),
        Err(reason) => Finding::problem(START, format!("`{line}`: {reason}"), NAME_ONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn used(is_matched: bool) -> Usable {
        Usable { path: "/m/bin/mpirun".into(), flavour: Flavour::OpenMpi, is_matched }
    }

    #[test]
    fn the_right_mpirun_is_well() {
        assert_eq!(
            judge(&Ok(used(true))).to_string(),
            "ok      /m/bin/mpirun is Open MPI's, as pxcluster-rank needs it"
        );
        assert_eq!(judge(&Ok(used(false))).to_string(), "ok      /m/bin/mpirun is Open MPI's");
    }

    #[test]
    fn every_useless_mpirun_has_a_mend() {
        let mpirun = PathBuf::from("/m");
        for (error, mend) in [
            (MpirunError::Missing.into(), "install one (on Debian `apt install"),
            (MpirunError::Run { mpirun: mpirun.clone(), reason: "no".into() }.into(), NAME_ONE),
            (MpirunError::Unknown { mpirun: mpirun.clone(), said: "1.0".into() }.into(), NAME_ONE),
            (
                MpirunError::OtherMpi { mpirun: mpirun.clone(), flavour: Flavour::Mpich, library: "Open MPI".into() }
                    .into(),
                "use the mpirun of that MPI",
            ),
            (Unusable::Silent { mpirun, reason: Unanswered::Silent(1.0) }, NAME_ONE),
        ] {
            let finding = judge(&Err(error));
            assert_eq!(finding.verdict, Verdict::Problem);
            assert!(finding.mend.as_ref().unwrap().starts_with(mend), "{finding}");
        }
    }

    #[test]
    fn only_another_mpi_is_in_the_way() {
        let same = (PathBuf::from("/a/mpirun"), Some(Flavour::OpenMpi));
        let dumb = (PathBuf::from("/b/mpirun"), None);
        let other = (PathBuf::from("/c/mpirun"), Some(Flavour::Mpich));
        assert_eq!(judge_others(&used(true), &[same.clone(), dumb]).verdict, Verdict::Ok);
        assert_eq!(judge_others(&used(false), std::slice::from_ref(&other)).verdict, Verdict::Ok);
        let mixed = judge_others(&used(true), &[same, other]);
        assert_eq!(mixed.verdict, Verdict::Warning);
        assert_eq!(mixed.found, "two MPIs are mixed on PATH: /c/mpirun is MPICH's, but pxcluster needs Open MPI's");
        assert!(mixed.mend.unwrap().contains("write /m/bin/mpirun for mpirun"));
    }

    #[test]
    fn a_start_is_judged_by_how_it_ends() {
        let ended = |code: i32, said: &str| {
            Ok(Output { status: ExitStatus::from_raw(code << 8), stdout: Vec::new(), stderr: said.into() })
        };
        let line = "mpirun -n 2 x";
        assert_eq!(judge_start(line, &ended(0, "")).to_string(), "ok      `mpirun -n 2 x` starts two processes");
        let failed = judge_start(line, &ended(1, "-----\nThere are not enough slots\n-----"));
        assert_eq!(failed.found, "`mpirun -n 2 x` fails with exit status: 1, saying \"There are not enough slots\"");
        assert_eq!(failed.verdict, Verdict::Problem);
        let silent = judge_start(line, &Err(Unanswered::Silent(20.0)));
        assert_eq!(silent.found, "`mpirun -n 2 x` does not end: it did not answer within 20 seconds");
        assert!(silent.mend.unwrap().starts_with("run that line by itself"));
    }
}
