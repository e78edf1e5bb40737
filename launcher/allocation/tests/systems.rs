//! Environments and files of each batch system, as its manual describes them, and the message for each mistake.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use allocation::{Allocation, AllocationError, BatchSystem, Host};
use proptest::prelude::*;

/// All that the crate reads, beside Slurm's.
const VARIABLES: [&str; 20] = [
    "FLUX_JOB_ID",
    "FLUX_JOB_NNODES",
    "FLUX_URI",
    "PBS_JOBID",
    "PBS_NODEFILE",
    "PBS_GPUFILE",
    "LSB_JOBID",
    "LSB_JOBINDEX",
    "LSB_MCPU_HOSTS",
    "LSB_DJOB_HOSTFILE",
    "LSB_HOSTS",
    "CSM_ALLOCATION_ID",
    "JOB_ID",
    "SGE_TASK_ID",
    "PE_HOSTFILE",
    "NSLOTS",
    "HOSTNAME",
    "COBALT_JOBID",
    "COBALT_NODEFILE",
    "COBALT_ENDTIME",
];

/// What is found with these variables, a line each, and these files, as path and text.
fn find(vars: &str, files: &[(&str, &str)]) -> Result<Option<Allocation>, AllocationError> {
    let files: BTreeMap<&Path, &str> = files.iter().map(|&(path, text)| (Path::new(path), text)).collect();
    let pairs = vars.split_whitespace().map(|line| line.split_once('=').unwrap());
    Allocation::find(pairs.map(|(name, value)| (name, value.replace('+', " "))), |path| {
        files.get(path).map(ToString::to_string).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    })
}

fn found(vars: &str, files: &[(&str, &str)]) -> Allocation {
    find(vars, files).unwrap().unwrap()
}

fn mistake(vars: &str, files: &[(&str, &str)]) -> String {
    find(vars, files).unwrap_err().to_string()
}

fn host(name: &str, slots: u32) -> Host {
    Host { name: name.to_owned(), slots, cpus: None, gpus: None }
}

#[test]
fn no_job_is_no_allocation() {
    for vars in ["", "PATH=/bin HOSTNAME=h1", "JOB_ID=7", "PBS_NODEFILE=/none", "SGE_ROOT=/opt/sge", "PBS_JOBID="] {
        assert_eq!(find(vars, &[]), Ok(None), "{vars}");
    }
}

#[test]
fn a_slurm_job_has_what_its_variables_say() {
    let batch_shell = include_str!("../../../slurm/tests/data/environments/sbatch.batch-step.txt");
    let job = found(batch_shell, &[]);
    assert_eq!((job.system, job.job_id.as_deref(), job.slots()), (BatchSystem::Slurm, Some("4"), Some(7)));
    assert_eq!(job.hosts[0], Host { name: "h1".to_owned(), slots: 4, cpus: Some(8), gpus: Some(1) });
    assert_eq!((job.host_count, job.end_time, job.time_left(0)), (Some(3), None, None));
    let limited = found(&format!("{batch_shell}\nSLURM_JOB_END_TIME=1700000060"), &[]);
    assert_eq!(limited.time_left(1_700_000_000), Some(Duration::from_secs(60)));
    let error = mistake("SLURM_JOB_ID=4 SLURM_JOB_NODELIST=h[1- SLURM_TASKS_PER_NODE=1", &[]);
    assert_eq!(error, "SLURM_JOB_NODELIST: column 5 of 'h[1-': expected a number");
}

#[test]
fn pbs_professional_writes_a_line_for_each_process() {
    let vars = "PBS_ENVIRONMENT=PBS_BATCH PBS_JOBID=1042.pbs01 PBS_NODEFILE=/var/spool/pbs/aux/1042.pbs01 NCPUS=36 \
                OMP_NUM_THREADS=1 PBS_JOBNAME=px PBS_QUEUE=workq PBS_O_HOST=login1";
    let nodefile = "r1i0n3.ib0.cluster\nr1i0n3.ib0.cluster\nr1i0n7.ib0.cluster\nr1i0n7.ib0.cluster\n";
    let job = found(vars, &[("/var/spool/pbs/aux/1042.pbs01", nodefile)]);
    assert_eq!((job.system, job.job_id.as_deref()), (BatchSystem::Pbs, Some("1042.pbs01")));
    assert_eq!(job.hosts, [host("r1i0n3.ib0.cluster", 2), host("r1i0n7.ib0.cluster", 2)]);
    assert_eq!((job.slots(), job.host_count, job.time_left(0)), (Some(4), Some(2), None));
}

