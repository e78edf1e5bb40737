//! The program itself, with an mpirun and a rank program of a few lines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod machine;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use machine::{Machine, message};

/// An mpirun whose cluster is ready at once and stays.
const READY: &str = r#"
echo "$*" > "$PXCLUSTER_DIR/arguments"
env > "$PXCLUSTER_DIR/environment"
umask 077
cat > "$PXCLUSTER_DIR/default/new" <<END
{"protocol_version":1,"version":"0.1.0","cluster_id":"default","key":"00","certificate":"","addresses":[],
"socket":"/none","host":"$(uname -n)","pid":$$,"engines":4,"python":"3.11.7","slurm_job_id":null,"started":$(date +%s)}
END
mv "$PXCLUSTER_DIR/default/new" "$PXCLUSTER_DIR/default/connection.json"
exec -a pxcluster-rank sleep 100
"#;

impl Machine {
    /// Writes a connection file of `default` that names this process.
    fn connect(&self, host: &str, pid: u32) {
        let text = format!(
            r#"{{"protocol_version":1,"version":"0.1.0","cluster_id":"default","key":"00","certificate":"",
            "addresses":[],"socket":"/none","host":"{host}","pid":{pid},"engines":4,"python":"3.11.7",
            "slurm_job_id":null,"started":1}}"#
        );
        self.write_connection(&text, 0o600);
    }

    /// The same for a process of this host that has just started.
    fn connect_to_younger(&self, pid: u32) {
        self.connect(&host(), pid);
        self.write_connection(
            &self.read("default/connection.json").replace("\"started\":1", "\"started\":9e12"),
            0o600,
        );
    }

    fn write_connection(&self, text: &str, mode: u32) {
        let path = self.path("default/connection.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn host() -> String {
    pxcluster_launcher::machine::host_name()
}

fn sleeper(name: &str) -> Child {
    Command::new("bash").args(["-c", &format!("exec -a {name} sleep 100")]).stdin(Stdio::null()).spawn().unwrap()
}

/// A process id that nobody has.
fn dead_pid() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn a_rank_becomes_the_rank_program() {
    let machine = Machine::new("");
    let child =
        machine.command("--cluster-id x --unknown").env("PMI_RANK", "3").stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("rank {pid} of 3: --cluster-id x --unknown\n"));
}

#[test]
fn a_rank_without_its_program_says_what_to_do() {
    let machine = Machine::new("");
    fs::remove_file(machine.path("bin/pxcluster-rank")).unwrap();
    let output = machine.command("").env("OMPI_COMM_WORLD_RANK", "0").output().unwrap();
    let missing = machine.path("bin/pxcluster-rank");
    assert_eq!(
        message(&output, 1),
        format!(
            "pxcluster: cannot become an MPI rank: {} does not exist; install all of pxcluster with `pip install .`, \
             or set PXCLUSTER_RANK_PROGRAM",
            missing.display()
        )
    );
}

#[test]
fn neither_a_rank_nor_a_command_is_one_sentence() {
    let machine = Machine::new("");
    for batch_shell in ["", "0"] {
        let output = machine.command("").env("SLURM_PROCID", batch_shell).env("SLURM_JOB_ID", "7").output().unwrap();
        assert_eq!(
            message(&output, 2),
            "pxcluster: not started by mpirun or srun, and no command given: start a cluster with `pxcluster start \
             -n 4` or `mpirun -n 5 pxcluster`, or see `pxcluster --help`"
        );
    }
}

