//! At most so many leases are open at once: of a lite topic, of a tenant, of the group. A lite topic stays with one
//! session while a lease of it is open.

use sluicegate_client::Timestamp;
use sluicegate_client::admin::ConcurrencySettings;

use super::name;
use crate::record::{Delivered, Record};

pub(super) fn broken(record: &Record) -> Vec<String> {
    let deliveries = record.in_order();
    let mut broken = Vec::new();
    for (index, delivered) in deliveries.iter().enumerate() {
        let open = |other: &&&Delivered| other.open_until(record.grace) > delivered.at;
        let open: Vec<_> = deliveries[..index].iter().filter(open).collect();
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
                broken
                    .push(format!("{} came with {count} leases open in its {whose}, {most} allowed", name(delivered)));
            }
        }
        // After a restart the broker has forgotten whom a lease's lite topic was with.
        let elsewhere = |other: &&&&Delivered| {
            other.place.0 == delivered.place.0
                && other.session != delivered.session
                && record.unseen(other.at, delivered.at) == 0
        };
        if let Some(other) = open.iter().find(elsewhere) {
            broken.push(format!("{} came while session {} had {}", name(delivered), other.session, name(other)));
        }
    }
    broken
}

/// The settings that may have been in force at this time.
pub(super) fn limits_at(record: &Record, at: Timestamp) -> Vec<ConcurrencySettings> {
    let ends = record.concurrency.iter().skip(1).map(|(span, _)| span.before).chain([Timestamp::MAX]);
    let settings = record.concurrency.iter().zip(ends);
    settings.filter(|((span, _), end)| span.after <= at && at <= *end).map(|((_, limits), _)| *limits).collect()
}
