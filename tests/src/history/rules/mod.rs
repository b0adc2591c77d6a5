//! What users may rely on, held against a record. Each rule answers what broke it; where the record is not certain, a
//! rule is silent.

mod accounts;
mod attempts;
mod bounds;
mod fencing;
mod holds;
mod order;
mod quota;
#[cfg(test)]
mod tests;

use std::fmt;

use super::{Delivered, Place, Record};

/// Something that users may rely on and that was not so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// The message, where it is about one.
    pub place: Option<Place>,
    /// What was wrong.
    pub what: String,
}

impl Breach {
    fn of(place: Place, what: String) -> Self {
        Self { place: Some(place), what }
    }

    /// About no message alone.
    pub fn general(what: impl Into<String>) -> Self {
        Self { place: None, what: what.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Everything that is wrong with a history that has come to its end.
pub fn broken(record: &Record) -> Vec<Breach> {
    let mut broken = broken_so_far(record);
    broken.extend(quota::broken(record));
    broken.extend(accounts::broken(record));
    broken
}

/// Everything that is wrong already, with messages that wait and leases that are open.
pub fn broken_so_far(record: &Record) -> Vec<Breach> {
    let rules = [
        order::broken(record),
        attempts::broken(record),
        fencing::broken(record),
        bounds::broken(record),
        holds::broken(record),
    ];
    record.wrong.iter().map(Breach::general).chain(rules.into_iter().flatten()).collect()
}

/// Whether every message is accounted for, of a history that has come to its end.
pub fn unaccounted(record: &Record) -> Vec<Breach> {
    accounts::broken(record)
}

fn name(record: &Record, delivered: &Delivered) -> String {
    let (lite, offset) = delivered.place;
    let Delivered { attempt, at, session, .. } = delivered;
    format!("{}@{offset} #{attempt} at {at} to session {session}", record.name(lite))
}
