//! What users may rely on, held against a record. Each rule answers what broke it; where the record is not certain, a
//! rule is silent.

mod accounts;
mod attempts;
mod bounds;
mod holds;
mod order;
mod quota;

use crate::draw::LITES;
use crate::record::{Delivered, Record};

/// Everything that is wrong with a history.
pub(crate) fn broken(record: &Record) -> Vec<String> {
    let rules = [
        order::broken(record),
        attempts::broken(record),
        bounds::broken(record),
        holds::broken(record),
        quota::broken(record),
        accounts::broken(record),
    ];
    record.wrong.iter().cloned().chain(rules.into_iter().flatten()).collect()
}

fn name(delivered: &Delivered) -> String {
    let (lite, offset) = delivered.place;
    let lite = LITES.get(lite).unwrap_or(&"a lite topic of nobody");
    format!("{lite}@{offset} #{} at {} to session {}", delivered.attempt, delivered.at, delivered.session)
}