#[test]
fn torque_names_the_gpus_too() {
    let vars = "PBS_ENVIRONMENT=PBS_BATCH PBS_JOBID=88[3].head PBS_NUM_NODES=2 PBS_NUM_PPN=2 PBS_NP=4 \
                PBS_NODEFILE=/torque/aux/88 PBS_GPUFILE=/torque/aux/88gpu PBS_WALLTIME=3600";
    let nodes = ("/torque/aux/88", "gpu-2\ngpu-2\n\ngpu-1\ngpu-1\n");
    let job = found(vars, &[nodes, ("/torque/aux/88gpu", "gpu-2-gpu1\ngpu-2-gpu0\ngpu-1-gpu0\n")]);
    assert_eq!(job.job_id.as_deref(), Some("88[3].head"));
    assert_eq!(job.hosts, [Host { gpus: Some(2), ..host("gpu-2", 2) }, Host { gpus: Some(1), ..host("gpu-1", 2) }]);
    // Torque sets the variable also where there is no such file.
    assert_eq!(found(vars, &[nodes]).hosts, [host("gpu-2", 2), host("gpu-1", 2)]);
    assert_eq!(
        mistake(vars, &[nodes, ("/torque/aux/88gpu", "gpu-2-gpu0\ngpu-3-gpu0\n")]),
        "/torque/aux/88gpu:2: 'gpu-3' is no host of the job; expected a GPU such as 'host-gpu0', as PBS_GPUFILE promises"
    );
}

#[test]
fn mistakes_in_pbs_files_say_where() {
    let vars = "PBS_JOBID=1.s PBS_NODEFILE=/aux/1";
    assert_eq!(
        mistake("PBS_JOBID=1.s", &[]),
        "PBS_NODEFILE is not set although PBS_JOBID is; run inside the job's own environment, or unset the latter"
    );
    assert_eq!(
        mistake(vars, &[]),
        "PBS_NODEFILE names /aux/1, which cannot be read (entity not found); run on the first host of the job"
    );
    assert_eq!(
        mistake(vars, &[("/aux/1", "\n \n")]),
        "/aux/1, which PBS_NODEFILE names, has no host in it; expected lines with a host, a line for each slot"
    );
    for (line, found) in [("n2 4", "'4' is not expected after the host"), ("n/2", "'n/2' is no host name")] {
        assert_eq!(
            mistake(vars, &[("/aux/1", &format!("n1\n\n{line}\n"))]),
            format!("/aux/1:3: {found}; expected a host, a line for each slot, as PBS_NODEFILE promises")
        );
    }
}

#[test]
fn lsf_lists_hosts_in_three_ways() {
    let file = ("/home/me/.lsbatch/1700.55.hostfile", "hostA\nhostA\nhostB\nhostB\nhostB\nhostB\n");
    let hosts = [host("hostA", 2), host("hostB", 4)];
    for list in [
        "LSB_MCPU_HOSTS=hostA+2+hostB+4+",
        "LSB_MCPU_HOSTS=hostA+2+hostB+4 LSB_HOSTS=hostA LSB_DJOB_HOSTFILE=/gone",
        "LSB_DJOB_HOSTFILE=/home/me/.lsbatch/1700.55.hostfile",
        "LSB_HOSTS=hostA+hostA+hostB+hostB+hostB+hostB",
    ] {
        let job = found(&format!("LSB_JOBID=55 LSB_JOBINDEX=0 LSB_QUEUE=normal {list}"), &[file]);
        assert_eq!((job.system, job.job_id.as_deref()), (BatchSystem::Lsf, Some("55")));
        assert_eq!(job.hosts, hosts, "{list}");
    }
    assert_eq!(found("LSB_JOBID=55 LSB_JOBINDEX=3 LSB_HOSTS=h", &[]).job_id.as_deref(), Some("55[3]"));
}

