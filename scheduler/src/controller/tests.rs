use super::*;
use std::ops::Range;

fn key(request: u64) -> RequestKey {
    RequestKey { client: ClientId(1), request }
}

fn set(ids: &[u32]) -> EngineSet {
    ids.iter().copied().map(EngineId).collect()
}

/// A controller that is checked after every event.
struct Checked(Controller);

impl Checked {
    fn with_engines(count: u32) -> Self {
        let mut checked = Self(Controller::new(GrantPolicy { unknown_tasks: 2, ..GrantPolicy::default() }));
        for id in 0..count {
            assert!(checked.tell(Event::EngineJoined(EngineId(id))).is_empty());
        }
        checked
    }

    fn tell(&mut self, event: Event<'_>) -> Vec<Action> {
        let mut out = Vec::new();
        self.0.handle(event, &mut out);
        self.0.check_invariants();
        out
    }

    fn map(&mut self, request: u64, tasks: u32, targets: Option<&[u32]>, retries: u32) -> Vec<Action> {
        let none = Dependency::default;
        let targets = targets.map(set);
        self.tell(Event::Map(NewMap { key: key(request), tasks, targets, retries, after: none(), follow: none() }))
    }

    fn finish(&mut self, request: u64, engine: u32, tasks: &[u32], raised: &[usize]) -> Vec<Action> {
        self.fail(request, engine, tasks, raised, Failure::Raised)
    }

    fn fail(&mut self, request: u64, engine: u32, tasks: &[u32], failed: &[usize], how: Failure) -> Vec<Action> {
        let failed: Vec<Failed> = failed.iter().map(|&at| Failed { at, how }).collect();
        let (key, engine, failed) = (key(request), EngineId(engine), &failed[..]);
        self.tell(Event::TasksFinished { key, engine, tasks, failed, busy: 1.0 })
    }

    fn lose(&mut self, engine: u32, suspect: Suspect) -> Vec<Action> {
        self.tell(Event::EngineLost { engine: EngineId(engine), suspect })
    }

    fn direct(&mut self, request: u64, targets: &[u32]) -> Vec<Action> {
        self.tell(Event::Direct { key: key(request), targets: set(targets) })
    }

    fn answer(&mut self, request: u64, engine: u32) -> Vec<Action> {
        self.tell(Event::DirectFinished { key: key(request), engine: EngineId(engine), success: true })
    }
}

fn grants(actions: &[Action]) -> Vec<(u32, Range<TaskIndex>)> {
    let grant = |action: &Action| match action {
        Action::Grant { engine, range, .. } => Some((engine.0, range.clone())),
        _ => None,
    };
    actions.iter().filter_map(grant).collect()
}

fn one(range: Range<TaskIndex>) -> Vec<Range<TaskIndex>> {
    std::iter::once(range).collect()
}

fn deliver_all(request: u64) -> Action {
    Action::Deliver { key: key(request), accepted: Accepted::All, tries: vec![] }
}

fn done(request: u64, engines: &[u32]) -> Action {
    Action::MapDone { key: key(request), engines: set(engines) }
}

#[test]
fn a_map_ends_when_every_result_has_come() {
    let mut cluster = Checked::with_engines(2);
    assert_eq!(grants(&cluster.map(1, 3, None, 0)), [(0, 0..1), (1, 1..2)]);
    assert_eq!(cluster.0.unassigned(), 1);
    let actions = cluster.finish(1, 1, &[1], &[]);
    assert_eq!(actions[0], deliver_all(1));
    assert_eq!(grants(&actions), [(1, 2..3)]);
    let load = EngineLoad { tasks: 1, completed: 1, finished: 1, ..EngineLoad::default() };
    assert_eq!(cluster.0.load(EngineId(1)), load);
    assert_eq!(cluster.finish(1, 0, &[0], &[]), [deliver_all(1)]);
    assert_eq!(cluster.finish(1, 1, &[2], &[]), [deliver_all(1), done(1, &[0, 1])]);
    let forget = Action::Forget { key: key(1), engine: EngineId(1) };
    assert_eq!(cluster.finish(1, 1, &[2], &[]), [forget], "once");
    assert!(cluster.0.is_idle());
}

#[test]
fn an_empty_map_is_done_at_once() {
    assert_eq!(Checked::with_engines(1).map(1, 0, None, 0), [done(1, &[])]);
}

