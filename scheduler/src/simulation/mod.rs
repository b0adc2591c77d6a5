//! One group in virtual time: what is published when, who works on it for how long, and what became of each message.
//!
//! It drives the real [`Scheduler`](crate::Scheduler) in a closed loop, as a shard does, without store, network or threads. The same
//! jobs, settings and decider give the same decisions on every machine: [`Report::digest`] says whether two runs were the same. Whole
//! numbers decide; floats are for reports only.
//!
//! ```
//! use std::time::Duration;
//! use sluicegate_scheduler::simulation::{Decider, Group, Load, Simulation, Workload};
//!
//! let mut workload = Workload::new(7);
//! let quiet = workload.add("quiet", Load::poisson(Duration::from_millis(40)).lites(50).service(Duration::from_millis(100)));
//! workload.add("hog", Load::at_once(10_000).lites(50).service(Duration::from_millis(100)));
//! let simulation = Simulation::new(Group { slots: 10, ..Group::default() });
//! let report = simulation.run(workload.names(), workload.jobs(), Decider::Fair, Duration::from_secs(60));
//! assert!(report.tenants[&quiet].waits.quantile(990) < Duration::from_millis(200));
//! ```
//!
//! Not modelled: the time that a policy takes to answer, consumers that come and go, lost leases, sessions that take only
//! some lite topics, more than one shard, and the end of a policy after too many faults.

mod books;
mod digest;
mod drawn;
mod draws;
mod facts;
mod group;
mod job;
mod load;
mod meter;
mod readiness;
mod report;
mod run;
mod series;
#[cfg(test)]
mod tests;
mod waiting;
mod workload;

pub use digest::Digest;
pub use drawn::Drawn;
pub use draws::{Draws, Spread};
pub use facts::Facts;
pub use group::Group;
pub use job::{Job, Named, Names};
pub use load::Load;
pub use meter::QuotaUse;
pub use readiness::Starvation;
pub use report::{Counts, Delivery, Report, TenantReport, Waits};
pub use run::{Decider, START, Simulation};
pub use series::Sample;
pub use workload::{Jobs, Workload};