#[test]
fn the_launch_node_of_csm_takes_no_processes() {
    let vars = "LSB_JOBID=9 CSM_ALLOCATION_ID=77 LSB_MCPU_HOSTS=batch5+1+a01n01+42+a01n02+42";
    assert_eq!(found(vars, &[]).hosts, [host("a01n01", 42), host("a01n02", 42)]);
    assert_eq!(found("LSB_JOBID=9 CSM_ALLOCATION_ID=77 LSB_MCPU_HOSTS=n1+4", &[]).slots(), Some(4));
}

#[test]
fn mistakes_in_lsfs_variables_say_what_is_wrong() {
    assert_eq!(
        mistake("LSB_JOBID=1", &[]),
        "LSB_MCPU_HOSTS is not set although LSB_JOBID is; run inside the job's own environment, or unset the latter"
    );
    for (value, found) in [
        ("h1+2+h2", "'h2' has no number of slots"),
        ("h1+2+3+h2", "'h2' is no number of slots above 0"),
        ("h1+0", "'0' is no number of slots above 0"),
        ("h1:2+4", "'h1:2' is no host name"),
    ] {
        assert_eq!(
            mistake(&format!("LSB_JOBID=1 LSB_MCPU_HOSTS={value}"), &[]),
            format!(
                "LSB_MCPU_HOSTS='{}': {found}; expected hosts, each with its number of slots, such as 'h1 2 h2 4'",
                value.replace('+', " ")
            )
        );
    }
    assert_eq!(
        mistake("LSB_JOBID=1 LSB_HOSTS=h1,h2", &[]),
        "LSB_HOSTS='h1,h2': 'h1,h2' is no host name; expected a host for each slot, such as 'h1 h1 h2'"
    );
}

#[test]
fn grid_engine_counts_slots_by_queue() {
    let vars = "SGE_ROOT=/opt/sge ARC=lx-amd64 JOB_ID=3014 SGE_TASK_ID=undefined NSLOTS=14 NHOSTS=3 \
                PE_HOSTFILE=/var/spool/sge/c1/active_jobs/3014.1/pe_hostfile";
    let path = "/var/spool/sge/c1/active_jobs/3014.1/pe_hostfile";
    let text = "c1.site 4 all.q@c1.site UNDEFINED\nc2.site 4 all.q@c2.site 0,0:0,1:1,0:1,1\n\
                c1.site 2 long.q@c1.site <NULL>\nc3.site 4\n";
    let job = found(vars, &[(path, text)]);
    assert_eq!((job.system, job.job_id.as_deref()), (BatchSystem::Sge, Some("3014")));
    assert_eq!(job.hosts, [host("c1.site", 6), Host { cpus: Some(4), ..host("c2.site", 4) }, host("c3.site", 4)]);
    let array = vars.replace("undefined", "7");
    assert_eq!(found(&array, &[(path, text)]).job_id.as_deref(), Some("3014.7"));
    assert_eq!(
        mistake(vars, &[(path, "c1.site all.q@c1.site 4")]),
        format!(
            "{path}:1: 'all.q@c1.site' is no number of slots above 0; expected 'host slots queue range', as \
             PE_HOSTFILE promises"
        )
    );
}

#[test]
fn a_grid_engine_job_without_a_parallel_environment_is_one_process() {
    let job = found("JOB_ID=5 SGE_TASK_ID=undefined NSLOTS=1 HOSTNAME=c7", &[]);
    assert_eq!(job.hosts, [host("c7", 1)]);
    assert_eq!(
        mistake("JOB_ID=5 SGE_TASK_ID=undefined NSLOTS=all", &[]),
        "NSLOTS='all': this is no number; expected digits alone"
    );
}

#[test]
fn cobalt_says_when_the_job_ends() {
    let vars = "COBALT_JOBID=42 COBALT_NODEFILE=/var/tmp/cobalt.42 COBALT_ENDTIME=1700000600 COBALT_JOBSIZE=2";
    let job = found(vars, &[("/var/tmp/cobalt.42", "nid00012\nnid00013\n")]);
    assert_eq!((job.system, job.slots()), (BatchSystem::Cobalt, Some(2)));
    assert_eq!(job.time_left(1_700_000_000), Some(Duration::from_secs(600)));
}

