//! A delivery is of the lowest offset that is neither settled nor leased, and of none that is settled.

use sluicegate_client::Timestamp;

use super::{bounds, name};
use crate::record::{Delivered, Place, Record};

pub(super) fn broken(record: &Record) -> Vec<String> {
    let by_place = record.of_messages();
    let mut broken = Vec::new();
    for delivered in record.in_order() {
        match record.published.get(&delivered.place) {
            Some(body) if *body == delivered.body => {}
            other => broken.push(format!("{} has the body {}, not {other:?}", name(delivered), delivered.body)),
        }
        let (lite, offset) = delivered.place;
        // With one lease at a time all lower ones are settled; with more, some may be leased.
        let strict = bounds::limits_at(record, delivered.at).iter().all(|limit| limit.lite_topic == 1);
        for lower in 0..offset {
            let place = (lite, lower);
            let before = by_place.get(&place).map_or(&[][..], Vec::as_slice);
            if may_be_settled(record, place, before, delivered.at) {
                continue;
            }
            let may_be_leased = !strict && may_be_leased(record, before, delivered.at);
            if !may_be_leased {
                broken.push(format!("{} came before offset {lower}, which waited", name(delivered)));
            }
        }
        if let Some(done) = settled_before(record, delivered, &by_place[&delivered.place]) {
            broken.push(format!("{} came although it was settled before {done}", name(delivered)));
        }
    }
    broken
}

fn may_be_settled(record: &Record, place: Place, deliveries: &[&Delivered], at: Timestamp) -> bool {
    if record.skipped.get(&place).is_some_and(|span| span.after <= at) {
        return true;
    }
    deliveries.iter().filter(|delivered| delivered.at <= at).any(|delivered| {
        let (_, counted) = delivered.counted();
        // Leases that nobody saw may have been the last.
        let attempts = delivered.attempt - 1 + counted + record.unseen(delivered.at, at);
        let is_buried = attempts >= record.max_attempts && !is_open(record, delivered, at);
        is_buried || delivered.may_be_done_after().is_some_and(|after| after <= at)
    }) || record.unseen(Timestamp(0), at) >= record.max_attempts
}

fn may_be_leased(record: &Record, deliveries: &[&Delivered], at: Timestamp) -> bool {
    let seen = deliveries
        .iter()
        .any(|delivered| delivered.at <= at && delivered.over_at().is_none_or(|over_at| over_at >= at));
    seen || record.blind.iter().any(|blind| blind.from <= at && at <= blind.until)
}

fn is_open(record: &Record, delivered: &Delivered, at: Timestamp) -> bool {
    delivered.open_until(record.grace) > at
}

fn settled_before(record: &Record, delivered: &Delivered, all: &[&Delivered]) -> Option<Timestamp> {
    let skipped = record.skipped.get(&delivered.place).map(|span| span.before);
    let done = all.iter().filter(|other| other.at < delivered.at).filter_map(|other| other.done_before());
    // The last attempt is buried when it counts.
    let buried = all.iter().filter(|other| other.at < delivered.at).filter_map(|other| {
        let (counted, _) = other.counted();
        (other.attempt - 1 + counted >= record.max_attempts).then_some(other.at)
    });
    done.chain(skipped).chain(buried).filter(|&done| done < delivered.at).min()
}
