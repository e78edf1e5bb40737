//! `pxcluster submit`: a batch job of Slurm's that has a cluster, for one program or until it is stopped.

mod wait;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pxcluster_protocol::connection::parse_cluster_id;

use crate::cli::{SubmitFlags, parse_seconds};
use crate::directory::{ClusterDirectory, DirectoryError, base};
use crate::env::is_manager_variable;
use crate::machine::variables;
use crate::plan::quoted;
use crate::start::{ready, watch_signals};

/// How long a cluster may take to be ready when its job runs, unless `--timeout` says else.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// Why no job was submitted, or its cluster is not ready.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a transparent variant; the others have their message")]
pub enum SubmitError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("{flag} {value}: {problem}")]
    Flag { flag: String, value: String, problem: String },
    #[error("{0} needs a value, as in `pxcluster submit -n 64 --time 1:00:00 -- script.py`")]
    NoValue(String),
    #[error("'{0}' is no flag: flags of sbatch come first, and the script stands behind `--`")]
    NoFlag(String),
    #[error("cannot find this program's own path ({0}); call it by its full path")]
    NoProgram(io::Error),
    #[error(
        "there is no sbatch on this host: submit from a login node of the Slurm cluster, or print the script with --print"
    )]
    NoSbatch,
    #[error("cannot run sbatch: {0}")]
    Sbatch(io::Error),
    #[error("sbatch refused the job: {0}")]
    Refused(String),
    #[error("sbatch said {0:?}, which is no job id; look at `squeue --me`")]
    NoJobId(String),
    #[error("cannot run squeue: {0}; the job is submitted, and `pxcluster list` shows when its cluster is ready")]
    Squeue(io::Error),
    #[error("--wait waits for a cluster, not for a script: leave out one of them")]
    WaitForScript,
    #[error(
        "job {id} stays in the queue ({state}): ipp.Client(cluster_id='{cluster_id}') connects to it when it runs, \
         `scancel {id}` takes it back"
    )]
    Left { id: String, cluster_id: String, state: String },
    #[error("job {id} ended before its cluster was ready; {log}")]
    Ended { id: String, log: String },
    #[error(
        "job {id} runs, but its cluster was not ready after {seconds} seconds; it goes on, `scancel {id}` ends it; {log}"
    )]
    TooSlow { id: String, seconds: f64, log: String },
}

/// What is to be submitted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Submission {
    engines: Option<u32>,
    cluster_id: Option<String>,
    python: Option<String>,
    /// Flags of the ranks, as they are given.
    rank_flags: Vec<String>,
    print: bool,
    /// Whether to wait until the cluster is ready.
    wait: bool,
    /// How long it may take once the job runs.
    timeout: Option<Duration>,
    /// Flags of sbatch, each with its value.
    directives: Vec<String>,
    /// What Python is to run; empty: the cluster waits for clients.
    script: Vec<String>,
}

/// Where the job runs, as its script has to say it again.
#[derive(Debug, Default)]
struct Environment {
    /// This program.
    program: PathBuf,
    /// `PXCLUSTER_DIR`, if it is set.
    directory: Option<PathBuf>,
    virtual_env: Option<String>,
    conda_prefix: Option<String>,
}

