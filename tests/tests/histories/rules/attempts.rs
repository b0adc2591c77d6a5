//! A retry and a lease that ran out count as attempts; a suspension, an orderly close and a revoke do not.

use super::name;
use crate::record::Record;

pub(super) fn broken(record: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    for deliveries in record.of_messages().values() {
        let first = deliveries[0];
        let most = 1 + record.unseen(sluicegate_client::Timestamp(0), first.at);
        if !(1..=most).contains(&first.attempt) {
            broken.push(format!("{} is the first delivery, {most} is its last possible attempt", name(first)));
        }
        for pair in deliveries.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            let (least, most) = before.counted();
            let most = most + record.unseen(before.at, after.at);
            if !(before.attempt + least..=before.attempt + most).contains(&after.attempt) {
                let ended = &before.ended;
                broken.push(format!(
                    "{} follows {}, which ended by {ended:?}: {least} to {most} attempts more",
                    name(after),
                    name(before)
                ));
            }
            if before.open_until(record.grace) > after.at {
                broken.push(format!("{} came while {} was leased", name(after), name(before)));
            }
        }
        for delivered in deliveries {
            if delivered.attempt > record.max_attempts {
                broken.push(format!("{} is beyond {} attempts", name(delivered), record.max_attempts));
            }
        }
    }
    broken
}
