//! Why a start has failed, out of what mpirun, srun, ssh and the ranks have printed. Pure.

/// A reason, as the user should read it first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What is wrong, and the mend; without a full stop.
    pub sentence: String,
    /// Whether the start fails by this although mpirun may go on for ever, as MPICH's does when ssh fails.
    pub is_final: bool,
}

/// The first line that says why, as a sentence. Lines that only follow from it, such as mpirun's pages about daemons
/// that it could not start, say nothing.
#[must_use]
pub fn reason(printed: &str) -> Option<Reason> {
    for line in printed.lines().map(str::trim) {
        let sentence = ssh(line).or_else(|| srun(line)).or_else(|| missing_program(line));
        if let Some(sentence) = sentence {
            return Some(Reason { sentence, is_final: true });
        }
        if let Some(sentence) = own(line).or_else(|| slots(line)).or_else(|| without_pmix(line)) {
            return Some(Reason { sentence, is_final: false });
        }
    }
    None
}

/// What OpenSSH prints when it gives up.
fn ssh(line: &str) -> Option<String> {
    let why = |text: &str| text.trim_end_matches('.').to_owned();
    if let Some((host, cause)) =
        line.strip_prefix("ssh: Could not resolve hostname ").and_then(|rest| rest.split_once(": "))
    {
        return Some(format!("host {host} is not known here (ssh: {}); correct its name in the hostfile", why(cause)));
    }
    if let Some((place, cause)) = line.strip_prefix("ssh: connect to host ").and_then(|rest| rest.split_once(": ")) {
        let (host, port) = place.split_once(" port ").unwrap_or((place, "22"));
        return Some(format!(
            "ssh does not get to host {host}, port {port} ({}); start sshd there, or take the host out of the hostfile",
            why(cause)
        ));
    }
    if line == "Host key verification failed." {
        return Some(
            "ssh does not know the key of a host; call `ssh HOST true` once for each and accept it".to_owned(),
        );
    }
    let (who, cause) = line.split_once(": Permission denied (")?;
    let host = who.rsplit('@').next().filter(|host| !host.is_empty() && !host.contains([' ', '/', ':']))?;
    let methods = cause.trim_end_matches(['.', ')']);
    Some(format!("ssh does not get in on host {host} without a password ({methods}); `ssh-copy-id {host}` lets it"))
}

/// What srun prints when it starts nothing.
fn srun(line: &str) -> Option<String> {
    let error = line.strip_prefix("srun: error: ")?;
    let expired = error.strip_prefix("Slurm job ").and_then(|rest| rest.strip_suffix(" has expired"));
    if let Some(job) = expired {
        return Some(job_is_over(job));
    }
    let (what, cause) = error.split_once(": ")?;
    let job = what
        .strip_prefix("Unable to confirm allocation for job ")
        .or_else(|| what.strip_prefix("Unable to create step for job "));
    match (job, cause) {
        (Some(job), "Invalid job id specified" | "Job/step already completing or completed") => Some(job_is_over(job)),
        (Some(job), "Access/permission denied") => Some(job_is_foreign(job)),
        (Some(job), "More processors requested than permitted") => Some(format!(
            "job {job} has no room for so many ranks (srun: {cause}); start fewer engines with -n, or ask for a larger job"
        )),
        (Some(job), _) => Some(format!("srun starts nothing in job {job}: {cause}")),
        (None, _) => what.starts_with("Unable to allocate resources").then(|| format!("srun gets no job: {cause}")),
    }
}

/// The sentence for a job that is not there any more.
pub(crate) fn job_is_over(job: &str) -> String {
    format!(
        "job {job}, which SLURM_JOB_ID names, is over; start from a job that runs, or outside any, in a new shell or after \
         `unset ${{!SLURM_*}}`"
    )
}

/// The sentence for a job that this user may not use.
pub(crate) fn job_is_foreign(job: &str) -> String {
    format!(
        "job {job}, which SLURM_JOB_ID names, is another user's; start from a job of yours, or outside any, after \
         `unset ${{!SLURM_*}}`"
    )
}

/// What a shell on another host, or MPICH's proxy there, prints when a program is not there.
fn missing_program(line: &str) -> Option<String> {
    const SAME: &str = "all hosts need the same installation on the same path";
    if let Some((place, rest)) = line.split_once(" HYDU_create_process ")
        && let Some((_, rest)) = rest.split_once("execvp error on file ")
    {
        let host = place.trim_matches(['[', ']']).rsplit('@').next().unwrap_or(place);
        return Some(format!("host {host} cannot run {rest}; {SAME}"));
    }
    let daemons = ["orted", "prted", "hydra_pmi_proxy"];
    let ended = [": command not found", ": No such file or directory", ": not found"];
    let program = ended.iter().find_map(|end| line.strip_suffix(end))?.rsplit(' ').next()?;
    let is_daemon = daemons.contains(&program.rsplit('/').next()?);
    is_daemon.then(|| format!("a host has no {program}, a part of mpirun; install that MPI there, on the same path"))
}

