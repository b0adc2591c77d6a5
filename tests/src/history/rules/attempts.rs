//! A retry and a lease that ran out count as attempts; a suspension, an orderly close and a revoke do not. No lease begins
//! while another of the same message is open.

use super::{Breach, name};
use crate::history::{Delivered, End, Ended, Record};

pub(super) fn broken(record: &Record) -> Vec<Breach> {
    let mut broken = Vec::new();
    for all in record.of_messages().values() {
        let deliveries: Vec<_> = all.iter().copied().filter(|delivered| !delivered.is_undone()).collect();
        let Some(&first) = deliveries.first() else { continue };
        let most = 1 + record.unseen(sluicegate_client::Timestamp(0), first.at) + undone(all, None, first);
        if !(1..=most).contains(&first.attempt) {
            let what = format!("{} is the first delivery, {most} is its last possible attempt", name(record, first));
            broken.push(Breach::of(first.place, what));
        }
        for (index, pair) in deliveries.windows(2).enumerate() {
            let (before, after) = (pair[0], pair[1]);
            let (least, most) = expected(record, &deliveries[..=index], after);
            let most = most + undone(all, Some(before), after);
            if !(least..=most).contains(&after.attempt) {
                let (ended, after, before) = (&before.ended, name(record, after), name(record, before));
                let what = format!("{after} follows {before}, which ended by {ended:?}: {least} to {most} expected");
                broken.push(Breach::of(first.place, what));
            }
            if before.open_until(record.grace) > after.at {
                let what = format!("{} came while {} was leased", name(record, after), name(record, before));
                broken.push(Breach::of(first.place, what));
            }
        }
        for delivered in &deliveries {
            if delivered.attempt > record.max_attempts {
                let what = format!("{} is beyond {} attempts", name(record, delivered), record.max_attempts);
                broken.push(Breach::of(first.place, what));
            }
        }
    }
    broken
}

/// Leases between two others that a power cut took, unless they had run out before the next process looked.
fn undone(all: &[&Delivered], before: Option<&Delivered>, after: &Delivered) -> u32 {
    let is_between = |delivered: &Delivered| {
        before.is_none_or(|before| before.at <= delivered.at) && delivered.at < after.at && delivered.is_undone()
    };
    u32::try_from(all.iter().filter(|delivered| is_between(delivered)).count()).unwrap_or(u32::MAX)
}

/// The attempt that a delivery may be, by those before it: at least, and at most.
fn expected(record: &Record, before: &[&Delivered], after: &Delivered) -> (u32, u32) {
    let newest = before[before.len() - 1];
    let (least, most) = newest.counted();
    let most = newest.attempt + most + record.unseen(newest.at, after.at);
    if !record.was_cut(newest.at, after.at) {
        return (newest.attempt + least, most);
    }
    // A power cut may take leases back, and what ran out; never a retry that was answered.
    let answered = before.iter().filter(|delivered| is_retried(delivered)).map(|delivered| delivered.attempt);
    (1 + answered.max().unwrap_or(0), most)
}

fn is_retried(delivered: &Delivered) -> bool {
    matches!(delivered.ended, Some((_, Ended::Settled(End::Retry(_), Ok(())))))
}
