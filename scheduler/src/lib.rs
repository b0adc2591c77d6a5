//! Who gets what next, for one consumer group in one partition.
//!
//! A pure state machine: time is an argument, nothing here does I/O, reads a clock, spawns or
//! knows Wasm. The owner calls [`Scheduler::handle`] for everything that happens,
//! [`Scheduler::poll`] until it answers `None`, and again no later than
//! [`Scheduler::next_timeout`].

mod asks;
mod band;
mod decision;
mod event;
mod explain;
mod hold;
mod index;
mod lite;
mod pick;
mod place;
mod policy;
mod quota;
mod route;
mod scheduler;
pub mod simulation;
mod slab;
mod tenant;
#[cfg(test)]
mod tests;
mod watchdog;

pub use decision::{Charge, Decision};
pub use event::{Concurrency, Ending, Event, Head, HoldSource, Members, Quotas, Scope, SessionKey, WorkResult};
pub use explain::{Blocker, Bucket, Explanation, Rank, Said};
pub use policy::{Answer, Ask, ConcurrencyCap, Feedback, Frame, GroupView, LiteView, Plan, TenantView, Verdict};
pub use quota::QuotaState;
pub use scheduler::{Scheduler, Stats};
pub use tenant::WEIGHT_DEFAULT;
