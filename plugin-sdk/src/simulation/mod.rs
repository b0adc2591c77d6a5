//! A policy against the broker's own scheduler, natively and in virtual time.
//!
//! A [`Simulation`] is a consumer group, and what its tenants publish. [`Simulation::run`] has a policy decide, as the broker would ask it:
//! names and labels before they are mentioned, what became of deliveries before the next frame, and answers in the broker's
//! bounds. The same simulation with the same policy gives the same [`Outcome`], on every machine.
//!
//! ```
//! use std::time::Duration;
//! use sluicegate_plugin_sdk::simulation::{Load, Simulation, Spread};
//!
//! let chats = Load::poisson(Duration::from_millis(40)).lites(200).service(Spread::Exponential(Duration::from_millis(300)));
//! let upload = Load::at_once(20_000).starting(Duration::from_secs(10)).lites(200).service(Duration::from_millis(500));
//! let simulation = Simulation::new().slots(30).tenant("chats", chats).tenant("upload", upload);
//! let outcome = simulation.run_fair(Duration::from_secs(60));
//! outcome.assert_wait_p99_below("chats", Duration::from_millis(200));
//! ```
//!
//! What it leaves out is in `docs/policy-testing.md`.

mod builder;
mod learnt;
mod native;
mod outcome;
#[cfg(test)]
mod tests;
mod translate;

pub use builder::{DRAWN_SPAN, Simulation};
pub use outcome::Outcome;
pub use sluicegate_scheduler::simulation::{
    Counts, Delivery, Digest, Load, QuotaUse, Report, Sample, Spread, Starvation, TenantReport, Waits,
};
