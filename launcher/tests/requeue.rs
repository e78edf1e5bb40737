//! `pxcluster run --requeue`, with an mpirun, a Python and a scontrol of a few lines. Its cluster cannot be asked to
//! drain, so that the script is ended at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[allow(dead_code, reason = "each program of tests uses a part of it")]
mod machine;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use machine::Machine;

const MPIRUN: &str = r#"
umask 077
cat > "$PXCLUSTER_DIR/mine/new" <<END
{"protocol_version":1,"version":"0.1.0","cluster_id":"mine","key":"00","certificate":"","addresses":[],
"socket":"/none","host":"$(uname -n)","pid":$$,"engines":4,"python":"3.11.7","slurm_job_id":null,"started":$(date +%s)}
END
mv "$PXCLUSTER_DIR/mine/new" "$PXCLUSTER_DIR/mine/connection.json"
exec -a pxcluster-rank sleep 100
"#;

/// Ends with its first argument as its code when it is sent SIGTERM.
const PYTHON: &str = r#"
trap 'kill $!; exit "$2"' TERM
trap 'kill $!; exit 9' HUP USR1 USR2
sleep 100 &
touch "$PXCLUSTER_DIR/running"
wait
"#;

/// Shows the job of a file, and writes down what else it is to do.
const SCONTROL: &str = r#"
if [ "$*" = "--oneliner show job 17" ]; then
    cat "$PXCLUSTER_DIR/job"
else
    echo "$*" >> "$PXCLUSTER_DIR/asked"
    [ ! -e "$PXCLUSTER_DIR/refusal" ] || { cat "$PXCLUSTER_DIR/refusal" >&2; exit 1; }
fi
"#;

struct Job(Machine);

impl Job {
    fn new(state: &str) -> Self {
        let machine = Machine::new(MPIRUN);
        machine.program("bin/python", PYTHON);
        machine.program("bin/scontrol", SCONTROL);
        let job = Self(machine);
        job.write("job", &format!("JobId=17 JobName=run JobState={state} Requeue=1 Restarts=0\n"));
        job
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path(name), text).unwrap();
    }

    fn command(&self, code: i32) -> Command {
        let mut command = self.0.command("run --requeue -n 4 --cluster-id mine --python");
        command
            .arg(self.0.path("bin/python"))
            .args(["--", "-c", &code.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What a run says whose script ends with `code`, after it was sent a signal.
    fn signalled(&self, signal: Signal, code: i32) -> Output {
        self.told(signal, code, |run| run)
    }

    /// The same, for a process or a group that is made of the run's number.
    fn told(&self, signal: Signal, code: i32, whom: fn(i32) -> i32) -> Output {
        let slurm = [("SLURM_JOB_ID", "17"), ("SLURM_JOB_NODELIST", "n1"), ("SLURM_TASKS_PER_NODE", "5")];
        let mut running = self.command(code).envs(slurm).process_group(0).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while !self.0.path("running").exists() {
            if Instant::now() > end || running.try_wait().unwrap().is_some() {
                let _ended = running.kill();
                panic!("the script does not run: {:?}", running.wait_with_output());
            }
            sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(whom(running.id().cast_signed())), signal).unwrap();
        running.wait_with_output().unwrap()
    }

    /// What scontrol was asked to do.
    fn asked(&self) -> String {
        fs::read_to_string(self.0.path("asked")).unwrap_or_default()
    }
}

#[test]
fn a_script_that_has_not_succeeded_is_put_back_with_its_job() {
    let limit = "COMPLETING Reason=TimeLimit";
    for (signal, state) in [
        (Signal::SIGUSR2, "RUNNING"),
        (Signal::SIGUSR1, "RUNNING"),
        (Signal::SIGTERM, "RUNNING"),
        (Signal::SIGTERM, limit),
    ] {
        let job = Job::new(state);
        let output = job.signalled(signal, 3);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert_eq!(job.asked(), "requeue 17\n", "{said}");
        assert!(said.contains(&format!("pxcluster: {signal}: job 17 is to end, and what runs may finish")), "{said}");
        assert!(said.contains("pxcluster: the cluster is not told: "), "{said}");
        assert!(said.ends_with("pxcluster: job 17 is put back into the queue\n"), "{said}");
    }
}

#[test]
fn a_signal_that_reaches_the_script_as_well_is_heard() {
    let job = Job::new("COMPLETING Reason=TimeLimit");
    let output = job.told(Signal::SIGTERM, 3, std::ops::Neg::neg);
    assert_eq!((output.status.code(), job.asked()), (Some(3), "requeue 17\n".to_owned()), "{output:?}");
}

#[test]
fn a_script_that_has_succeeded_is_not() {
    let job = Job::new("RUNNING");
    assert_eq!(job.signalled(Signal::SIGUSR2, 0).status.code(), Some(0));
    assert_eq!(job.asked(), "");
}

#[test]
fn a_signal_of_another_kind_is_the_scripts() {
    let job = Job::new("RUNNING");
    let output = job.signalled(Signal::SIGHUP, 3);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert_eq!(job.asked(), "");
}

#[test]
fn a_job_that_was_cancelled_stays_so() {
    let job = Job::new("COMPLETING Reason=None");
    let output = job.signalled(Signal::SIGTERM, 3);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.ends_with("pxcluster: job 17 was cancelled or preempted, and is left alone\n"), "{said}");
    assert_eq!((output.status.code(), job.asked()), (Some(3), String::new()));
}

#[test]
fn a_refusal_is_passed_on() {
    let job = Job::new("RUNNING");
    job.write("refusal", "Requested operation is presently disabled for job 17\n");
    let output = job.signalled(Signal::SIGUSR2, 3);
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = "pxcluster: job 17 is not put back into the queue: Requested operation is presently disabled for job 17; \
        submit it again\n";
    assert!(said.ends_with(wanted), "{said}");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn outside_a_job_nothing_is_started() {
    let job = Job::new("RUNNING");
    let output = job.command(3).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "pxcluster: --requeue puts a batch job of Slurm's back into the queue, and this is none: submit the script with \
         sbatch\n"
    );
    assert!(!job.0.path("mine").exists());
}