/// Submits the job, or shows its script; gives back what to print.
pub fn run(flags: &SubmitFlags) -> Result<String, SubmitError> {
    let words: Vec<String> = flags.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut submission = parse(&words)?;
    let directory = submission.cluster_id.as_deref().map(ClusterDirectory::locate).transpose()?;
    // The log of a cluster with a name is where `pxcluster logs` looks for it.
    let log = directory.as_ref().filter(|_| !submission.gives(["--output", "-o"])).map(ClusterDirectory::log_file);
    if let Some(log) = &log {
        submission.directives.push(format!("--output={}", shell_path(log)));
    }
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let script = script(
        &submission,
        &Environment {
            program: std::env::current_exe().map_err(SubmitError::NoProgram)?,
            directory: set("PXCLUSTER_DIR").map(|_| base()).transpose()?,
            virtual_env: set("VIRTUAL_ENV"),
            conda_prefix: set("CONDA_PREFIX"),
        },
    );
    if submission.print {
        return Ok(script.trim_end().to_owned());
    }
    let interrupted = watch_signals();
    directory.iter().try_for_each(ClusterDirectory::create)?;
    let job = submit(&script).inspect_err(|_| directory.iter().for_each(ClusterDirectory::remove_if_empty))?;
    let cluster_id = submission.cluster_id.unwrap_or_else(|| format!("job-{job}"));
    if submission.wait {
        let directory = ClusterDirectory::locate(&cluster_id)?;
        let timeout = submission.timeout.unwrap_or(READY_TIMEOUT);
        let connection = wait::Job { id: &job, directory: &directory, log, timeout }.wait(&interrupted)?;
        return Ok(ready(&connection, &directory));
    }
    Ok(format!(
        "pxcluster: job {job} is submitted; when it runs, `pxcluster list` shows cluster '{cluster_id}', and \
         ipp.Client(cluster_id='{cluster_id}') is its client"
    ))
}

impl Submission {
    /// Whether a flag of sbatch is given, by one of its names.
    fn gives(&self, names: [&str; 2]) -> bool {
        self.directives.iter().any(|directive| names.iter().any(|name| directive.starts_with(name)))
    }
}

