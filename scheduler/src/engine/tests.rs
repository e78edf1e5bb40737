use super::*;
use pxcluster_protocol::ClientId;

fn key(request: u64) -> RequestKey {
    RequestKey { client: ClientId(1), request }
}

fn direct(request: u64, epoch: u64, previous: u64) -> EngineEvent {
    EngineEvent::Direct { key: key(request), epoch: Epoch(epoch), previous: Epoch(previous) }
}

fn tasks(request: u64, range: Range<TaskIndex>, last_direct: Epoch) -> EngineEvent {
    EngineEvent::Tasks { key: key(request), parcels: vec![(1, range)], last_direct }
}

#[test]
fn direct_requests_run_in_order_although_they_arrive_out_of_order() {
    let mut engine = Engine::new();
    engine.handle(direct(2, 7, 3));
    assert_eq!(engine.next_work(), None);
    engine.handle(direct(1, 3, 0));
    assert_eq!(engine.next_work(), Some(Work::Direct { key: key(1), epoch: Epoch(3) }));
    assert_eq!(engine.next_work(), None, "one main thread");
    engine.handle(EngineEvent::DirectFinished(Epoch(3)));
    assert_eq!(engine.next_work(), Some(Work::Direct { key: key(2), epoch: Epoch(7) }));
    engine.check_invariants();
}

#[test]
fn a_task_waits_for_the_direct_request_that_its_grant_names() {
    let mut engine = Engine::new();
    engine.handle(tasks(2, 0..3, Epoch(1)));
    assert_eq!(engine.next_work(), None, "I1");
    engine.handle(direct(1, 1, 0));
    assert_eq!(engine.next_work(), Some(Work::Direct { key: key(1), epoch: Epoch(1) }));
    engine.handle(EngineEvent::DirectFinished(Epoch(1)));
    assert_eq!(engine.next_work(), Some(Work::Tasks { key: key(2), parcel: 1, range: 0..1 }));
}

#[test]
fn batches_grow_with_what_is_measured() {
    let mut engine = Engine::new();
    engine.handle(tasks(1, 0..1_000, Epoch::ZERO));
    assert_eq!(engine.next_work(), Some(Work::Tasks { key: key(1), parcel: 1, range: 0..1 }));
    engine.handle(EngineEvent::TasksFinished { key: key(1), tasks: 1, busy: 2e-6 });
    assert_eq!(engine.next_work(), Some(Work::Tasks { key: key(1), parcel: 1, range: 1..251 }));
    assert_eq!(engine.depth(), 749);
}

#[test]
fn aborted_work_is_answered_at_once_and_not_run() {
    let mut engine = Engine::new();
    engine.handle(direct(1, 1, 0));
    assert_eq!(engine.next_work(), Some(Work::Direct { key: key(1), epoch: Epoch(1) }));
    engine.handle(direct(2, 3, 1));
    engine.handle(direct(3, 4, 3));
    engine.handle(tasks(4, 0..5, Epoch(4)));
    engine.handle(EngineEvent::Abort(vec![key(1), key(2), key(4)]));
    let piece = Piece { parcel: 1, range: 0..5 };
    let aborted = Aborted { directs: vec![(key(2), Epoch(3))], tasks: vec![(key(4), piece)] };
    assert_eq!(engine.take_aborted(0), aborted, "while the first one runs");
    assert_eq!(engine.take_aborted(0), Aborted::default(), "once");
    assert!(!engine.expects(Epoch(3)));
    engine.check_invariants();
    engine.handle(EngineEvent::DirectFinished(Epoch(1)));
    assert_eq!(engine.next_work(), Some(Work::Direct { key: key(3), epoch: Epoch(4) }), "its turn is passed over");
    engine.handle(EngineEvent::DirectFinished(Epoch(4)));
    assert_eq!(engine.next_work(), None);
}

#[test]
fn what_arrives_after_its_abort_is_answered_too() {
    let mut engine = Engine::new();
    engine.handle(EngineEvent::Abort(vec![key(1), key(2)]));
    engine.handle(direct(1, 1, 0));
    assert_eq!(engine.take_aborted(0).directs, [(key(1), Epoch(1))]);
    engine.handle(tasks(2, 3..5, Epoch(1)));
    assert_eq!(engine.take_aborted(0).tasks, [(key(2), Piece { parcel: 1, range: 3..5 })]);
    assert_eq!(engine.next_work(), None);
    assert!(!engine.expects(Epoch(1)));
}

