//! `pxcluster doctor`, with programs of a few lines on `PATH`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A rank program built with Open MPI, of this program's version.
const RANK: &str = r#"
case "${1-}" in
--describe) echo '{"mpi":"openmpi","library":"Open MPI v4.1.4, Debian","mpicc":null,"mpirun":null,"python":"python3"}' ;;
--version) echo "pxcluster VERSION" ;;
esac
"#;

/// An mpirun that runs its program twice.
const MPIRUN: &str = r#"
[ "$1" = --version ] && echo "mpirun (Open MPI) 4.1.4" && exit
while [ "$1" != -n ]; do shift; done
shift 2
"$@" && "$@"
"#;

/// A Python that has everything.
const PYTHON: &str = r#"
cat <<END
{"executable":"/fake/python","implementation":"cpython","version":[3,12,1],"free_threaded":false,"libpython":"/l.so","package":true}
{"prefix":"/fake","pxcluster":{"version":"VERSION","failure":null},"IPython":"9","cloudpickle":"3","numpy":"2"}
END
"#;

struct Machine {
    directory: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.path("bin")).unwrap();
        fs::create_dir(machine.path("clusters")).unwrap();
        fs::set_permissions(machine.path("clusters"), fs::Permissions::from_mode(0o700)).unwrap();
        machine.program("pxcluster-rank", RANK);
        machine.program("mpirun", MPIRUN);
        machine.program("python3", PYTHON);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/bash\n{}", text.replace("VERSION", env!("CARGO_PKG_VERSION")))).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Only the fakes are on `PATH`, beside what they are written with.
    fn doctor(&self, arguments: &str) -> Command {
        for tool in ["cat", "sleep"] {
            let _already_there = std::os::unix::fs::symlink(format!("/bin/{tool}"), self.path("bin").join(tool));
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_pxcluster"));
        command
            .arg("doctor")
            .args(arguments.split_whitespace())
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.directory.path())
            .env("PXCLUSTER_DIR", self.path("clusters"))
            .env("PXCLUSTER_RANK_PROGRAM", self.path("bin/pxcluster-rank"));
        command
    }
}

