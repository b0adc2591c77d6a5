//! After a restart, before anybody attaches: what the broker shows is held against what its clients were told, and settles
//! what they could not know.

use std::collections::BTreeMap;

use sluicegate_client::admin::{ConcurrencySettings, Group, LiteTopic, SuspensionSource};
use sluicegate_client::{Offset, Timestamp};
use sluicegate_tests::history::{BrokerClock, Delivered, End, Ended, Place, Source, Span};
use tokio::time::Instant;

use crate::fact::OneLife;
use crate::operator::Verb;
use crate::worker::Worker;
use crate::world::{World, lite};

/// How the broker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HowItEnded {
    Killed,
    PowerCut,
}

/// What was seen after a restart.
pub(crate) struct Seen<'a> {
    pub(crate) how: HowItEnded,
    /// From the kill until the audit.
    pub(crate) restart: Span,
    pub(crate) clock: &'a BrokerClock,
    pub(crate) group: &'a Group,
    pub(crate) lites: &'a [LiteTopic],
}

type Deliveries<'a> = BTreeMap<Place, Vec<&'a Delivered>>;

impl World {
    /// Holds everything that is shown against the record. `gone` are workers that do not come back.
    pub(crate) fn audit(&mut self, seen: &Seen<'_>, gone: &mut [Worker]) {
        self.story.record.restarts.push(seen.restart);
        if seen.how == HowItEnded::PowerCut {
            self.story.record.cuts.push(seen.restart);
        }
        let unsure = self.operator.as_mut().and_then(|operator| operator.unsure.take());
        self.audit_group(seen, unsure.as_ref());
        self.audit_lives(seen, unsure.as_ref());
        self.audit_leases(seen, unsure.as_ref(), gone);
        self.audit_messages(seen);
        self.audit_holds(seen);
    }

    fn audit_group(&mut self, seen: &Seen<'_>, unsure: Option<&(Verb, Timestamp)>) {
        let (group, unsure_verb) = (seen.group, unsure.map(|(verb, _)| verb));
        let asked = unsure.map_or(seen.restart.after, |(_, asked)| *asked);
        let was_paused = self.story.record.pauses.last().is_some_and(|(_, until)| *until == Timestamp::MAX);
        match (was_paused, group.paused) {
            (false, true) if unsure_verb == Some(&Verb::Pause) => {
                self.story.record.pauses.push((seen.restart.before, Timestamp::MAX));
            }
            (true, false) if unsure_verb == Some(&Verb::Unpause) => self.story.unpaused(asked),
            (was, is) if was != is => self.story.wrong(format!("the group's pause was {was}, and is {is}")),
            _ => {}
        }
        if let Some(operator) = &mut self.operator {
            operator.is_paused = group.paused;
        }
        let set: ConcurrencySettings = self.story.record.concurrency.last().expect("it has one from the start").1;
        let shown = group.settings.concurrency;
        if shown != set && unsure_verb == Some(&Verb::Concurrency(shown)) {
            let span = Span { after: asked, before: seen.restart.before };
            self.story.record.concurrency.push((span, shown));
        } else if shown != set {
            self.story.wrong(format!("the group's concurrency was set to {set:?}, and is {shown:?}"));
        }
        let shown = group.settings.quotas;
        if shown != self.quotas && unsure_verb != Some(&Verb::Quotas(shown)) {
            self.story.wrong(format!("the group's quotas were set to {:?}, and are {shown:?}", self.quotas));
        }
        self.quotas = shown;
        let shown = group.policy.as_ref().map(|policy| policy.digest.clone());
        let maybe = match unsure_verb {
            Some(Verb::Policy(policy)) => Some(policy.as_ref().map(|(digest, _)| digest.clone())),
            _ => None,
        };
        if shown != self.policy && maybe.as_ref() != Some(&shown) {
            self.story.wrong(format!("the group's policy was {:?}, and is {shown:?}", self.policy));
        }
        self.policy = shown;
    }

    /// Every life that is not deleted is there.
    fn audit_lives(&mut self, seen: &Seen<'_>, unsure: Option<&(Verb, Timestamp)>) {
        for shown in seen.lites {
            self.story.life(&one_life(shown));
        }
        for index in 0..self.story.record.lites.len() {
            let life = &self.story.record.lites[index];
            let is_shown = seen.lites.iter().any(|shown| self.story.known_life(shown.lite_id) == Some(index));
            match (life.over, is_shown) {
                (None, false) => {
                    let name = life.name.clone();
                    match unsure {
                        Some((Verb::Delete { lite: asked }, at)) if lite(*asked).as_str() == name => {
                            let over = Span { after: *at, before: seen.restart.before };
                            self.story.record.lites[index].over = Some(over);
                        }
                        _ if self.is_unacknowledged(index) => {}
                        _ => self.story.wrong(format!("lost: lite topic {name} is gone")),
                    }
                }
                (Some(over), true) => {
                    let what = format!("lite topic {} was deleted at {}, and is back", life.name, over.before);
                    self.story.wrong(what);
                }
                _ => {}
            }
        }
        if let Some((
            Verb::Suspend { lite: index, .. } | Verb::Revoke { lite: index, .. } | Verb::Resume { lite: index },
            at,
        )) = unsure
        {
            let named = |life: &sluicegate_tests::history::Life| life.name == lite(*index).as_str();
            let source = if matches!(unsure, Some((Verb::Resume { .. }, _))) { None } else { Some(Source::Operator) };
            for life in 0..self.story.record.lites.len() {
                if named(&self.story.record.lites[life]) {
                    self.story.record.cut_holds(life, source, *at);
                }
            }
        }
    }

