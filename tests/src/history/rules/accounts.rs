//! At the end every acknowledged message is accounted for exactly once: settled by its consumer, by an operator, or
//! dead-lettered with its cause; and nothing else is there.

use std::collections::BTreeMap;

use sluicegate_client::SettleError;
use sluicegate_client::admin::DeadLetter;

use super::{Breach, name};
use crate::history::{Delivered, End, Ended, Place, Record};

pub(super) fn broken(record: &Record) -> Vec<Breach> {
    let mut broken = left(record);
    let by_place = record.of_messages();
    let mut dead = BTreeMap::<Place, Vec<&DeadLetter>>::new();
    for letter in &record.end.dead_letters {
        let mut lives = record.lites.iter().enumerate().filter(|(_, life)| life.name == letter.lite.as_str());
        let lite = lives.next().map_or(record.lites.len(), |(lite, _)| lite);
        // A letter does not say of which life it is.
        if lives.next().is_none() {
            dead.entry((lite, letter.origin.0)).or_default().push(letter);
        }
    }
    for (place, deliveries) in by_place.iter().filter(|(place, _)| !record.published.contains_key(place)) {
        let what = format!("{} of what nobody published: {:?}", name(record, deliveries[0]), deliveries[0].body);
        broken.push(Breach::of(*place, what));
    }
    for place in dead.keys().filter(|place| !record.published.contains_key(place)) {
        broken.push(Breach::of(*place, format!("dead letter of {place:?}, which nobody published")));
    }
    for place in record.places().into_iter().filter(|place| is_only_life(record, place.0)) {
        let deliveries = by_place.get(&place).map_or(&[][..], Vec::as_slice);
        let letters = dead.get(&place).map_or(&[][..], Vec::as_slice);
        if let Err(problem) = account(record, place, deliveries, letters) {
            broken.push(Breach::of(place, format!("{}@{}: {problem}", record.name(place.0), place.1)));
        }
    }
    broken
}

fn is_only_life(record: &Record, lite: usize) -> bool {
    record.lites.iter().filter(|life| life.name == record.lites[lite].name).count() == 1
}

/// What is in the lite topics still.
fn left(record: &Record) -> Vec<Breach> {
    let mut broken = Vec::new();
    let living = record.end.lite_topics.iter().enumerate().filter(|(lite, _)| record.lites[*lite].over.is_none());
    for (lite, shown) in living {
        let published = record.published.range((lite, 0)..=(lite, u64::MAX)).count() as u64;
        let Some(shown) = shown else {
            if published > 0 {
                let what = format!("{} is gone with {published} messages", record.name(lite));
                broken.push(Breach::general(what));
            }
            continue;
        };
        let is_done = shown.backlog == 0 && shown.leases.is_empty() && shown.head.is_none();
        if !is_done || shown.next_offset.0 != published || shown.settled_up_to != shown.next_offset {
            let what = format!("{} got {published} messages and is left as {shown:?}", record.name(lite));
            broken.push(Breach::general(what));
        }
    }
    broken
}

fn account(record: &Record, place: Place, deliveries: &[&Delivered], letters: &[&DeadLetter]) -> Result<(), String> {
    let settled = |wanted: fn(End) -> bool, results: fn(&Result<(), SettleError>) -> bool| {
        deliveries.iter().filter_map(|delivered| delivered.ended.as_ref()).any(|(_, ended)| match ended {
            Ended::Settled(end, result) => wanted(*end) && results(result),
            Ended::Abandoned | Ended::Unsure | Ended::Closed | Ended::Revoked | Ended::Deleted | Ended::Forgotten => {
                false
            }
        })
    };
    let is_ack = |end| matches!(end, End::Ack | End::AckWithCost(_));
    let is_burial = |end| matches!(end, End::DeadLetter);
    let maybe = |result: &Result<(), SettleError>| matches!(result, Ok(()) | Err(SettleError::Unknown));
    let done = deliveries.iter().filter(|delivered| delivered.done_before().is_some()).count();
    let skipped = record.skipped.contains_key(&place);
    // An operator deleted the lite topic, with all that waited in it.
    let deleted = record.lites.get(place.0).is_some_and(|life| life.over.is_some());
    if done > 1 || letters.len() > 1 {
        return Err(format!("settled {done} times, dead-lettered {} times", letters.len()));
    }
    let Some(letter) = letters.first() else {
        if settled(is_burial, Result::is_ok) {
            return Err("a consumer gave it up, and it is no dead letter".into());
        }
        return match skipped || deleted || settled(is_ack, maybe) {
            true => Ok(()),
            false => Err("lost: nobody settled it, and it is no dead letter".into()),
        };
    };
    if settled(is_ack, Result::is_ok) {
        return Err(format!("acknowledged, and a dead letter: {letter:?}"));
    }
    let last = deliveries.last();
    let of_attempts = format!("not settled by ack in {} attempts", record.max_attempts);
    if letter.cause == "given up" {
        let given_up = settled(is_burial, maybe) && last.is_some_and(|last| last.attempt == letter.attempts);
        return if given_up { Ok(()) } else { Err(format!("nobody gave it up: {letter:?}")) };
    }
    if letter.cause != of_attempts || letter.attempts != record.max_attempts {
        return Err(format!("wrong cause: {letter:?}"));
    }
    let attempts = last.map_or(0, |last| last.attempt - 1 + last.counted().1);
    let seen_until = sluicegate_client::Timestamp::MAX;
    let since = last.map_or(sluicegate_client::Timestamp(0), |last| last.at);
    if attempts + record.unseen(since, seen_until) < record.max_attempts {
        return Err(format!("dead-lettered after {attempts} attempts: {letter:?}"));
    }
    Ok(())
}
