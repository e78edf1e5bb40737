//! Starts that cannot succeed: one sentence with the reason and the mend, soon, and nothing is left.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod machine;

use std::fs;
use std::path::Path;
use std::process::Output;

use machine::{Machine, message};

/// What Open MPI prints on top of everything that fails on another host.
const PAGE: &str = "echo '-----'; echo 'ORTE was unable to reliably start one or more daemons.'; echo '-----'";

/// An mpirun whose ssh says this.
fn ssh_says(words: &str, end: &str) -> Machine {
    let machine = Machine::new(&format!("echo $$ > $PXCLUSTER_DIR/pid; echo '{words}' >&2\n{end}"));
    fs::write(machine.path("hosts"), "h9 slots=2\n").unwrap();
    machine
}

fn start_on_hosts(machine: &Machine) -> String {
    machine.fail(&format!("start --hostfile {}", machine.path("hosts").display()))
}

/// The same start inside a job of Slurm's, whose squeue answers with these lines of a shell.
fn start_in_a_job(machine: &Machine, squeue: &str, arguments: &str) -> Output {
    machine.program("bin/squeue", squeue);
    let job = [("SLURM_JOB_ID", "4711"), ("SLURM_JOB_NODELIST", "n1"), ("SLURM_TASKS_PER_NODE", "4")];
    machine.command(arguments).envs(job).output().unwrap()
}

#[test]
fn hostfiles_that_are_none() {
    let machine = Machine::new("");
    let fail = |text: Option<&str>| {
        if let Some(text) = text {
            fs::write(machine.path("hosts"), text).unwrap();
        }
        start_on_hosts(&machine)
    };
    let path = machine.path("hosts").display().to_string();
    assert_eq!(
        fail(None),
        "pxcluster: cannot read the hostfile ~/hosts: No such file or directory (os error 2); name a file with \
         --hostfile that has a host on each line"
    );
    let forms = "'host', 'host slots=4' or 'host slots=4 max_slots=8'";
    assert_eq!(
        fail(Some("# none yet\n\n")),
        format!("pxcluster: {path} names no host; expected a line such as {forms}")
    );
    assert_eq!(
        fail(Some("h1 slots=4\nh2 slot=4\n")),
        format!("pxcluster: {path}:2: 'slot' is no setting of a host; expected {forms}")
    );
}

#[test]
fn more_engines_than_hosts_have_room_for() {
    let machine = Machine::new("");
    fs::write(machine.path("hosts"), "h1 slots=2 max_slots=2\nh2 slots=2 max_slots=2\n").unwrap();
    let start = format!("start --hostfile {}", machine.path("hosts").display());
    let full = machine.fail(&format!("{start} -n 4"));
    assert!(full.ends_with("more than the 4 that max_slots allows in the hostfile; ask for fewer engines or raise it"));
    let few = machine.fail(&format!("{start} -n 7 --engines-per-node 3"));
    assert!(few.starts_with("pxcluster: 7 engines, at most 3 on each host, need 3 hosts, and there is room on 2: "));
}

#[test]
fn a_host_that_ssh_does_not_reach_is_named_first() {
    let end = format!("{PAGE}; exit 1");
    for (words, sentence) in [
        (
            "ssh: Could not resolve hostname h9: Name or service not known",
            "host h9 is not known here (ssh: Name or service not known); correct its name in the hostfile",
        ),
        (
            "ssh: connect to host h9 port 22: Connection refused",
            "ssh does not get to host h9, port 22 (Connection refused); start sshd there, or take the host out of the \
             hostfile",
        ),
        (
            "me@h9: Permission denied (publickey).",
            "ssh does not get in on host h9 without a password (publickey); `ssh-copy-id h9` lets it",
        ),
    ] {
        let machine = ssh_says(words, &end);
        let expected =
            format!("pxcluster: the cluster did not start: {sentence} (all that was printed is in ~/default/log)");
        assert_eq!(start_on_hosts(&machine), expected);
        assert!(machine.read("default/log").contains("ORTE was unable"));
    }
}