#[test]
fn an_abort_cuts_the_running_batch_behind_what_has_started() {
    let mut engine = Engine::new();
    engine.handle(tasks(1, 0..100, Epoch::ZERO));
    engine.next_work();
    engine.handle(EngineEvent::TasksFinished { key: key(1), tasks: 1, busy: 1e-6 });
    assert_eq!(engine.next_work(), Some(Work::Tasks { key: key(1), parcel: 1, range: 1..100 }));
    engine.handle(EngineEvent::Abort(vec![key(1)]));
    assert_eq!(engine.take_aborted(10).tasks, [(key(1), Piece { parcel: 1, range: 11..100 })]);
    assert_eq!(engine.running_tasks(), 1..11);
}

#[test]
fn a_direct_request_that_comes_again_runs_once() {
    let mut engine = Engine::new();
    let again = |engine: &mut Engine| {
        assert!(!engine.expects(Epoch(1)));
        engine.handle(direct(1, 1, 0));
        engine.check_invariants();
    };
    engine.handle(direct(1, 1, 0));
    again(&mut engine);
    assert_eq!(engine.next_work(), Some(Work::Direct { key: key(1), epoch: Epoch(1) }));
    again(&mut engine);
    engine.handle(EngineEvent::DirectFinished(Epoch(1)));
    again(&mut engine);
    assert_eq!(engine.next_work(), None);
    assert!(engine.expects(Epoch(2)));
}

#[test]
fn the_main_thread_runs_one_batch_at_a_time() {
    let mut engine = Engine::new();
    engine.handle(tasks(1, 0..2, Epoch::ZERO));
    assert_eq!(engine.next_work(), Some(Work::Tasks { key: key(1), parcel: 1, range: 0..1 }));
    engine.handle(direct(2, 1, 0));
    assert_eq!(engine.next_work(), None);
    engine.handle(EngineEvent::TasksFinished { key: key(1), tasks: 1, busy: 1.0 });
    assert_eq!(engine.next_work(), Some(Work::Direct { key: key(2), epoch: Epoch(1) }), "before the next task");
}

#[test]
fn the_back_half_of_what_has_not_started_is_given_away() {
    let mut engine = Engine::new();
    let piece = |parcel, range| Piece { parcel, range };
    let parcels = vec![(1, 0..4), (2, 10..13)];
    engine.handle(EngineEvent::Tasks { key: key(1), parcels, last_direct: Epoch::ZERO });
    engine.handle(EngineEvent::Tasks { key: key(2), parcels: vec![(3, 0..5)], last_direct: Epoch::ZERO });
    assert_eq!(engine.give(key(1), 0), [piece(2, 10..13), piece(1, 3..4)]);
    assert_eq!(engine.next_work(), Some(Work::Tasks { key: key(1), parcel: 1, range: 0..1 }));
    assert_eq!(engine.give(key(1), 1), [piece(1, 2..3)]);
    assert_eq!(engine.give(key(1), 1), [piece(1, 1..2)]);
    assert_eq!(engine.give(key(1), 1), [], "the last one runs");
    assert_eq!(engine.depth(), 5);
}

#[test]
fn a_running_batch_is_cut_behind_what_has_started() {
    let mut engine = Engine::new();
    engine.handle(tasks(1, 0..100, Epoch::ZERO));
    engine.next_work();
    engine.handle(EngineEvent::TasksFinished { key: key(1), tasks: 1, busy: 1e-6 });
    assert_eq!(engine.next_work(), Some(Work::Tasks { key: key(1), parcel: 1, range: 1..100 }));
    assert_eq!(engine.take_ask(), Some(1), "nothing is left");
    assert_eq!(engine.take_ask(), None, "once");
    assert_eq!(engine.give(key(1), 10), [Piece { parcel: 1, range: 55..100 }]);
    assert_eq!(engine.running_tasks(), 1..55);
    engine.handle(EngineEvent::TasksFinished { key: key(1), tasks: 54, busy: 54e-6 });
    assert_eq!(engine.next_work(), None);
}
