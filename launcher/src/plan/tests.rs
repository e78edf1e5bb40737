use super::*;

fn launch(flavour: Flavour, engines: u32) -> Launch {
    Launch {
        flavour,
        starter: Starter::Mpirun("/usr/bin/mpirun".into()),
        rank_program: "/v/bin/pxcluster-rank".into(),
        rank_args: vec!["--cluster-id".into(), "default".into()],
        engines,
        room: Room { slots: 4, max_slots: None },
        as_root: false,
        hostfile: None,
        spread: None,
        more: Vec::new(),
        binding_is_chosen: false,
        forward: vec!["PXCLUSTER_DIR".into()],
    }
}

fn line(launch: &Launch) -> String {
    to_shell(&launch.command_line().unwrap())
}

#[test]
fn nobody_but_the_ranks_binds_on_a_machine_with_room() {
    let expected = "/usr/bin/mpirun --bind-to none -n 4 /v/bin/pxcluster-rank --cluster-id default";
    assert_eq!(line(&launch(Flavour::OpenMpi, 3)), expected);
    let expected = "/usr/bin/mpirun -n 4 /v/bin/pxcluster-rank --cluster-id default";
    assert_eq!(line(&launch(Flavour::Mpich, 3)), expected);
}

#[test]
fn the_users_flags_come_last_and_the_users_binding_is_left() {
    let more: Vec<String> = ["--mca", "btl", "tcp,self"].map(str::to_owned).to_vec();
    let bound = Launch { more: more.clone(), binding_is_chosen: true, ..launch(Flavour::OpenMpi, 4) };
    assert!(line(&bound).starts_with("/usr/bin/mpirun --oversubscribe --mca btl tcp,self -n 5 "));
    let srun = Starter::Srun { cpus_per_task: None };
    let more = vec!["--cpu-bind=cores".to_owned()];
    assert!(line(&Launch { starter: srun, more, ..bound }).contains("--kill-on-bad-exit=0 --cpu-bind=cores -n 5 "));
}

#[test]
fn engines_per_node_are_told_in_each_ones_way() {
    let node = |name: &str| Node { name: name.to_owned(), slots: 4 };
    let spread = Spread::new(None, 4, &[node("a"), node("b")], 4).unwrap();
    let on_hosts = |flavour, hostfile: Option<&str>| {
        let hostfile = hostfile.map(PathBuf::from);
        line(&Launch { spread: Some(spread.clone()), hostfile, ..launch(flavour, spread.engines()) })
    };
    let in_a_job = on_hosts(Flavour::OpenMpi, None);
    assert!(in_a_job.contains(" --oversubscribe --bind-to none --host a:5,b:4 -n 9 "), "{in_a_job}");
    let by_ssh = on_hosts(Flavour::OpenMpi, Some("hosts"));
    assert!(by_ssh.contains("mpirun --bind-to none --host a:5,b:4 -x PXCLUSTER_DIR -n 9 "), "{by_ssh}");
    assert!(on_hosts(Flavour::Mpich, Some("hosts")).contains("mpirun -hosts a:5,b:4 -n 9 "));
    let starter = Starter::Srun { cpus_per_task: None };
    let srun = line(&Launch { starter, spread: Some(spread.clone()), ..launch(Flavour::OpenMpi, spread.engines()) });
    assert!(srun.contains(" --nodes=2 --distribution=block -n 9 "), "{srun}");
    let here = Spread::new(None, 8, &[], 4).unwrap();
    let here = line(&Launch { spread: Some(here), ..launch(Flavour::OpenMpi, 8) });
    assert!(here.starts_with("/usr/bin/mpirun --oversubscribe --bind-to none -n 9 "), "{here}");
}

#[test]
fn open_mpi_is_told_of_root_and_of_too_few_cores() {
    let launch = Launch { as_root: true, ..launch(Flavour::OpenMpi, 4) };
    assert_eq!(
        line(&launch),
        "/usr/bin/mpirun --allow-run-as-root --oversubscribe --bind-to none -n 5 /v/bin/pxcluster-rank \
         --cluster-id default"
    );
}

#[test]
fn mpich_needs_to_be_told_nothing() {
    let launch = Launch { as_root: true, ..launch(Flavour::Mpich, 8) };
    assert_eq!(line(&launch), "/usr/bin/mpirun -n 9 /v/bin/pxcluster-rank --cluster-id default");
}

#[test]
fn each_has_its_own_flag_for_hosts() {
    let hosts = |flavour| line(&Launch { hostfile: Some("my hosts".into()), ..launch(flavour, 3) });
    assert!(hosts(Flavour::OpenMpi).contains(" --hostfile 'my hosts' -x PXCLUSTER_DIR -n 4 "));
    assert!(hosts(Flavour::Mpich).contains(" -f 'my hosts' -n 4 "));
}

#[test]
fn srun_is_told_the_plugin_and_the_cpus() {
    let srun = |cpus_per_task| Starter::Srun { cpus_per_task };
    let open_mpi = Launch { starter: srun(Some(2)), as_root: true, ..launch(Flavour::OpenMpi, 8) };
    let expected =
        "srun --mpi=pmix --kill-on-bad-exit=0 --cpus-per-task=2 -n 9 /v/bin/pxcluster-rank --cluster-id default";
    assert_eq!(line(&open_mpi), expected);
    let mpich = Launch { starter: srun(None), ..launch(Flavour::Mpich, 1) };
    assert!(line(&mpich).starts_with("srun --mpi=pmi2 --kill-on-bad-exit=0 -n 2 "));
    let hosts = Launch { hostfile: Some("hosts".into()), ..mpich };
    assert_eq!(hosts.command_line(), Err(PlanError::HostfileForSrun));
}

#[test]
fn max_slots_are_respected() {
    let full = Launch { room: Room { slots: 2, max_slots: Some(4) }, ..launch(Flavour::OpenMpi, 4) };
    assert_eq!(
        full.command_line().unwrap_err().to_string(),
        "4 engines and the controller are 5 processes, more than the 4 that max_slots allows in the hostfile; \
         ask for fewer engines or raise it"
    );
    assert!(Launch { engines: 3, ..full }.command_line().is_ok());
}

#[test]
fn a_jobs_slots_count_where_its_hosts_are_known() {
    let room = |vars: &[(&str, &str)]| {
        let read_file = |_: &std::path::Path| Ok("h1 2 q UNDEFINED\nh2 3 q UNDEFINED\n".to_owned());
        let job = allocation::Allocation::find(vars.iter().copied(), read_file).unwrap();
        Room::of_job(job.as_ref(), || 8)
    };
    let slots = |slots| Room { slots, max_slots: None };
    assert_eq!(room(&[]), slots(8));
    assert_eq!(room(&[("JOB_ID", "1"), ("PE_HOSTFILE", "/pe")]), slots(5));
    assert_eq!(room(&[("LSB_JOBID", "1"), ("LSB_MCPU_HOSTS", "h1 16 h2 16")]), slots(32));
    assert_eq!(room(&[("FLUX_JOB_ID", "f1"), ("FLUX_JOB_NNODES", "4"), ("FLUX_JOB_SIZE", "4")]), slots(8));
}

#[test]
fn one_process_of_the_room_is_the_controller() {
    for (slots, engines) in [(0, 1), (1, 1), (2, 1), (64, 63)] {
        assert_eq!(Room { slots, max_slots: None }.default_engines(), engines);
    }
}