#[test]
fn a_cluster_starts_and_stops() {
    let machine = Machine::new(READY);
    assert_eq!(
        machine.succeed("start -n 4 --log debug"),
        "pxcluster: cluster 'default' is ready: 4 engines, connection file ~/default/connection.json\n"
    );
    let arguments = machine.read("arguments");
    assert!(arguments.contains(" -n 5 "), "{arguments}");
    assert!(arguments.ends_with("/bin/pxcluster-rank --cluster-id default --log debug\n"), "{arguments}");

    let running = machine.fail("start -n 4");
    assert!(running.starts_with("pxcluster: cluster 'default' is already running on host "), "{running}");
    let silent = machine.fail("status");
    assert!(silent.starts_with("pxcluster: "), "{silent}");

    let stopped = machine.succeed("stop");
    assert_eq!(stopped, "pxcluster: cluster 'default' is stopped (it did not end by itself and was killed)\n");
    assert!(!machine.path("default/connection.json").exists());
    let none = machine.fail("stop");
    assert!(none.starts_with("pxcluster: no cluster 'default' is running (there is no ~/default/"), "{none}");
}

#[test]
fn an_enclosing_mpi_job_is_hidden_from_mpirun() {
    let machine = Machine::new(READY);
    let variables = [("PMIX_RANK", "1"), ("PMI_FD", "9"), ("OMPI_MCA_rmaps_base_oversubscribe", "1")];
    let output = machine.command("start -n 1").envs(variables).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let environment = machine.read("environment");
    assert!(!environment.contains("PMI"), "{environment}");
    assert!(environment.contains("OMPI_MCA_rmaps_base_oversubscribe=1"), "{environment}");
    machine.succeed("stop");
}

#[test]
fn a_start_that_fails_shows_the_log() {
    let machine = Machine::new("echo 'no such interpreter: /x' >&2; exit 3");
    assert_eq!(
        machine.fail("start -n 2"),
        "pxcluster: the cluster did not start, mpirun ended with exit status: 3; the end of its log ~/default/log:\n  \
         no such interpreter: /x"
    );
}

#[test]
fn a_start_that_lasts_too_long_leaves_nothing() {
    let machine = Machine::new("echo $$ > $PXCLUSTER_DIR/pid; exec sleep 100");
    let slow = machine.fail("start -n 2 --timeout 0.5");
    assert_eq!(
        slow,
        "pxcluster: the cluster was not ready after 0.5 seconds and is stopped (--timeout gives it longer); its log \
         ~/default/log is empty"
    );
    assert!(!Path::new("/proc").join(machine.read("pid").trim()).exists());
}

#[test]
fn what_a_dead_cluster_left_is_replaced() {
    let machine = Machine::new(READY);
    machine.connect(&host(), dead_pid());
    let gone = machine.fail("status");
    assert!(gone.starts_with("pxcluster: cluster 'default' is gone: ~/default/connection.json names"), "{gone}");
    machine.succeed("start -n 4");
    machine.succeed("stop");
    machine.connect(&host(), dead_pid());
    assert_eq!(
        machine.fail("stop"),
        "pxcluster: cluster 'default' was not running any more; its connection file ~/default/connection.json is removed"
    );
}