#[test]
fn flux_names_no_hosts() {
    let task = found("FLUX_JOB_ID=ƒ2oVhQ FLUX_JOB_SIZE=8 FLUX_JOB_NNODES=2 FLUX_URI=local:///run/flux/local", &[]);
    assert_eq!((task.system, task.job_id.as_deref()), (BatchSystem::Flux, Some("ƒ2oVhQ")));
    assert_eq!((task.slots(), task.host_count), (None, Some(2)));
    let shell = found("FLUX_URI=local:///tmp/flux-x1/local-0", &[]);
    assert_eq!((shell.system, shell.slots(), shell.host_count, shell.job_id), (BatchSystem::Flux, None, None, None));
    assert!(mistake("FLUX_JOB_ID=f1 FLUX_JOB_NNODES=two", &[]).starts_with("FLUX_JOB_NNODES='two': "));
}

#[test]
fn the_innermost_system_counts() {
    let slurm = "SLURM_JOB_ID=4 SLURM_JOB_NODELIST=h1 SLURM_TASKS_PER_NODE=2";
    let pbs = "PBS_JOBID=4 PBS_NODEFILE=/n";
    let lsf = "LSB_JOBID=4 LSB_MCPU_HOSTS=a+1";
    let of = |vars: &str| found(vars, &[("/n", "n1")]).system;
    assert_eq!(of(&format!("{slurm} {pbs} FLUX_URI=local:///x")), BatchSystem::Slurm);
    assert_eq!(of(&format!("{lsf} FLUX_URI=local:///x FLUX_JOB_ID=f1")), BatchSystem::Flux);
    assert_eq!(of(&format!("{lsf} FLUX_URI=local:///x")), BatchSystem::Lsf);
    assert_eq!(of(&format!("{pbs} JOB_ID=1")), BatchSystem::Pbs);
}

/// A host's name.
fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9.-]{0,5}"
}

proptest! {
    #[test]
    fn all_lists_of_slots_say_the_same(lines in prop::collection::vec((name(), 1u32..9), 1..12)) {
        let join = |line: &dyn Fn(&(String, u32)) -> String| lines.iter().map(line).collect::<String>();
        let each_slot = join(&|(name, slots)| format!("{name}\n").repeat(*slots as usize));
        let pairs = join(&|(name, slots)| format!("{name}+{slots}+"));
        let sge = join(&|(name, slots)| format!("{name} {slots} all.q@{name} UNDEFINED\n"));
        let files = [("/slots", each_slot.as_str()), ("/sge", sge.as_str())];
        let pbs = found("PBS_JOBID=1 PBS_NODEFILE=/slots", &files);
        prop_assert_eq!(pbs.slots(), Some(lines.iter().map(|(_, slots)| *slots as usize).sum()));
        prop_assert_eq!(&pbs.hosts[0].name, &lines[0].0);
        for vars in [
            "LSB_JOBID=1 LSB_DJOB_HOSTFILE=/slots",
            &format!("LSB_JOBID=1 LSB_HOSTS={}", each_slot.replace('\n', "+")),
            &format!("LSB_JOBID=1 LSB_MCPU_HOSTS={pairs}"),
            "JOB_ID=1 PE_HOSTFILE=/sge",
            "COBALT_JOBID=1 COBALT_NODEFILE=/slots",
        ] {
            prop_assert_eq!(&found(vars, &files).hosts, &pbs.hosts);
        }
    }

    #[test]
    fn any_values_and_files_end_in_hosts_or_an_error(
        values in prop::collection::vec(
            prop::option::of(prop_oneof!["[a-z0-9]{1,4}", "([a-z]{1,3} [0-9]{1,2} ){1,3}", ".{0,12}"]),
            VARIABLES.len(),
        ),
        text in "([a-z0-9,:@ \\n-]|gpu|\\n)*|.*",
    ) {
        let vars = VARIABLES.iter().zip(values).filter_map(|(name, value)| Some((*name, value?)));
        let allocation = Allocation::find(vars, |_| Ok(text.clone()));
        if let Ok(Some(Allocation { system, hosts, host_count, .. })) = allocation {
            prop_assert!(hosts.iter().all(|host| host.slots > 0 && !host.name.is_empty()));
            prop_assert!(system == BatchSystem::Flux || host_count == Some(hosts.len()));
        }
    }
}
