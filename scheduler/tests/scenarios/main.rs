//! What users of other brokers complain about, as scenarios in virtual time with seeded arrivals and service times.

mod dear_messages;
mod flood;
mod hog;
mod shared_quota;
mod suspensions;
mod weights;

use std::ops::RangeInclusive;
use std::time::Duration;

use sluicegate_protocol::admin::GroupSettings;
use sluicegate_scheduler::Quotas;
use sluicegate_scheduler::simulation::{Decider, Group, Report, Simulation, Workload};

/// A service time of 100 ms, give or take half.
const AROUND_100_MS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(150);

/// So many consumers with so many slots each, and these quotas.
fn group(sessions: u32, slots: u32, quotas: Quotas) -> Group {
    let mut settings = GroupSettings::default();
    (settings.quotas.messages, settings.quotas.cost) = (quotas.messages, quotas.cost);
    Group { settings, sessions, slots, ..Group::default() }
}

/// What built-in fair scheduling makes of it in that time.
fn fair(group: Group, workload: &Workload, span: Duration) -> Report {
    Simulation::new(group).run(workload.names(), workload.jobs(), Decider::Fair, span)
}