/// Tells the flags of `submit` from those of sbatch, which it does not know.
fn parse(words: &[String]) -> Result<Submission, SubmitError> {
    let mut found = Submission::default();
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    found.script = words.iter().skip(end + 1).cloned().collect();
    let mut words = words[..end].iter().peekable();
    while let Some(word) = words.next() {
        let (name, joined) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ if word.starts_with("-n") && word.len() > 2 => ("-n", Some(word[2..].to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value =
            || joined.clone().or_else(|| words.next().cloned()).ok_or(SubmitError::NoValue(name.to_owned()));
        let wrong = |value: String, problem: String| SubmitError::Flag { flag: name.to_owned(), value, problem };
        match name {
            "--print" => found.print = true,
            "--no-nanny" | "--no-bind" => found.rank_flags.push(word.clone()),
            "--port" | "--interface" | "--advertise" | "--log" | "--hung-after" | "--grace" | "--lost-after"
            | "--engines-per-node" | "--launcher-args" => {
                let text = value()?;
                found.rank_flags.push(format!("{name}={}", quoted(&text)));
            }
            "--wait" => found.wait = true,
            "--timeout" => {
                let text = value()?;
                found.timeout = Some(parse_seconds(&text).map_err(|problem| wrong(text, problem))?);
            }
            "-n" | "--engines" => {
                let text = value()?;
                let number = text.parse().ok().filter(|number| (1..=100_000).contains(number));
                let problem = "expected a number of engines from 1 to 100000";
                found.engines = Some(number.ok_or_else(|| wrong(text, problem.to_owned()))?);
            }
            "--cluster-id" => {
                let text = value()?;
                found.cluster_id = Some(parse_cluster_id(&text).map_err(|error| wrong(text, error.to_string()))?);
            }
            "--python" => found.python = Some(value()?),
            _ if !name.starts_with('-') => return Err(SubmitError::NoFlag(word.clone())),
            _ => {
                let mut directive = joined.as_ref().map_or(word.clone(), |value| format!("{name}={}", quoted(value)));
                // What stands behind a flag and is none is its value.
                if joined.is_none()
                    && let Some(value) = words.next_if(|next| !next.starts_with('-'))
                {
                    let _ = write!(directive, " {}", quoted(value));
                }
                found.directives.push(directive);
            }
        }
    }
    if found.wait && !found.script.is_empty() {
        return Err(SubmitError::WaitForScript);
    }
    Ok(found)
}

/// The batch script.
fn script(submission: &Submission, environment: &Environment) -> String {
    let mut text = String::from("#!/bin/bash\n");
    let mut line = |words: &str| {
        let _ = writeln!(text, "{words}"); // a string takes everything
    };
    if !submission.gives(["--job-name", "-J"]) {
        line("#SBATCH --job-name=pxcluster");
    }
    if let Some(engines) = submission.engines {
        line(&format!("#SBATCH --ntasks={}", engines + 1)); // one is the controller
    }
    submission.directives.iter().for_each(|directive| line(&format!("#SBATCH {directive}")));
    line("set -euo pipefail");
    if let Some(prefix) = &environment.virtual_env {
        line(&format!(". {}", quoted(&format!("{prefix}/bin/activate"))));
    } else if let Some(prefix) = &environment.conda_prefix {
        line("eval \"$(conda shell.bash hook)\"");
        line(&format!("conda activate {}", quoted(prefix)));
    }
    if let Some(directory) = &environment.directory {
        line(&format!("export PXCLUSTER_DIR={}", shell_path(directory)));
    }
    let python = submission.python.as_ref().map_or_else(String::new, |path| format!(" --python {}", quoted(path)));
    let cluster_id = submission.cluster_id.as_deref().map_or("\"job-$SLURM_JOB_ID\"".to_owned(), quoted);
    let mut flags = format!("--cluster-id {cluster_id}{python}");
    for flag in &submission.rank_flags {
        let _ = write!(flags, " {flag}");
        // Every host has room for so many: without a number there would be as many on each.
        if let (true, Some(engines)) = (flag.starts_with("--engines-per-node="), submission.engines) {
            let _ = write!(flags, " -n {engines}");
        }
    }
    let program = shell_path(&environment.program);
    line(&if submission.script.is_empty() {
        format!("exec {program} start --foreground {flags}")
    } else {
        let words: Vec<String> = submission.script.iter().map(|word| quoted(word)).collect();
        format!("exec {program} run {flags} -- {}", words.join(" "))
    });
    text
}

fn shell_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Gives a script to sbatch; the job's id.
fn submit(script: &str) -> Result<String, SubmitError> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let inside_a_job = std::env::var_os("SLURM_JOB_ID").is_some();
    for (name, _) in variables().filter(|(name, _)| is_of_a_job(name, inside_a_job)) {
        command.env_remove(name);
    }
    let mut sbatch = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SubmitError::NoSbatch,
        _ => SubmitError::Sbatch(error),
    })?;
    if let Some(mut input) = sbatch.stdin.take() {
        let _refused_before = input.write_all(script.as_bytes()); // it then says why
    }
    let output = sbatch.wait_with_output().map_err(SubmitError::Sbatch)?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace("sbatch: error: ", "").replace('\n', "; ");
    if !output.status.success() {
        return Err(SubmitError::Refused(said(&output.stderr)));
    }
    job_id(&said(&output.stdout)).map(str::to_owned).ok_or_else(|| SubmitError::NoJobId(said(&output.stdout)))
}

/// The id in what `sbatch --parsable` prints: the id alone, or `id;cluster`.
fn job_id(said: &str) -> Option<&str> {
    let id = said.rsplit("; ").next()?.split(';').next()?;
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())).then_some(id)
}