#[test]
fn another_program_with_the_controllers_process_id_is_left_alone() {
    let machine = Machine::new("");
    let mut other = sleeper("innocent");
    machine.connect(&host(), other.id());
    machine.fail("stop");
    assert_eq!(other.try_wait().unwrap(), None);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_cluster_on_a_host_that_does_not_answer_is_not_replaced() {
    let machine = Machine::new(READY);
    machine.connect("another-host", 1);
    let unknown = machine.fail("start -n 4");
    assert!(unknown.contains("was started on host another-host, which does not answer"), "{unknown}");
    let unheard = machine.fail("stop");
    assert!(unheard.contains("runs on host another-host and was not stopped"), "{unheard}");
}

#[test]
fn a_bad_connection_file_is_named() {
    let machine = Machine::new("");
    for (text, mode, expected) in [
        ("{}", 0o644, "can be read by others"),
        ("not JSON", 0o600, "is not a connection file"),
        ("{\"protocol_version\":1}", 0o600, "is not a connection file"),
        ("{\"protocol_version\":7}", 0o600, "is of protocol version 7, this pxcluster speaks 1"),
    ] {
        machine.write_connection(text, mode);
        for command in ["status", "stop", "start"] {
            let error = machine.fail(command);
            assert!(error.starts_with("pxcluster: ~/default/connection.json "), "{error}");
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
        }
    }
}

#[test]
fn the_wrong_mpirun_is_refused() {
    let machine = Machine::new("");
    machine.program("bin/mpiexec.mpich", "echo 'HYDRA build details:'");
    let other = machine.fail("start -n 2 --mpirun mpiexec.mpich");
    assert!(other.contains("is MPICH's, but this pxcluster was built with Open MPI v4.1.4"), "{other}");
    let none = machine.fail("start -n 2 --mpirun /none/mpirun");
    assert!(none.starts_with("pxcluster: cannot run /none/mpirun ("), "{none}");
    let output = machine.command("start -n 2").env("PATH", "/none").output().unwrap();
    assert!(message(&output, 1).starts_with("pxcluster: there is no mpirun on this host; install one"));
}

#[test]
fn a_rank_program_without_its_mpi_says_so() {
    let machine = Machine::new("");
    machine.program("bin/pxcluster-rank", "echo 'error while loading shared libraries: libmpi.so.40' >&2; exit 127");
    let broken = machine.fail("start -n 2");
    assert!(broken.contains("does not work on this host: error while loading shared libraries"), "{broken}");
}

#[test]
fn the_plan_follows_hostfile_and_allocation() {
    let machine = Machine::new("");
    fs::write(machine.path("hosts"), "h1 slots=4\nh2 slots=4 max_slots=6\n").unwrap();
    let hosts = format!("start --dry-run --hostfile {}", machine.path("hosts").display());
    let line = machine.succeed(&hosts);
    assert!(line.contains(" --hostfile ") && line.contains(" -x PXCLUSTER_DIR "), "{line}");
    assert!(line.contains(" -n 8 ") && !line.contains("--oversubscribe"), "{line}");
    assert!(machine.succeed(&format!("{hosts} -n 8")).contains("--oversubscribe --bind-to none"));
    fs::write(machine.path("hosts"), "h1:4\n").unwrap();
    assert!(machine.fail(&hosts).contains("/hosts:1: 'h1:4' is no host name; expected 'host', "));

    let slurm = [("SLURM_JOB_ID", "4"), ("SLURM_JOB_NODELIST", "h[1-3]"), ("SLURM_TASKS_PER_NODE", "4,2(x2)")];
    let output = machine.command("start --dry-run").envs(slurm).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(" -n 8 "), "{output:?}");
    let output = machine.command("start --dry-run").envs(slurm).env("SLURM_TASKS_PER_NODE", "?").output().unwrap();
    assert!(message(&output, 1).starts_with("pxcluster: SLURM_TASKS_PER_NODE: '?' in '?': expected a count"));
}

#[test]
fn the_plan_follows_the_allocation_of_every_batch_system() {
    let machine = Machine::new("");
    fs::write(machine.path("slots"), "n1\nn1\nn2\nn2\nn2\n").unwrap();
    fs::write(machine.path("pe"), "n1 2 all.q@n1 UNDEFINED\nn2 4 all.q@n2 UNDEFINED\n").unwrap();
    let path = |name: &str| machine.path(name).display().to_string();
    for (job, variable, value, processes) in [
        ("PBS_JOBID", "PBS_NODEFILE", path("slots"), 5),
        ("LSB_JOBID", "LSB_MCPU_HOSTS", "n1 4 n2 3".to_owned(), 7),
        ("LSB_JOBID", "LSB_DJOB_HOSTFILE", path("slots"), 5),
        ("JOB_ID", "PE_HOSTFILE", path("pe"), 6),
    ] {
        let output = machine.command("start --dry-run").env(job, "1").env(variable, &value).output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.contains(&format!(" -n {processes} ")), "{variable}={value}: {line}");
        assert!(!line.contains(&value), "mpirun finds the hosts by itself: {line}");
    }
    fs::write(machine.path("slots"), "n1\nn2 2\n").unwrap();
    let output =
        machine.command("start --dry-run").env("PBS_JOBID", "1").env("PBS_NODEFILE", path("slots")).output().unwrap();
    let expected =
        "'2' is not expected after the host; expected a host, a line for each slot, as PBS_NODEFILE promises";
    assert_eq!(message(&output, 1), format!("pxcluster: {}:2: {expected}", path("slots")));
}

