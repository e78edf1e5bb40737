//! Who runs what, when: the decisions of the controller and of the engines, without any doing.
//!
//! This crate never reads a clock, never blocks, starts no thread and opens no socket. Both roles are machines with
//! one door, `handle(event, &mut actions)`; the same calls in the same order give the same actions. So a whole
//! cluster can be run in one thread from a seed (`sim`), and a failure can be replayed.
//!
//! * [`Controller`] (rank 0) numbers direct requests, holds the pool of tasks, grants slices of maps to engines and
//!   decides which results count.
//! * [`Engine`] (ranks ≥ 1) orders what has arrived, for one main thread.
//!
//! Invariants, checked by `check_invariants` after every step of the tests:
//!
//! * **I1, causality.** A grant names the last direct request of its receiver at the time of the grant. The engine starts
//!   none of its tasks before that request is finished there. Hence a task sees every push and execute that was
//!   submitted before it.
//! * **Conservation.** Every task of a map is in exactly one place: the pool, one engine's holdings, or finished (delivered,
//!   aborted, or lost because no engine is left that may run it).
//! * **No idling.** While a task waits, no engine that may run it is idle; while an engine holds tasks that it has not
//!   started, and another one that may run them has nothing, some of them are on their way. So every map ends as long as
//!   engines report or are reported lost.
//! * **Two deaths.** A task that was running when an engine died is granted alone; it is not granted a third time.
//! * **Exactly once.** A result counts only if its task is in the holdings of the engine that sends it; an answer to a direct
//!   request, only if that engine still owes it. A lost engine holds and owes nothing.

mod controller;
mod engine;
mod grants;
mod ranges;
#[doc(hidden)]
pub mod sim;

pub use controller::{
    Accepted, Action, Controller, Dependency, EngineLoad, Event, Failed, Failure, Need, NewMap, Suspect, Totals, Why,
};
pub use engine::{Aborted, Engine, EngineEvent, ParcelId, Piece, Work};
pub use grants::{GrantPolicy, Held};
pub use ranges::TaskSet;