/// Whether a variable is of the job that this program runs in, and none of the user's settings.
fn is_of_a_job(name: &str, inside_a_job: bool) -> bool {
    let slurms = name.starts_with("SLURM_") && name != "SLURM_CONF";
    is_manager_variable(name) || slurms || (inside_a_job && name.starts_with("SBATCH_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Submission, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).map_err(|error| error.to_string())
    }

    fn environment() -> Environment {
        Environment { program: "/v/bin/pxcluster".into(), ..Environment::default() }
    }

    #[test]
    fn flags_of_sbatch_are_kept_with_their_values() {
        let found = parsed("--time 1:00:00 -n 256 -p compute --exclusive --mem=4G -A x -- script.py -n 3").unwrap();
        assert_eq!(found.engines, Some(256));
        assert_eq!(found.directives, ["--time 1:00:00", "-p compute", "--exclusive", "--mem=4G", "-A x"]);
        assert_eq!(found.script, ["script.py", "-n", "3"]);
        let own = parsed("-n8 --cluster-id=mine --python /p --print --wait --timeout 2.5").unwrap();
        assert_eq!((own.wait, own.timeout), (true, Some(Duration::from_millis(2500))));
        assert_eq!(
            (own.engines, own.cluster_id.as_deref(), own.python.as_deref()),
            (Some(8), Some("mine"), Some("/p"))
        );
        assert!(own.print && own.directives.is_empty() && own.script.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (line, sentence) in [
            ("-n x", "-n x: expected a number of engines from 1 to 100000"),
            ("--engines=0", "--engines 0: expected a number of engines from 1 to 100000"),
            ("-n", "-n needs a value, as in `pxcluster submit -n 64 --time 1:00:00 -- script.py`"),
            ("--wait -- s.py", "--wait waits for a cluster, not for a script: leave out one of them"),
            ("script.py", "'script.py' is no flag: flags of sbatch come first, and the script stands behind `--`"),
        ] {
            assert_eq!(parsed(line), Err(sentence.to_owned()));
        }
        assert!(parsed("--cluster-id ../x").unwrap_err().starts_with("--cluster-id ../x: "));
    }

    #[test]
    fn the_script_says_all_that_the_job_needs() {
        let submission =
            parse(&["-n", "3", "-p", "compute", "--comment=by hand", "--", "s.py", "a'b"].map(str::to_owned)).unwrap();
        assert_eq!(
            script(&submission, &Environment { virtual_env: Some("/my env".to_owned()), ..environment() }),
            "#!/bin/bash\n\
             #SBATCH --job-name=pxcluster\n\
             #SBATCH --ntasks=4\n\
             #SBATCH -p compute\n\
             #SBATCH --comment='by hand'\n\
             set -euo pipefail\n\
             . '/my env/bin/activate'\n\
             exec /v/bin/pxcluster run --cluster-id \"job-$SLURM_JOB_ID\" -- s.py 'a'\\''b'\n"
        );
        let waiting = parsed("--ntasks 8 -J mine --cluster-id c --python /p --port 80 --no-nanny").unwrap();
        let conda = Environment { conda_prefix: Some("/c".to_owned()), directory: Some("/d".into()), ..environment() };
        assert_eq!(
            script(&waiting, &conda),
            "#!/bin/bash\n\
             #SBATCH --ntasks 8\n\
             #SBATCH -J mine\n\
             set -euo pipefail\n\
             eval \"$(conda shell.bash hook)\"\n\
             conda activate /c\n\
             export PXCLUSTER_DIR=/d\n\
             exec /v/bin/pxcluster start --foreground --cluster-id c --python /p --port=80 --no-nanny\n"
        );
    }

    #[test]
    fn job_ids_are_found_in_what_sbatch_prints() {
        for (said, id) in [
            ("17", Some("17")),
            ("17;main", Some("17")),
            ("a note of the site; 17", Some("17")),
            ("", None),
            ("no", None),
        ] {
            assert_eq!(job_id(said), id, "{said}");
        }
    }

    #[test]
    fn a_job_in_a_job_does_not_inherit_it() {
        for (name, inside, of_a_job) in [
            ("SLURM_JOB_ID", true, true),
            ("SLURM_CONF", true, false),
            ("PMIX_RANK", true, true),
            ("SBATCH_ACCOUNT", false, false),
            ("SBATCH_ACCOUNT", true, true),
            ("HOME", true, false),
        ] {
            assert_eq!(is_of_a_job(name, inside), of_a_job, "{name}");
        }
    }
}