#[test]
fn a_direct_request_names_the_one_before_it_of_each_target() {
    let mut cluster = Checked::with_engines(3);
    cluster.direct(1, &[0]);
    let broadcast = |epoch, previous, targets: &[u32], exceptions| Action::Broadcast {
        key: key(epoch),
        targets: set(targets),
        epoch: Epoch(epoch),
        previous: Epoch(previous),
        exceptions,
    };
    assert_eq!(cluster.direct(2, &[0, 1, 2]), [broadcast(2, 0, &[0, 1, 2], vec![(EngineId(0), Epoch(1))])]);
    assert_eq!(cluster.direct(3, &[0, 1]), [broadcast(3, 2, &[0, 1], vec![])]);
}

#[test]
fn an_engine_is_granted_tasks_after_its_answers() {
    let mut cluster = Checked::with_engines(2);
    cluster.direct(1, &[0]);
    assert_eq!(grants(&cluster.map(2, 20, None, 0)), [(1, 0..2)], "engine 0 could not start them yet");
    let actions = cluster.answer(1, 0);
    let reply = Action::Reply { key: key(1), engine: EngineId(0) };
    assert_eq!(actions[..2], [reply, Action::DirectDone { key: key(1), engines: set(&[]) }]);
    let Action::Grant { last_direct, submitted, function, .. } = &actions[2] else { panic!("{actions:?}") };
    assert_eq!((*last_direct, *submitted, *function), (Epoch(1), Epoch(1), true));
}

#[test]
fn a_lost_engine_gives_back_its_tasks_and_counts_no_more() {
    let mut cluster = Checked::with_engines(3);
    cluster.direct(1, &[0, 1, 2]);
    for engine in 0..3 {
        cluster.answer(1, engine);
    }
    assert_eq!(grants(&cluster.map(2, 2, None, 0)), [(0, 0..1), (1, 1..2)]);
    cluster.direct(3, &[0, 1]);
    let actions = cluster.lose(0, Suspect::Nobody);
    assert_eq!(actions[0], Action::DirectLost { key: key(3), engine: EngineId(0) });
    let Action::Broadcast { targets, epoch, previous, .. } = &actions[1] else { panic!("{actions:?}") };
    assert_eq!((targets, *epoch, *previous), (&set(&[1]), Epoch(2), Epoch(1)), "it may not have relayed it");
    assert_eq!(grants(&actions), [(2, 0..1)]);
    assert_eq!(cluster.finish(2, 0, &[0], &[]), [], "late results of a lost engine");
    assert_eq!(cluster.answer(3, 0), [], "late answer of a lost engine");
    assert_eq!(cluster.answer(3, 1).len(), 2);
}

#[test]
fn tasks_that_no_living_engine_may_run_are_lost_and_said_to_be() {
    let mut cluster = Checked::with_engines(2);
    assert_eq!(grants(&cluster.map(1, 9, Some(&[1]), 0)), [(1, 0..2)]);
    let all = |request| Action::TasksEnded { key: key(request), tasks: one(0..9), why: Why::NoEngine };
    assert_eq!(cluster.lose(1, Suspect::Nobody), [all(1), done(1, &[])]);
    assert_eq!(cluster.map(2, 9, Some(&[1]), 0), [all(2), done(2, &[])]);
    cluster.lose(0, Suspect::Nobody);
    assert_eq!(cluster.map(3, 9, None, 0), [all(3), done(3, &[])]);
    let lost = Action::DirectLost { key: key(4), engine: EngineId(1) };
    assert_eq!(cluster.direct(4, &[1]), [lost, Action::DirectDone { key: key(4), engines: set(&[]) }]);
}

#[test]
fn a_task_that_raises_is_tried_again_before_its_error_counts() {
    let mut cluster = Checked::with_engines(1);
    assert_eq!(grants(&cluster.map(1, 2, None, 2)), [(0, 0..1)]);
    assert_eq!(grants(&cluster.finish(1, 0, &[0], &[0])), [(0, 0..1)]);
    assert_eq!(grants(&cluster.finish(1, 0, &[0], &[0])), [(0, 0..1)]);
    let actions = cluster.finish(1, 0, &[0], &[0]);
    let third = Action::Deliver { key: key(1), accepted: Accepted::All, tries: vec![(0, 3)] };
    assert_eq!(actions[0], third, "two retries are used up");
    assert_eq!(grants(&actions), [(0, 1..2)]);
}

#[test]
fn of_a_message_only_what_is_not_tried_again_is_delivered() {
    let mut cluster = Checked::with_engines(1);
    assert_eq!(grants(&cluster.map(1, 8, None, 1)), [(0, 0..2)]);
    let actions = cluster.finish(1, 0, &[0, 1], &[0]);
    assert_eq!(actions[0], Action::Deliver { key: key(1), accepted: Accepted::Positions(vec![1]), tries: vec![] });
    assert_eq!(grants(&actions), [(0, 0..1)]);
}

