//! Reserved units in any window are at most the burst, or the dearest message, and what the rate brings in it; what came
//! back unused may be used again.

use sluicegate_client::admin::QuotaSettings;
use sluicegate_client::{Rate, Timestamp};

use super::{Breach, name};
use crate::history::{Delivered, End, Ended, Record};

#[derive(Debug, Clone, Copy)]
enum Unit {
    Messages,
    Cost,
}

pub(super) fn broken(record: &Record) -> Vec<Breach> {
    let deliveries = record.in_order();
    let ends = record.quotas.iter().skip(1).map(|(span, _)| span.after).chain([Timestamp::MAX]);
    let mut broken = Vec::new();
    for ((span, quotas), end) in record.quotas.iter().zip(ends) {
        let QuotaSettings { messages, cost } = quotas;
        let under: Vec<_> =
            deliveries.iter().copied().filter(|delivered| span.before < delivered.at && delivered.at < end).collect();
        for (unit, rate) in [(Unit::Messages, messages), (Unit::Cost, cost)] {
            broken.extend(rate.iter().flat_map(|&rate| over(record, &under, unit, rate)));
        }
    }
    broken
}

fn over(record: &Record, deliveries: &[&Delivered], unit: Unit, rate: Rate) -> Vec<Breach> {
    let mut broken = Vec::new();
    for (index, first) in deliveries.iter().enumerate() {
        let (mut reserved, mut dearest) = (0, u64::from(rate.burst()));
        for last in &deliveries[index..] {
            reserved += units(last, unit);
            dearest = dearest.max(units(last, unit));
            let window = last.at.since(first.at);
            let gained = window.as_nanos() / rate.unit_time().as_nanos() + 1;
            let back: u64 =
                record.deliveries.iter().map(|delivered| returned(delivered, unit, first.at, last.at)).sum();
            let back = back + returned_unseen(record, unit, first.at, last.at);
            if u128::from(reserved) > u128::from(dearest) + gained + u128::from(back) {
                let (from, what) = (name(record, first), name(record, last));
                let limit = format!("{rate} and {back} returned");
                let what = format!("{what} is unit {reserved} ({unit:?}) in {window:?} since {from}, {limit}");
                broken.push(Breach::of(last.place, what));
            }
        }
    }
    broken
}

fn units(delivered: &Delivered, unit: Unit) -> u64 {
    match unit {
        Unit::Messages => 1,
        Unit::Cost => delivered.cost,
    }
}

/// What may have been given back in this time.
fn returned(delivered: &Delivered, unit: Unit, from: Timestamp, until: Timestamp) -> u64 {
    let (span, back) = match &delivered.ended {
        Some((span, Ended::Settled(End::AckWithCost(measured), Ok(()) | Err(_)))) => match unit {
            Unit::Messages => (span, 0),
            Unit::Cost => (span, delivered.cost.saturating_sub(*measured)),
        },
        Some((_, Ended::Settled(End::Ack | End::Retry(_) | End::DeadLetter, Ok(())))) | None => return 0,
        // Whatever may have ended it, perhaps unused.
        Some((span, Ended::Settled(End::Suspend(_), Ok(())) | Ended::Closed | Ended::Revoked | Ended::Deleted)) => {
            (span, units(delivered, unit))
        }
        Some((
            _,
            Ended::Settled(End::Abandon, Ok(()))
            | Ended::Settled(_, Err(_))
            | Ended::Abandoned
            | Ended::Unsure
            | Ended::Forgotten,
        )) => {
            return if delivered.at <= until { units(delivered, unit) } else { 0 };
        }
    };
    if span.after <= until && span.before >= from { back } else { 0 }
}

/// The same of leases that nobody saw.
fn returned_unseen(record: &Record, unit: Unit, from: Timestamp, until: Timestamp) -> u64 {
    let dearest = match unit {
        Unit::Messages => 1,
        Unit::Cost => record.cost_max,
    };
    let blind = record.blind.iter().filter(|blind| blind.from <= until && blind.until >= from);
    blind.map(|blind| u64::from(blind.leases) * dearest).sum()
}