    /// Nothing of it was promised to anybody.
    fn is_unacknowledged(&self, life: usize) -> bool {
        self.story.record.published.range((life, 0)..=(life, u64::MAX)).next().is_none()
    }

    /// Every acknowledged message is there, and settled or not as its consumers were told.
    fn audit_messages(&mut self, seen: &Seen<'_>) {
        let mut wrong = Vec::new();
        let record = &self.story.record;
        let by_place = record.of_messages();
        for shown in seen.lites {
            let life = self.story.known_life(shown.lite_id).expect("it was just listed");
            for ((_, offset), body) in record.published.range((life, 0)..=(life, u64::MAX)) {
                let name = format!("{}@{offset} ({body})", shown.name);
                if *offset >= shown.next_offset.0 {
                    wrong.push(format!("lost: {name} was acknowledged, the next offset is {}", shown.next_offset));
                    continue;
                }
                let deliveries = by_place.get(&(life, *offset)).map_or(&[][..], Vec::as_slice);
                let is_done = deliveries.iter().any(|delivered| delivered.done_before().is_some());
                let may_be_done = deliveries.iter().any(|delivered| {
                    let was_last = delivered.attempt - 1 + delivered.counted().1 >= record.max_attempts;
                    delivered.may_be_done_after().is_some() || (was_last && delivered.ended.is_some())
                });
                match is_settled(shown, *offset) {
                    true if !may_be_done => wrong.push(format!(
                        "lost: {name} counts as settled, by nobody\n{}",
                        record.life_of((life, *offset))
                    )),
                    false if is_done => {
                        wrong.push(format!("{name} was settled, and is back\n{}", record.life_of((life, *offset))));
                    }
                    _ => {}
                }
            }
            wrong.extend(self.wrong_head(life, shown, &by_place));
        }
        self.story.record.wrong.extend(wrong);
    }

    /// The attempts of the message that is next are exact.
    fn wrong_head(&self, life: usize, shown: &LiteTopic, by_place: &Deliveries<'_>) -> Option<String> {
        let head = shown.head?;
        let record = &self.story.record;
        let deliveries = by_place.get(&(life, head.offset.0)).map_or(&[][..], Vec::as_slice);
        let (least, most) = match deliveries.last() {
            None => (0, 0),
            Some(newest) => {
                let (least, most) = newest.counted();
                let answered = deliveries.iter().filter(|delivered| is_retried(delivered));
                let least = match record.was_cut(newest.at, Timestamp::MAX) {
                    true => answered.map(|delivered| delivered.attempt).max().unwrap_or(0),
                    false => newest.attempt - 1 + least,
                };
                (least, newest.attempt - 1 + most)
            }
        };
        (!(least..=most).contains(&head.attempts)).then(|| {
            let life = record.life_of((life, head.offset.0));
            format!("{}@{} shows {} attempts, not {least} to {most}\n{life}", shown.name, head.offset, head.attempts)
        })
    }

    /// No suspension was shortened.
    fn audit_holds(&mut self, seen: &Seen<'_>) {
        let mut wrong = Vec::new();
        // What is over by now may not be shown.
        let now = seen.clock.latest(Instant::now());
        for shown in seen.lites {
            let life = self.story.known_life(shown.lite_id).expect("it was just listed");
            for hold in self.story.record.holds.iter().filter(|hold| hold.lite == life && hold.until > now) {
                let source = match hold.source {
                    Source::Operator => SuspensionSource::Operator,
                    Source::Settle => SuspensionSource::Settle,
                    Source::Retry => SuspensionSource::Retry,
                };
                let is_there = |until: Timestamp| until >= hold.until;
                if !shown.suspensions.iter().any(|held| held.source == source && is_there(held.until)) {
                    wrong.push(format!("{} is to be held: {hold:?}, and shows {:?}", shown.name, shown.suspensions));
                }
            }
        }
        self.story.record.wrong.extend(wrong);
    }
}

fn is_retried(delivered: &Delivered) -> bool {
    matches!(delivered.ended, Some((_, Ended::Settled(End::Retry(_), Ok(())))))
}

pub(crate) fn is_settled(shown: &LiteTopic, offset: u64) -> bool {
    offset < shown.settled_up_to.0 || shown.settled_ahead.contains(&Offset(offset))
}

pub(crate) fn one_life(shown: &LiteTopic) -> OneLife {
    OneLife { id: shown.lite_id, name: shown.name.as_str().to_owned() }
}