#[test]
fn an_mpirun_that_waits_for_a_host_for_ever_is_ended() {
    // As MPICH's does. The time-out of the start is 300 seconds, that of the test's mpirun longer.
    let machine = ssh_says("ssh: Could not resolve hostname h9: Name or service not known", "exec sleep 3000");
    let said = start_on_hosts(&machine);
    assert!(said.starts_with("pxcluster: the cluster did not start: host h9 is not known here"), "{said}");
    assert!(!Path::new("/proc").join(machine.read("pid").trim()).exists());
}

#[test]
fn a_job_that_is_over_is_told_of() {
    let sentence =
        "pxcluster: the cluster did not start: job 4711, which SLURM_JOB_ID names, is over; start from a job";
    let ends = Machine::new(&format!("{PAGE}; exit 1"));
    let waits = Machine::new("exec sleep 3000");
    for machine in [&ends, &waits] {
        let gone = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1";
        let said = message(&start_in_a_job(machine, gone, "start -n 2"), 1);
        assert!(said.starts_with(sentence), "{said}");
    }
    let unknown = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1";
    let said = message(&start_in_a_job(&ends, unknown, "start -n 2"), 1);
    assert!(said.contains("mpirun ended with exit status: 1; the end of its log"), "{said}");
    // Root may start in everybody's job.
    if !nix::unistd::geteuid().is_root() {
        let said = message(&start_in_a_job(&ends, "echo RUNNING 4294967294", "start -n 2"), 1);
        assert!(said.contains("is another user's"), "{said}");
    }
}

#[test]
fn srun_says_why_it_starts_nothing() {
    let machine = Machine::new("");
    let srun = |words: &str| machine.program("bin/srun", &format!("echo '{words}' >&2; exit 1"));
    let start = || message(&start_in_a_job(&machine, "echo RUNNING 0", "start -n 9 --launcher srun"), 1);
    srun("srun: error: Unable to create step for job 4711: More processors requested than permitted");
    assert!(start().contains("did not start: job 4711 has no room for so many ranks (srun: More processors "));
    srun("srun: error: Unable to confirm allocation for job 4711: Invalid job id specified");
    assert!(start().contains("did not start: job 4711, which SLURM_JOB_ID names, is over; "));
}

#[test]
fn variables_that_are_no_jobs() {
    let machine = Machine::new("");
    let output = machine.command("start").env("SLURM_JOB_ID", "4711").output().unwrap();
    assert!(message(&output, 1).contains("SLURM_JOB_NODELIST is not set although SLURM_JOB_ID is"));
}

#[test]
fn flags_that_make_no_sense() {
    let machine = Machine::new("");
    for (arguments, sentence) in [
        ("start --port 40100-40000", "expected a port such as 40000, a range such as 40000-40100"),
        ("start --launcher-args 'open", "a quote (') is missing at its end"),
        ("start --engines-per-node 0", "0 is not in 1..=100000"),
    ] {
        let said = message(&machine.run(arguments), 2);
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn the_plan_has_the_users_flags() {
    let machine = Machine::new("");
    fs::write(machine.path("hosts"), "h1\nh2\nh3\n").unwrap();
    let mut command = machine.command("start --dry-run --engines-per-node 2 --port 40000-40100 --no-bind --hostfile");
    let output = command.arg(machine.path("hosts")).args(["--launcher-args", "--mca btl 'tcp,self'"]).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.contains(" --bind-to none --host h1:3,h2:2,h3:2 -x PATH "), "{line}");
    assert!(line.contains(" --mca btl tcp,self -n 7 "), "{line}");
    assert!(line.ends_with(" --port 40000-40100 --no-bind\n"), "{line}");
    for (variable, bound) in
        [("OMPI_MCA_hwloc_base_binding_policy", "core"), ("PRTE_MCA_hwloc_default_binding_policy", "l3")]
    {
        let output = machine.command("start --dry-run").env(variable, bound).output().unwrap();
        assert!(!String::from_utf8_lossy(&output.stdout).contains("--bind-to"), "{output:?}");
    }
    assert!(machine.succeed("start --dry-run -n 1 --launcher-args --bind-to=core").contains(" --bind-to=core -n 2 "));
}
