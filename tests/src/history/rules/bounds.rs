//! At most so many leases are open at once: of a lite topic, of a tenant, of the group. A lite topic stays with one
//! session while a lease of it is open.

use sluicegate_client::Timestamp;
use sluicegate_client::admin::ConcurrencySettings;

use super::{Breach, name};
use crate::history::{Delivered, Record};

pub(super) fn broken(record: &Record) -> Vec<Breach> {
    let mut broken = Vec::new();
    let mut open = Vec::<&Delivered>::new();
    for delivered in record.in_order().into_iter().filter(|delivered| !delivered.is_undone()) {
        open.retain(|other| other.open_until(record.grace) > delivered.at);
        let limits = limits_at(record, delivered.at);
        let highest = |bound: fn(&ConcurrencySettings) -> Option<u32>| {
            limits.iter().map(|limits| bound(limits).unwrap_or(u32::MAX)).max().unwrap_or(u32::MAX) as usize
        };
        let of_lite = open.iter().filter(|other| other.place.0 == delivered.place.0).count();
        let of_tenant = open.iter().filter(|other| other.tenant == delivered.tenant).count();
        let counts = [
            ("lite topic", of_lite, highest(|limits| Some(limits.lite_topic))),
            ("tenant", of_tenant, highest(|limits| limits.tenant)),
            ("group", open.len(), highest(|limits| limits.group)),
        ];
        for (whose, count, most) in counts {
            if count + 1 > most {
                let name = name(record, delivered);
                let what = format!("{name} came with {count} leases open in its {whose}, {most} allowed");
                broken.push(Breach::of(delivered.place, what));
            }
        }
        // After a restart the broker has forgotten whom a lease's lite topic was with.
        let elsewhere = |other: &&&Delivered| {
            other.place.0 == delivered.place.0
                && other.session != delivered.session
                && record.unseen(other.at, delivered.at) == 0
                && !record.was_restarted(other.at, delivered.at)
        };
        if let Some(other) = open.iter().find(elsewhere) {
            let (name, other_name) = (name(record, delivered), name(record, other));
            let what = format!("{name} came while session {} had {other_name}", other.session);
            broken.push(Breach::of(delivered.place, what));
        }
        open.push(delivered);
    }
    broken
}

/// The settings that may have been in force at this time.
pub(super) fn limits_at(record: &Record, at: Timestamp) -> Vec<ConcurrencySettings> {
    let begun = record.concurrency.partition_point(|(span, _)| span.after <= at);
    let mut limits = Vec::new();
    for index in (0..begun).rev() {
        limits.push(record.concurrency[index].1);
        // Those before this one ended when it had begun for certain.
        if record.concurrency[index].0.before < at {
            break;
        }
    }
    limits
}
