use super::*;
use pxcluster_protocol::Rank;

/// A host of so many cores with two hardware threads each, numbered as Linux does.
fn host(cores: usize) -> Host {
    Host { cores: (0..cores).map(|core| vec![core, core + cores]).collect(), widest: cores, ..Host::default() }
}

fn variables(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The shares of all engines on the first node under Open MPI.
fn shares(ranks: u32, host: &Host, text: &str) -> Vec<Settings> {
    let share = |rank: u32| {
        let local = format!("OMPI_COMM_WORLD_LOCAL_RANK={rank} OMPI_COMM_WORLD_LOCAL_SIZE={ranks} {text}");
        settings(
            Place { rank: Rank(rank), size: Some(ranks), by_srun: false, lacks_pmix: false },
            &variables(&local),
            host,
        )
    };
    (1..ranks).map(share).collect()
}

fn value(settings: &Settings, name: &str) -> Option<String> {
    settings.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
}

fn threads(shares: &[Settings]) -> Vec<String> {
    shares.iter().filter_map(|share| value(share, "OMP_NUM_THREADS")).collect()
}

#[test]
fn cores_are_shared_out_and_one_is_left_to_the_controller() {
    for (cores, ranks) in [(64, 64), (64, 5), (9, 4), (2, 2), (128, 7)] {
        let shares = shares(ranks, &host(cores), "");
        let mut all: Vec<usize> = shares.iter().flat_map(|share| share.cpus.clone().expect("bound")).collect();
        all.sort_unstable();
        let expected: Vec<usize> = (0..2 * cores).filter(|cpu| cpu % cores != 0).collect();
        assert_eq!(all, expected, "{cores} cores, {ranks} ranks: each belongs to one, both threads to the same");
        let least = ((cores - 1) / (ranks as usize - 1)).to_string();
        assert!(shares.iter().all(|share| value(share, "OMP_NUM_THREADS").as_ref() == Some(&least)));
        let sizes = shares.iter().map(|share| share.cpus.as_ref().map_or(0, Vec::len));
        assert!(sizes.clone().max().expect("one") - sizes.min().expect("one") <= 2);
    }
}

#[test]
fn nobody_is_bound_where_ranks_outnumber_cores() {
    for (cores, ranks) in [(2, 64), (4, 5), (1, 2)] {
        let shares = shares(ranks, &host(cores), "");
        assert!(shares.iter().all(|share| share.cpus.is_none()));
        assert!(threads(&shares).iter().all(|threads| threads == "1"));
        assert_eq!(threads(&shares).len(), ranks as usize - 1);
    }
}

#[test]
fn what_is_bound_already_stays_and_says_how_many_threads() {
    let bound = |cores: usize, widest: usize| Host { bound: true, widest, ..host(cores) };
    for (host, expected) in [(bound(1, 64), "1"), (bound(4, 64), "4"), (bound(32, 64), "8"), (bound(2, 2), "1")] {
        let shares = shares(8, &host, "");
        assert!(shares.iter().all(|share| share.cpus.is_none()));
        assert!(threads(&shares).iter().all(|threads| threads == expected), "{host:?}");
    }
}

#[test]
fn the_users_number_of_threads_stays() {
    let shares = shares(5, &host(64), "OMP_NUM_THREADS=3");
    assert!(shares.iter().all(|share| share.variables.is_empty() && share.cpus.is_some()));
}

#[test]
fn launchers_say_where_a_rank_is() {
    let find = |rank: u32, by_srun, text: &str| {
        Local::find(Place { rank: Rank(rank), size: None, by_srun, lacks_pmix: false }, &variables(text))
    };
    let local = |engine, engines, controller| Some(Local { engine, engines, controller });
    let hydra = "MPI_LOCALRANKID=2 MPI_LOCALNRANKS=4 PMI_RANK=2";
    assert_eq!(find(2, false, hydra), local(1, 3, true));
    assert_eq!(find(6, false, hydra), local(2, 4, false), "the second node");
    let step = "SLURM_JOB_ID=1 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=7 SLURM_STEP_NODELIST=n[1-3] \
        SLURM_STEP_TASKS_PER_NODE=3,2(x2) SLURM_TASKS_PER_NODE=8 SLURM_PROCID=";
    assert_eq!(find(2, true, &format!("{step}2 SLURM_LOCALID=2 SLURM_NODEID=0")), local(1, 2, true));
    assert_eq!(find(3, true, &format!("{step}3 SLURM_LOCALID=0 SLURM_NODEID=1")), local(0, 2, false));
    assert_eq!(find(3, true, &format!("{step}3 SLURM_LOCALID=0 SLURM_NODEID=9")), None);
    let in_a_job = format!("{step}0 SLURM_LOCALID=0 SLURM_NODEID=0 {hydra}");
    assert_eq!(find(2, false, &in_a_job), local(1, 3, true), "mpirun's own words come before its daemon's");
    assert_eq!(find(2, false, "HOME=/"), None);
    assert_eq!(find(2, false, "MPI_LOCALRANKID=4 MPI_LOCALNRANKS=2"), None, "nonsense");
}

/// The settings of rank 1 of 3, on one node, in a step of Slurm's.
fn in_a_step(host: &Host, text: &str) -> Settings {
    let step = "SLURM_JOB_ID=1 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=3 SLURM_STEP_NODELIST=n1 SLURM_PROCID=1 \
        SLURM_STEP_TASKS_PER_NODE=3 SLURM_LOCALID=1 SLURM_NODEID=0";
    settings(
        Place { rank: Rank(1), size: Some(3), by_srun: true, lacks_pmix: false },
        &variables(&format!("{step} {text}")),
        host,
    )
}

#[test]
fn slurms_cpus_are_a_bound() {
    let all = in_a_step(&host(16), "SLURM_CPUS_ON_NODE=32");
    assert_eq!(
        (all.cpus.map(|cpus| cpus.len()), threads(&[in_a_step(&host(16), "")])),
        (Some(14), vec!["7".to_owned()])
    );
    let each = in_a_step(&host(16), "SLURM_CPUS_ON_NODE=32 SLURM_CPUS_PER_TASK=2");
    assert_eq!(threads(&[each]), ["2"]);
    let shared = in_a_step(&host(16), "SLURM_CPUS_ON_NODE=6");
    assert_eq!((shared.cpus.as_ref(), threads(std::slice::from_ref(&shared))), (None, vec!["2".to_owned()]));
}

#[test]
fn gpus_are_dealt_in_turn() {
    let dealt = |ranks: u32, nvidia: usize, text: &str| -> Vec<Option<String>> {
        let host = Host { nvidia, ..host(2) };
        shares(ranks, &host, text).iter().map(|share| value(share, "CUDA_VISIBLE_DEVICES")).collect()
    };
    let some = |devices: &[&str]| devices.iter().map(|device| Some((*device).to_owned())).collect::<Vec<_>>();
    assert_eq!(dealt(5, 4, ""), some(&["0", "1", "2", "3"]));
    assert_eq!(dealt(6, 2, ""), some(&["0", "1", "0", "1", "0"]));
    assert_eq!(dealt(4, 4, ""), some(&["0,3", "1", "2"]));
    assert_eq!(dealt(2, 4, ""), [None], "the only engine has all of them");
    assert_eq!(dealt(3, 8, "CUDA_VISIBLE_DEVICES=GPU-a,GPU-b"), some(&["GPU-a", "GPU-b"]));
    for stays in
        ["CUDA_VISIBLE_DEVICES=1", "CUDA_VISIBLE_DEVICES=", "CUDA_VISIBLE_DEVICES=-1", "CUDA_VISIBLE_DEVICES=0,-1"]
    {
        assert_eq!(dealt(3, 8, stays), [None, None], "{stays}");
    }
    assert_eq!(dealt(3, 0, ""), [None, None]);
    assert_eq!(dealt(3, 1, ""), [None, None], "one is everybody's");
}

#[test]
fn gpus_that_slurm_has_dealt_and_those_of_amd() {
    let two = "CUDA_VISIBLE_DEVICES=4,5 ROCR_VISIBLE_DEVICES=4,5";
    assert_eq!(value(&in_a_step(&host(2), two), "CUDA_VISIBLE_DEVICES").as_deref(), Some("4"));
    let dealt = in_a_step(&host(2), &format!("{two} SLURM_GPUS_PER_TASK=2"));
    assert_eq!(value(&dealt, "CUDA_VISIBLE_DEVICES"), None);
    let amd = in_a_step(&Host { amd: true, ..host(2) }, two);
    assert_eq!(value(&amd, "ROCR_VISIBLE_DEVICES").as_deref(), Some("4"));
    assert_eq!(value(&amd, "CUDA_VISIBLE_DEVICES"), None, "HIP would look for it among those that are left");
}