#[test]
fn a_retry_goes_to_an_idle_engine() {
    let mut cluster = Checked::with_engines(2);
    cluster.map(1, 1, None, 1);
    assert_eq!(grants(&cluster.finish(1, 0, &[0], &[0])), [(1, 0..1)], "who has done least");
}

#[test]
fn nothing_of_an_aborted_map_starts_again() {
    let mut cluster = Checked::with_engines(2);
    cluster.map(1, 10, None, 5);
    let actions = cluster.tell(Event::Abort(vec![key(1)]));
    let aborted = |tasks| Action::TasksEnded { key: key(1), tasks, why: Why::Aborted };
    assert_eq!(actions, [Action::AbortOn { key: key(1), engines: set(&[0, 1]) }, aborted(one(2..8))]);
    assert_eq!(cluster.finish(1, 0, &[0, 1], &[1]), [deliver_all(1)], "no retry");
    assert_eq!(cluster.lose(1, Suspect::Nobody), [aborted(one(8..10)), done(1, &[0])]);
}

#[test]
fn an_aborted_direct_request_is_forgotten_where_it_was_aborted() {
    let mut cluster = Checked::with_engines(2);
    cluster.direct(1, &[0, 1]);
    cluster.answer(1, 0);
    let gone = cluster.tell(Event::ClientGone(ClientId(1)));
    assert_eq!(gone, [Action::AbortOn { key: key(1), engines: set(&[1]) }]);
    assert_eq!(cluster.answer(1, 1)[1], Action::DirectDone { key: key(1), engines: set(&[1]) });
    assert!(cluster.0.is_idle());
}

fn thefts(actions: &[Action]) -> Vec<(u32, u32)> {
    let theft = |action: &Action| match action {
        Action::Steal { victim, thief, .. } => Some((victim.0, thief.0)),
        _ => None,
    };
    actions.iter().filter_map(theft).collect()
}

#[test]
fn an_idle_engine_is_given_what_another_one_has_not_started() {
    let mut cluster = Checked::with_engines(2);
    cluster.direct(1, &[1]);
    assert_eq!(grants(&cluster.map(2, 3, None, 0)), [(0, 0..1)]);
    cluster.0.engines.hold(EngineId(0), key(2), cluster.0.maps.take(key(2), map::End::Front, 2).expect("two wait"));
    let freed = cluster.answer(1, 1);
    assert_eq!(thefts(&freed), [(0, 1)]);
    let gave = |ranges| Event::Gave { engine: EngineId(0), key: key(2), thief: EngineId(1), ranges };
    assert_eq!(cluster.tell(gave(vec![])), [], "it has nothing to give until it reports");
    assert_eq!(thefts(&cluster.finish(2, 0, &[0], &[])), [(0, 1)]);
    let got = Event::Got { engine: EngineId(1), key: key(2), victim: EngineId(0), ranges: one(2..3) };
    assert_eq!(cluster.tell(got), [], "told by the thief before the victim");
    assert_eq!(cluster.finish(2, 1, &[2], &[])[0], deliver_all(2));
    assert_eq!(cluster.tell(gave(one(2..3))), []);
    assert_eq!(cluster.finish(2, 0, &[1], &[])[1], done(2, &[0, 1]));
    let thief = EngineLoad { completed: 2, finished: 1, stolen: 1, ..EngineLoad::default() };
    assert_eq!(cluster.0.load(EngineId(1)), thief, "a direct request, and the task that it took");
}

#[test]
fn what_the_dead_have_done_counts() {
    let mut cluster = Checked::with_engines(2);
    cluster.direct(1, &[0, 1]);
    assert_eq!(cluster.0.directs(), 1);
    cluster.answer(1, 0);
    cluster.answer(1, 1);
    cluster.map(2, 3, None, 0);
    cluster.finish(2, 0, &[0], &[]);
    assert_eq!(cluster.0.totals(), Totals { finished: 1, stolen: 0 });
    cluster.lose(0, Suspect::Nobody);
    assert_eq!(cluster.0.totals(), Totals { finished: 1, stolen: 0 });
    cluster.finish(2, 1, &[1], &[]);
    cluster.finish(2, 1, &[2], &[]);
    assert_eq!((cluster.0.totals(), cluster.0.directs()), (Totals { finished: 3, stolen: 0 }, 0));
}

#[test]
fn stolen_tasks_whose_thief_dies_on_their_way_are_granted_again() {
    let mut cluster = Checked::with_engines(2);
    cluster.direct(1, &[1]);
    assert_eq!(grants(&cluster.map(2, 3, None, 0)), [(0, 0..1)]);
    cluster.0.engines.hold(EngineId(0), key(2), cluster.0.maps.take(key(2), map::End::Front, 2).expect("two wait"));
    assert_eq!(thefts(&cluster.answer(1, 1)), [(0, 1)]);
    cluster.tell(Event::Gave { engine: EngineId(0), key: key(2), thief: EngineId(1), ranges: one(2..3) });
    cluster.lose(1, Suspect::Nobody);
    assert_eq!(cluster.0.unassigned(), 1);
}

