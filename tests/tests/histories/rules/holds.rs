//! Nothing is delivered of a lite topic that is suspended, in a group that is paused, or to who did not subscribe.

use super::name;
use crate::draw::LITES;
use crate::record::Record;

pub(super) fn broken(record: &Record) -> Vec<String> {
    let mut broken = Vec::new();
    for delivered in &record.deliveries {
        let at = delivered.at;
        for hold in record.holds.iter().filter(|hold| hold.lite == delivered.place.0) {
            if hold.from < at && at < hold.until {
                broken.push(format!("{} came in the {:?} hold until {}", name(delivered), hold.source, hold.until));
            }
        }
        if record.pauses.iter().any(|&(from, until)| from < at && at < until) {
            broken.push(format!("{} came while the group was paused", name(delivered)));
        }
        let Some(lite) = LITES.get(delivered.place.0) else {
            broken.push(format!("{} is of a lite topic that was never published to", name(delivered)));
            continue;
        };
        let subscriptions = &record.sessions[delivered.session].subscriptions;
        if !subscriptions.iter().any(|own| own.matches(lite) && own.from <= at && at <= own.until) {
            broken.push(format!("{} came to who did not subscribe to it", name(delivered)));
        }
    }
    broken
}
