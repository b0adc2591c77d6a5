//! A delivery is of the lowest offset that is neither settled nor leased, and of none that is settled, or whose lite topic was
//! deleted.

use std::collections::{BTreeMap, HashMap};

use sluicegate_client::Timestamp;

use super::{Breach, bounds, name};
use crate::history::{Delivered, Ended, Place, Record};

pub(super) fn broken(record: &Record) -> Vec<Breach> {
    let by_place = record.of_messages();
    let mut broken = Vec::new();
    // Per lite topic: all below may be settled, and stay so.
    let mut waits_from = HashMap::<usize, u64>::new();
    for delivered in record.in_order() {
        broken.extend(wrong_body(record, delivered));
        if delivered.is_undone() {
            continue;
        }
        let (lite, offset) = delivered.place;
        let from = waits_from.entry(lite).or_default();
        while *from < offset && may_be_settled(record, (lite, *from), &by_place, delivered.at) {
            *from += 1;
        }
        // With one lease at a time all lower ones are settled; with more, some may be leased.
        let strict = bounds::limits_at(record, delivered.at).iter().all(|limit| limit.lite_topic == 1);
        for lower in *from..offset {
            let place = (lite, lower);
            if may_be_settled(record, place, &by_place, delivered.at) {
                continue;
            }
            let may_be_leased = !strict && may_be_leased(record, of(&by_place, place), delivered.at);
            if !may_be_leased {
                let what = format!("{} came before offset {lower}, which waited", name(record, delivered));
                broken.push(Breach::of(place, what));
            }
        }
        if let Some(done) = settled_before(record, delivered, of(&by_place, delivered.place)) {
            let what = format!("{} came although it was settled before {done}", name(record, delivered));
            broken.push(Breach::of(delivered.place, what));
        }
    }
    broken
}

fn of<'a, 'r>(by_place: &'a BTreeMap<Place, Vec<&'r Delivered>>, place: Place) -> &'a [&'r Delivered] {
    by_place.get(&place).map_or(&[], Vec::as_slice)
}

fn wrong_body(record: &Record, delivered: &Delivered) -> Option<Breach> {
    // The receipt of a message that is delivered already may be on its way.
    let (body, published) = (delivered.body.as_ref()?, record.published.get(&delivered.place)?);
    (body != published).then(|| {
        let what = format!("{} has the body {body}, not {published}", name(record, delivered));
        Breach::of(delivered.place, what)
    })
}

fn may_be_settled(record: &Record, place: Place, by_place: &BTreeMap<Place, Vec<&Delivered>>, at: Timestamp) -> bool {
    if record.skipped.get(&place).is_some_and(|span| span.after <= at) {
        return true;
    }
    of(by_place, place).iter().filter(|delivered| delivered.at <= at).any(|delivered| {
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
    let deleted = record.lites.get(delivered.place.0).and_then(|life| life.over).map(|span| span.before);
    let done = all.iter().filter(|other| other.at < delivered.at).filter_map(|other| other.done_before());
    // The last attempt is buried when it counts.
    let buried = all.iter().filter(|other| other.at < delivered.at).filter_map(|other| {
        let (counted, _) = other.counted();
        let was_last = other.attempt - 1 + counted >= record.max_attempts;
        (was_last && (is_answered(other) || !record.was_cut(other.at, delivered.at))).then_some(other.at)
    });
    done.chain(skipped).chain(deleted).chain(buried).filter(|&done| done < delivered.at).min()
}

/// What only ran out was told to nobody: a power cut may take it back.
fn is_answered(delivered: &Delivered) -> bool {
    matches!(delivered.ended, Some((_, Ended::Settled(_, Ok(())))))
}
