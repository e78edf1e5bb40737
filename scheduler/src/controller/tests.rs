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
        self.tell(Event::Map { key: key(request), tasks, targets: targets.map(set), retries })
    }

    fn finish(&mut self, request: u64, engine: u32, tasks: &[u32], failed: &[usize]) -> Vec<Action> {
        self.tell(Event::TasksFinished { key: key(request), engine: EngineId(engine), tasks, failed, busy: 1.0 })
    }

    fn direct(&mut self, request: u64, targets: &[u32]) -> Vec<Action> {
        self.tell(Event::Direct { key: key(request), targets: set(targets) })
    }

    fn answer(&mut self, request: u64, engine: u32) -> Vec<Action> {
        self.tell(Event::DirectFinished { key: key(request), engine: EngineId(engine) })
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
    Action::Deliver { key: key(request), accepted: Accepted::All }
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
    assert_eq!(cluster.0.load(EngineId(1)), EngineLoad { queue: 0, tasks: 1, completed: 1 });
    assert_eq!(cluster.finish(1, 0, &[0], &[]), [deliver_all(1)]);
    assert_eq!(cluster.finish(1, 1, &[2], &[]), [deliver_all(1), done(1, &[0, 1])]);
    assert_eq!(cluster.finish(1, 1, &[2], &[]), [], "once");
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
    let Action::Grant { last_direct, submitted, first, .. } = &actions[2] else { panic!("{actions:?}") };
    assert_eq!((*last_direct, *submitted, *first), (Epoch(1), Epoch(1), true));
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
    let actions = cluster.tell(Event::EngineLost(EngineId(0)));
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
    let all = |request| Action::TasksLost { key: key(request), tasks: one(0..9) };
    assert_eq!(cluster.tell(Event::EngineLost(EngineId(1))), [all(1), done(1, &[])]);
    assert_eq!(cluster.map(2, 9, Some(&[1]), 0), [all(2), done(2, &[])]);
    cluster.tell(Event::EngineLost(EngineId(0)));
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
    assert_eq!(actions[0], deliver_all(1), "two retries are used up");
    assert_eq!(grants(&actions), [(0, 1..2)]);
}

#[test]
fn of_a_message_only_what_is_not_tried_again_is_delivered() {
    let mut cluster = Checked::with_engines(1);
    assert_eq!(grants(&cluster.map(1, 8, None, 1)), [(0, 0..2)]);
    let actions = cluster.finish(1, 0, &[0, 1], &[0]);
    assert_eq!(actions[0], Action::Deliver { key: key(1), accepted: Accepted::Positions(vec![1]) });
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
    let aborted = |tasks| Action::TasksAborted { key: key(1), tasks };
    assert_eq!(actions, [Action::AbortOn { key: key(1), engines: set(&[0, 1]) }, aborted(one(4..10))]);
    assert_eq!(cluster.finish(1, 0, &[0, 1], &[1]), [deliver_all(1)], "no retry");
    assert_eq!(cluster.tell(Event::EngineLost(EngineId(1))), [aborted(one(2..4)), done(1, &[0])]);
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
