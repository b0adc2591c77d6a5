//! The fencing tokens of a message rise with its deliveries, across restarts too, and no token is given twice.

use std::collections::HashSet;

use super::{Breach, name};
use crate::history::Record;

pub(super) fn broken(record: &Record) -> Vec<Breach> {
    let mut broken = Vec::new();
    let mut seen = HashSet::new();
    for deliveries in record.of_messages().values() {
        let mut highest = None;
        for delivered in deliveries {
            let Some(token) = delivered.token else { continue };
            let token = (token.epoch, token.counter);
            if highest.is_some_and(|highest| token <= highest) {
                let what =
                    format!("{} has the token {token:?}, which is not above the one before", name(record, delivered));
                broken.push(Breach::of(delivered.place, what));
            }
            if !seen.insert(token) {
                broken.push(Breach::of(delivered.place, format!("{} has a token of another", name(record, delivered))));
            }
            highest = Some(token);
        }
    }
    broken
}
