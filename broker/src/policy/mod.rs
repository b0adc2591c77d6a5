//! Wasm policies: from uploaded bytes to answers that the scheduler may use.
//!
//! [`PolicyHost`] has uploaded bytes compiled by a [worker], a process with limits, and keeps the code; [`CompiledPolicy`] makes
//! instances, [`PolicyInstance`] answers one group in one shard what a [`Briefing`] put together,
//! [`BoundPolicy`] keeps it answering through faults, [`threads`] do what no shard waits for. A policy can do nothing but compute and
//! log; what it answers is checked before anyone sees it. This module never decides what a failed ask means for deliveries: the
//! scheduler does.

mod alarm;
mod base64_text;
mod bound;
mod briefing;
mod cabinet;
mod cache;
mod capsule;
mod comparison;
mod compiled;
mod compiler;
mod engine;
mod fault;
mod guest;
mod guest_time;
mod host;
mod instance;
pub mod lab;
mod limits;
mod names;
mod program;
mod raw;
mod recipe;
pub mod replay;
mod row;
mod schema;
mod shadow;
mod strikes;
mod successor;
mod tape;
mod threads;
mod ticker;
mod translate;
#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub mod types;
mod untold;
mod worker;
mod world;

#[cfg(test)]
mod tests;

pub(crate) use alarm::Broken;
pub(crate) use bound::{BoundPolicy, Heard};
pub(crate) use briefing::{Directory, Known};
pub(crate) use cabinet::Cabinet;
pub(crate) use compiled::CompiledPolicy;
pub use compiler::PolicyCompiler;
pub(crate) use fault::{ConfigRefused, PolicyFault, PolicyRejected};
pub(crate) use host::{PolicyHost, digest, wait};
pub(crate) use instance::Init;
pub(crate) use limits::limits;
pub(crate) use recipe::Recipe;
pub(crate) use shadow::{Counted, Shadow, ShadowBinding};
pub(crate) use strikes::Strike;
pub(crate) use successor::{Progress, Succession, Successor};
pub(crate) use threads::{Return, Ticket, returns};
pub use worker::policy_worker;

/// What `wasmtime` makes of `wit/policy.wit`.
mod wit {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "policy",
        with: { "sluicegate:policy/types": super::types },
    });

    pub(super) use sluicegate::policy::host;
}