#[test]
fn a_task_that_was_running_when_two_engines_died_does_not_get_a_third() {
    let mut cluster = Checked::with_engines(4);
    assert_eq!(grants(&cluster.map(1, 1, None, 0)), [(0, 0..1)]);
    assert_eq!(grants(&cluster.lose(0, Suspect::Task(key(1), 0))), [(1, 0..1)], "alone");
    let actions = cluster.lose(1, Suspect::Task(key(1), 0));
    let why = Why::Killed(vec![EngineId(0), EngineId(1)]);
    assert_eq!(actions, [Action::TasksEnded { key: key(1), tasks: one(0..1), why }, done(1, &[])]);
}

#[test]
fn an_innocent_task_is_granted_again_as_often_as_engines_die() {
    let mut cluster = Checked::with_engines(4);
    cluster.map(1, 1, None, 0);
    for engine in 0..3 {
        assert_eq!(grants(&cluster.lose(engine, Suspect::Nobody)), [(engine + 1, 0..1)]);
    }
}

#[test]
fn a_task_that_an_engine_refuses_goes_to_another_until_none_is_left() {
    let mut cluster = Checked::with_engines(2);
    assert_eq!(grants(&cluster.map(1, 1, None, 0)), [(0, 0..1)]);
    assert_eq!(grants(&cluster.fail(1, 0, &[0], &[0], Failure::Unmet)), [(1, 0..1)]);
    let end = Action::TasksEnded { key: key(1), tasks: one(0..1), why: Why::Unmet };
    assert_eq!(cluster.fail(1, 1, &[0], &[0], Failure::Unmet), [end, done(1, &[0, 1])]);
}

#[test]
fn one_of_the_first_grants_is_the_last_task_and_long_ones_go_first() {
    let mut cluster = Checked::with_engines(2);
    cluster.0.policy.unknown_tasks = 1;
    assert_eq!(grants(&cluster.map(1, 100, None, 0)), [(0, 0..1), (1, 99..100)]);
    cluster.tell(Event::TasksFinished { key: key(1), engine: EngineId(0), tasks: &[0], failed: &[], busy: 0.03 });
    let actions =
        cluster.tell(Event::TasksFinished { key: key(1), engine: EngineId(1), tasks: &[99], failed: &[], busy: 9.0 });
    assert_eq!(grants(&actions), [(1, 98..99)], "long for what is left");
}

fn after(request: u64) -> Dependency {
    let needs = vec![Need { key: key(request), part: None }];
    Dependency { needs, all: true, success: true, failure: false }
}

#[test]
fn a_map_waits_for_what_it_comes_after() {
    let mut cluster = Checked::with_engines(2);
    cluster.map(1, 1, None, 0);
    let new = |request, after, follow| {
        Event::Map(NewMap { key: key(request), tasks: 2, targets: None, retries: 0, after, follow })
    };
    assert_eq!(cluster.tell(new(2, after(1), Dependency::default())), []);
    assert_eq!(cluster.tell(new(3, Dependency::default(), after(1))), []);
    assert_eq!(cluster.0.unassigned(), 4);
    let actions = cluster.finish(1, 0, &[0], &[]);
    assert!(grants(&actions).contains(&(1, 0..1)), "{actions:?}");
    let actions = cluster.tell(new(4, after(9), Dependency::default()));
    let ended = Action::TasksEnded { key: key(4), tasks: one(0..2), why: Why::Unknown(key(9)) };
    assert_eq!(actions, [ended, done(4, &[])]);
}

#[test]
fn what_can_never_be_met_ends_and_so_does_what_waits_for_it() {
    let mut cluster = Checked::with_engines(1);
    cluster.map(1, 1, None, 0);
    let new = |request, of| {
        let (key, follow) = (key(request), Dependency::default());
        Event::Map(NewMap { key, tasks: 1, targets: None, retries: 0, after: after(of), follow })
    };
    cluster.tell(new(2, 1));
    cluster.tell(new(3, 2));
    let actions = cluster.finish(1, 0, &[0], &[0]);
    let ended = |request| Action::TasksEnded { key: key(request), tasks: one(0..1), why: Why::Impossible };
    assert!(actions.contains(&ended(2)) && actions.contains(&ended(3)), "{actions:?}");
    assert!(cluster.0.is_idle());
}