#[test]
fn the_program_needs_neither_mpi_nor_python() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_pxcluster")).output().unwrap();
    let libraries = String::from_utf8(output.stdout).unwrap();
    assert!(libraries.contains("libc."), "{libraries}");
    assert!(!libraries.contains("mpi") && !libraries.contains("python"), "{libraries}");
}

/// A Python that tells what it was given, and ends as the script's name says.
const PYTHON: &str = r#"
echo "cluster $PXCLUSTER_CLUSTER_ID, rank ${PMI_RANK-none}: $*"
[ "$1" = -killed ] && kill -9 $$
exit "${1%.py}"
"#;

#[test]
fn a_script_runs_beside_a_cluster_of_its_own_and_its_code_is_the_commands() {
    let ready = READY.replace("/default/", "/mine/").replace("\"default\"", "\"mine\"");
    let machine = Machine::new(&ready);
    machine.program("bin/python", PYTHON);
    fs::write(machine.path("7.py"), "").unwrap();
    let run = |script: &str| {
        let python = machine.path("bin/python").display().to_string();
        let arguments = format!("run -n 4 --cluster-id mine --python {python} {script}");
        machine.command(&arguments).current_dir(machine.path("")).output().unwrap()
    };
    let output = run("7.py --flag");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "cluster mine, rank none: 7.py --flag\n", "{output:?}");
    assert_eq!(output.status.code(), Some(7));
    assert!(!machine.path("mine/connection.json").exists());
    assert_eq!(run("-- -killed").status.code(), Some(137));
    assert_eq!(
        message(&run("nothing.py"), 1),
        "pxcluster: nothing.py does not exist; name a script, or, behind `--`, what else Python is to run"
    );
}

#[test]
fn other_ranks_of_a_job_with_a_script_become_ranks_alone() {
    let machine = Machine::new("");
    fs::write(machine.path("script.py"), "").unwrap();
    let mut command = machine.command("run --cluster-id x script.py");
    let output = command.env("OMPI_COMM_WORLD_RANK", "2").env("PMI_RANK", "2").current_dir(machine.path("")).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(said.starts_with("rank ") && said.ends_with(" of 2: --cluster-id x\n"), "{said}");
}

#[test]
fn clusters_are_listed_whether_they_are_there_or_not() {
    let machine = Machine::new("");
    assert_eq!(machine.succeed("list"), "no cluster is running; `pxcluster start -n 4` starts one\n");
    machine.connect(&host(), dead_pid());
    let listed = machine.succeed("list");
    assert!(listed.contains("default  gone") && listed.contains("remove the file"), "{listed}");
    let mut alive = sleeper("pxcluster-rank");
    machine.connect_to_younger(alive.id());
    let entries: serde_json::Value = serde_json::from_str(&machine.succeed("list --json")).unwrap();
    assert_eq!(entries[0]["state"], "silent");
    machine.write_connection("{}", 0o600);
    assert!(machine.succeed("list").contains("is not a connection file"));
    alive.kill().unwrap();
    alive.wait().unwrap();
}

#[test]
fn a_log_is_printed_and_followed_to_the_end_of_its_cluster() {
    let machine = Machine::new("");
    assert!(machine.fail("logs").contains("has no log"));
    let mut alive = sleeper("pxcluster-rank");
    machine.connect_to_younger(alive.id());
    fs::write(machine.path("default/log"), "one\n").unwrap();
    assert_eq!(machine.succeed("logs"), "one\n");
    let follower = machine.command("logs --follow").stdout(Stdio::piped()).spawn().unwrap();
    fs::write(machine.path("default/log"), "one\ntwo\n").unwrap();
    alive.kill().unwrap();
    alive.wait().unwrap();
    let output = follower.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\n");
}