/// The lines of a run that ends with a code.
fn lines(output: &Output, code: i32) -> Vec<String> {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

/// The lines that name no `ok`, and the summary.
fn bad(output: &Output, code: i32) -> Vec<String> {
    let mut lines = lines(output, code);
    lines.pop();
    lines.retain(|line| !line.starts_with("ok      "));
    lines
}

/// Those about what this machine has, and not about the fakes.
fn is_machines(line: &str) -> bool {
    ["/dev/shm", "open files", "processes and threads", "locked", "address space", "interface", "host"]
        .iter()
        .any(|word| line.contains(word))
}

#[test]
fn a_whole_installation_is_well() {
    let machine = Machine::new();
    let output = machine.doctor("").output().unwrap();
    let all = lines(&output, 0);
    let warnings: Vec<String> = bad(&output, 0).into_iter().filter(|line| !is_machines(line)).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    for said in [
        "works and was built with Open MPI v4.1.4",
        "is Open MPI's, as pxcluster-rank needs it",
        "no mpirun on PATH belongs to another MPI",
        "starts two processes",
        "engines run Python 3.12.1 at /fake/python, from /l.so",
        "is installed there, as this program",
        "engines have IPython 9, cloudpickle 3, numpy 2",
        "python3 on PATH is the engines' Python",
        "~/clusters is yours alone, on ",
        "connection files: no cluster has left one",
        "no Slurm here",
    ] {
        assert!(all.iter().any(|line| line.starts_with("ok      ") && line.contains(said)), "{said}: {all:#?}");
    }
    let summary = all.last().unwrap();
    assert!(summary.starts_with(&format!("{} checks, ", all.len() - 1)), "{summary}");
}

#[test]
fn programs_read_json() {
    let machine = Machine::new();
    fs::remove_file(machine.path("bin/pxcluster-rank")).unwrap();
    let output = machine.doctor("--json").output().unwrap();
    let findings: Vec<Value> = serde_json::from_str(&lines(&output, 1).join("\n")).unwrap();
    let rank = findings.iter().find(|finding| finding["check"] == "rank program").unwrap();
    assert_eq!(rank["verdict"], "problem");
    assert!(rank["found"].as_str().unwrap().ends_with("/bin/pxcluster-rank does not exist"), "{rank}");
    assert!(rank["mend"].as_str().unwrap().contains("set PXCLUSTER_RANK_PROGRAM"), "{rank}");
    assert!(findings.iter().any(|finding| finding["verdict"] == "ok" && finding["mend"].is_null()));
}

#[test]
fn another_mpi_is_noticed() {
    let machine = Machine::new();
    machine.program("mpiexec", "echo 'HYDRA build details:'");
    let mixed = bad(&machine.doctor("").output().unwrap(), 0);
    assert!(mixed[0].starts_with("warning two MPIs are mixed on PATH: "), "{mixed:?}");
    assert!(mixed[0].contains("/bin/mpiexec is MPICH's, but pxcluster needs Open MPI's: use `pxcluster start`"));

    let wrong = bad(&machine.doctor("--mpirun mpiexec").output().unwrap(), 1);
    assert!(wrong[0].starts_with("PROBLEM ") && wrong[0].contains("/bin/mpiexec is MPICH's, but this pxcluster"));
    assert!(wrong[0].contains(": use the mpirun of that MPI (--mpirun or PXCLUSTER_MPIRUN)"), "{wrong:?}");
}

#[test]
fn an_mpirun_that_starts_nothing_is_quoted() {
    let machine = Machine::new();
    let version = r#"[ "$1" = --version ] && echo "mpirun (Open MPI) 4.1.4" && exit"#;
    machine.program("mpirun", &format!("{version}\nprintf '%s\\n' ------ 'No slots.' ------ >&2; exit 1"));
    let failed = bad(&machine.doctor("").output().unwrap(), 1);
    assert!(
        failed[0].starts_with("PROBLEM `/") && failed[0].contains("pxcluster-rank --describe` fails"),
        "{failed:?}"
    );
    assert!(failed[0].contains(r#"fails with exit status: 1, saying "No slots.": run that line by itself"#));
}

#[test]
fn programs_that_say_nothing_keep_nobody_waiting() {
    let machine = Machine::new();
    for name in ["pxcluster-rank", "mpirun", "python3", "srun"] {
        machine.program(name, "exec sleep 600");
    }
    let output = machine.doctor("--timeout 0.3").env("SLURM_JOB_ID", "7").output().unwrap();
    let silent = bad(&output, 1);
    for said in [
        "pxcluster-rank does not work on this host: it did not answer within 0.3 seconds",
        "mpirun says nothing of its version: it did not answer within 0.3 seconds",
        "no Python can be started as python3: it did not answer within 0.3 seconds",
        "srun is there and knows no cluster (it did not answer within 0.3 seconds)",
        "SLURM_JOB_NODELIST is not set although SLURM_JOB_ID is",
    ] {
        assert!(silent.iter().any(|line| line.contains(said)), "{said}: {silent:#?}");
    }
}

#[test]
fn a_python_without_the_package_has_the_command_that_installs_it() {
    let machine = Machine::new();
    let answer = PYTHON
        .replace("true", "false")
        .replace(r#"{"version":"VERSION","failure":null}"#, r#"{"version":null,"failure":"ModuleNotFoundError"}"#);
    machine.program("bare", &answer);
    let bare = machine.path("bin/bare");
    for command in [machine.doctor(&format!("--python {}", bare.display())), {
        let mut command = machine.doctor("");
        command.env("PXCLUSTER_PYTHON", &bare);
        command
    }] {
        let mut command = command;
        let missing = bad(&command.output().unwrap(), 1);
        assert!(
            missing[0].starts_with("PROBLEM the pxcluster package is not installed for /fake/python: "),
            "{missing:?}"
        );
        assert!(missing[0].contains("`/fake/python -m pip install .`"), "{missing:?}");
    }
}

#[test]
fn the_directory_is_looked_at() {
    let machine = Machine::new();
    fs::write(machine.path("file"), "").unwrap();
    let unusable = bad(&machine.doctor("").env("PXCLUSTER_DIR", machine.path("file")).output().unwrap(), 1);
    assert_eq!(
        unusable[0],
        "PROBLEM clusters cannot keep their files in ~/file (Not a directory (os error 20)): set PXCLUSTER_DIR to a \
         directory of your own that all hosts share"
    );

    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let host = pxcluster_launcher::machine::host_name();
    let text = format!(
        r#"{{"protocol_version":1,"version":"0.1.0","cluster_id":"old","key":"00","certificate":"","addresses":[],
        "socket":"/none","host":"{host}","pid":{},"engines":4,"python":"3.11.7","slurm_job_id":null,"started":1}}"#,
        dead.id()
    );
    let connection = machine.path("clusters/old/connection.json");
    fs::create_dir(connection.parent().unwrap()).unwrap();
    fs::write(&connection, text).unwrap();
    fs::set_permissions(&connection, fs::Permissions::from_mode(0o600)).unwrap();
    let stale = bad(&machine.doctor("").output().unwrap(), 0);
    assert!(stale[0].starts_with("warning clusters that do not run any more have left connection files: old: "));
    assert!(stale[0].ends_with("`pxcluster stop --cluster-id old`"), "{stale:?}");
    assert!(connection.exists(), "nothing is changed");

    fs::set_permissions(&connection, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = bad(&machine.doctor("").output().unwrap(), 1);
    assert!(exposed[0].starts_with("PROBLEM ~/clusters/old/connection.json can be read by others"), "{exposed:?}");
    fs::set_permissions(machine.path("clusters"), fs::Permissions::from_mode(0o755)).unwrap();
    let open = bad(&machine.doctor("").output().unwrap(), 1);
    assert!(
        open[0].starts_with("warning others can see in ~/clusters which clusters you have: run `chmod 700"),
        "{open:?}"
    );
}

#[test]
fn srun_names_its_plugin() {
    let machine = Machine::new();
    machine.program("srun", r#"[ "$1" = --mpi=list ] && printf 'MPI plugin types are...\n\tnone\n\tpmix\n'"#);
    let job = [("SLURM_JOB_ID", "4"), ("SLURM_JOB_NODELIST", "h[1-3]"), ("SLURM_TASKS_PER_NODE", "4,2(x2)")];
    let all = lines(&machine.doctor("").envs(job).output().unwrap(), 0);
    let [allocation, srun] =
        ["Slurm job 4 with 8 slots on 3 hosts", "`srun --mpi=pmix pxcluster` for Open MPI; there is no"]
            .map(|said| all.iter().any(|line| line.contains(said)));
    assert!(allocation && srun, "{all:#?}");
}