/// The first line of a page of Open MPI's.
fn slots(line: &str) -> Option<String> {
    let ranks = line.strip_prefix("There are not enough slots available in the system to satisfy the ")?;
    Some(format!(
        "mpirun has fewer than {ranks} slots, one for each rank; start fewer engines with -n, or give hosts more"
    ))
}

/// What Open MPI says in a step without PMIx.
fn without_pmix(line: &str) -> Option<String> {
    let found = line.starts_with("The application appears to have been direct launched using \"srun\"");
    let sentence = "srun and this Open MPI do not understand each other; `srun --mpi=pmix` is right where Slurm has it \
        (`srun --mpi=list`), mpirun anywhere";
    found.then(|| sentence.to_owned())
}

/// A sentence of a rank's own, and no record of its log, which begins with the rank and a level.
fn own(line: &str) -> Option<String> {
    let sentence = line.strip_prefix("pxcluster: ")?;
    let is_record = || {
        let (_, rest) = sentence.strip_prefix("rank ")?.split_once(": ")?;
        let level = rest.split(' ').next()?;
        Some(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level))
    };
    (!is_record().unwrap_or(false)).then(|| sentence.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(printed: &str, expected: &str, is_final: bool) {
        let expected = Reason { sentence: expected.to_owned(), is_final };
        assert_eq!(reason(printed), Some(expected));
    }

    #[test]
    fn failures_of_ssh_come_before_what_mpirun_makes_of_them() {
        let page = "\n-----\nORTE was unable to reliably start one or more daemons.\nThis usually is caused by:\n";
        check(
            &format!("ssh: Could not resolve hostname h9: Name or service not known{page}"),
            "host h9 is not known here (ssh: Name or service not known); correct its name in the hostfile",
            true,
        );
        check(
            &format!("\r\nssh: connect to host 10.0.0.7 port 22: Connection refused\r{page}"),
            "ssh does not get to host 10.0.0.7, port 22 (Connection refused); start sshd there, or take the host out of \
             the hostfile",
            true,
        );
        check(
            "me@h1: Permission denied (publickey,password).\n",
            "ssh does not get in on host h1 without a password (publickey,password); `ssh-copy-id h1` lets it",
            true,
        );
        let unknown = "No ED25519 host key is known for h1 and you have requested strict checking.\n";
        let sentence = "ssh does not know the key of a host; call `ssh HOST true` once for each and accept it";
        check(&format!("{unknown}Host key verification failed.\n"), sentence, true);
        assert_eq!(reason("/etc/motd: Permission denied (as always)\n"), None);
    }

    #[test]
    fn jobs_that_take_no_ranks_are_told_apart() {
        for printed in [
            "srun: error: Unable to confirm allocation for job 7: Invalid job id specified\nsrun: Check SLURM_JOB_ID",
            "srun: error: Slurm job 7 has expired\n",
            "srun: error: Unable to create step for job 7: Job/step already completing or completed\n",
        ] {
            check(printed, &job_is_over("7"), true);
        }
        let foreign = "srun: error: Unable to create step for job 7: Access/permission denied";
        check(foreign, &job_is_foreign("7"), true);
        check(
            "srun: error: Unable to create step for job 2: More processors requested than permitted\n",
            "job 2 has no room for so many ranks (srun: More processors requested than permitted); start fewer engines \
             with -n, or ask for a larger job",
            true,
        );
        let partition = "srun: error: Unable to allocate resources: Invalid partition name specified";
        check(partition, "srun gets no job: Invalid partition name specified", true);
        assert_eq!(reason("srun: error: n1: task 0: Exited with exit code 1\n"), None);
    }

    #[test]
    fn what_is_not_installed_elsewhere_is_named() {
        check(
            "[proxy:0:0@n2] HYDU_create_process (utils/launch/launch.c:74): execvp error on file /v/bin/pxcluster-rank \
             (No such file or directory)",
            "host n2 cannot run /v/bin/pxcluster-rank (No such file or directory); all hosts need the same installation \
             on the same path",
            true,
        );
        let sentence = "a host has no orted, a part of mpirun; install that MPI there, on the same path";
        check("bash: line 1: orted: command not found", sentence, true);
    }

    #[test]
    fn a_ranks_own_sentence_is_the_reason_and_its_log_is_not() {
        let log =
            "pxcluster: rank 0: WARN MPI grants no threads\npxcluster: no Python can be started as /x\nmpirun: 1\n";
        check(log, "no Python can be started as /x", false);
        let panic = "pxcluster: rank 2: internal error at x.rs:1:1: no; the cluster ends. Please report this line.";
        check(panic, panic.strip_prefix("pxcluster: ").unwrap(), false);
        check(
            "There are not enough slots available in the system to satisfy the 9\nslots that were requested\n",
            "mpirun has fewer than 9 slots, one for each rank; start fewer engines with -n, or give hosts more",
            false,
        );
        let page = "-----\nThe application appears to have been direct launched using \"srun\",\nbut OMPI was not";
        let sentence = reason(page).unwrap().sentence;
        assert!(sentence.starts_with("srun and this Open MPI do not understand each other; `srun --mpi=pmix`"));
        assert_eq!(reason("Primary job terminated normally, but 1 process returned a non-zero exit code.\n"), None);
    }
}
