//! Puts together what the clients saw in one round.

use std::collections::HashMap;

use sluicegate_client::{LiteId, SettleError, Timestamp};
use sluicegate_protocol::LeaseToken;
use sluicegate_tests::history::{Delivered, End, Ended, Hold, Life, Place, Record, Source, Span};

use crate::fact::{Fact, OneLife};

/// How long after its session's grace a lease may last: the next process counts the grace from its own start.
const START_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// The record of one topic in one group, with what finds things in it.
#[derive(Default)]
pub(crate) struct Story {
    pub(crate) record: Record,
    lives: HashMap<LiteId, usize>,
    by_token: HashMap<LeaseToken, usize>,
    /// Where each producer's messages are, by sequence.
    places: HashMap<(usize, u64), Place>,
    /// Newest message of each producer in each life: sequence and offset.
    newest: HashMap<(usize, usize), (u64, u64)>,
    revoked: Vec<(usize, Timestamp)>,
}

/// A settle with its answer.
type Answered = (LeaseToken, Span, End, Result<(), SettleError>);

impl Story {
    /// Index of a life, new or not.
    pub(crate) fn life(&mut self, life: &OneLife) -> usize {
        *self.lives.entry(life.id).or_insert_with(|| {
            self.record.lites.push(Life { name: life.name.clone(), over: None });
            self.record.lites.len() - 1
        })
    }

    pub(crate) fn known_life(&self, id: LiteId) -> Option<usize> {
        self.lives.get(&id).copied()
    }

    pub(crate) fn wrong(&mut self, what: String) {
        self.record.wrong.push(what);
    }

    /// Takes the facts of all clients; each one's own are in order.
    pub(crate) fn merge(&mut self, facts: Vec<Fact>) {
        let (mut answered, mut resumed, mut abandoned) = (Vec::new(), Vec::new(), Vec::new());
        for fact in facts {
            match fact {
                Fact::Acknowledged { producer, sequence, lite, offset, body } => {
                    let place = (self.life(&lite), offset.0);
                    self.acknowledged((producer, sequence), place, &body);
                }
                Fact::Delivered(lite, mut delivered) => {
                    delivered.place.0 = self.life(&lite);
                    self.delivered(*delivered);
                }
                Fact::Extended(token, deadline) => self.has_deadline(token, deadline),
                Fact::Settled(token, span, end, result) => answered.push((token, span, end, result)),
                Fact::Abandoned(token, span) => abandoned.push((token, span)),
                Fact::Suspended(one, Span { after: from, before: until }) => {
                    let lite = self.life(&one);
                    self.record.holds.push(Hold { lite, source: Source::Operator, from, until });
                }
                Fact::Resumed(id, source, span) => {
                    let Some(lite) = self.known_life(id) else { continue };
                    if source.is_none_or(|source| source == Source::Operator) {
                        self.record.cut_holds(lite, Some(Source::Operator), span.after);
                    }
                    if source.is_none() {
                        resumed.push((lite, span));
                    }
                }
                Fact::Revoked(id, at) => {
                    if let Some(lite) = self.known_life(id) {
                        self.revoked.push((lite, at));
                    }
                }
                Fact::Deleted(id, span) => {
                    if let Some(lite) = self.known_life(id) {
                        self.record.lites[lite].over = Some(span);
                    }
                }
                Fact::Paused(span) => self.record.pauses.push((span.before, Timestamp::MAX)),
                Fact::Unpaused(span) => self.unpaused(span.after),
                Fact::Concurrency(span, concurrency) => self.record.concurrency.push((span, concurrency)),
                Fact::Quotas(_) | Fact::Policy(_) => {}
                Fact::Wrong(what) => self.wrong(what),
            }
        }
        for (token, span) in abandoned {
            self.end(token, span, Ended::Abandoned);
        }
        let begun = answered.into_iter().filter_map(|answered| self.settled(answered)).collect::<Vec<_>>();
        self.cut_by_resumes(&resumed, &begun);
        self.taken_away();
    }

    pub(crate) fn unpaused(&mut self, at: Timestamp) {
        for (_, until) in &mut self.record.pauses {
            *until = at.min(*until);
        }
    }

    fn acknowledged(&mut self, source: (usize, u64), place: Place, body: &str) {
        let (producer, sequence) = source;
        if let Some(before) = self.places.insert(source, place)
            && before != place
        {
            let (name, other) = (self.record.name(place.0), self.record.name(before.0));
            self.wrong(format!("doubled: {body} is {name}@{} and was {other}@{}", place.1, before.1));
        }
        let newest = self.newest.entry((producer, place.0)).or_insert((sequence, place.1));
        if sequence > newest.0 && place.1 <= newest.1 {
            let newest = *newest;
            self.wrong(format!("order: {body} is {}@{}, behind {newest:?}", self.record.name(place.0), place.1));
        } else if sequence > newest.0 {
            *newest = (sequence, place.1);
        }
        self.record.acknowledged(place, body);
    }

    /// A new lease.
    pub(crate) fn delivered(&mut self, delivered: Delivered) -> usize {
        let index = self.record.deliveries.len();
        if let Some(token) = delivered.token {
            self.by_token.insert(token, index);
        }
        self.record.deliveries.push(delivered);
        index
    }

    /// The token of a lease whose delivery nobody saw.
    pub(crate) fn has_token(&mut self, index: usize, token: LeaseToken) {
        self.record.deliveries[index].token = Some(token);
        self.by_token.insert(token, index);
    }

    pub(crate) fn has_deadline(&mut self, token: LeaseToken, deadline: Timestamp) {
        if let Some(&index) = self.by_token.get(&token) {
            self.record.deliveries[index].deadline = deadline;
        }
    }

    pub(crate) fn of_token(&self, token: LeaseToken) -> Option<&Delivered> {
        self.by_token.get(&token).map(|&index| &self.record.deliveries[index])
    }

    pub(crate) fn end(&mut self, token: LeaseToken, span: Span, how: Ended) {
        if let Some(&index) = self.by_token.get(&token) {
            self.record.deliveries[index].ended = Some((span, how));
        }
    }

    /// Writes down what a settle was answered; the index of the hold that it began, and when that began at the earliest.
    pub(crate) fn settled(&mut self, (token, span, end, result): Answered) -> Option<(usize, Timestamp)> {
        let index = *self.by_token.get(&token)?;
        let delivered = &self.record.deliveries[index];
        let (lite, offset) = delivered.place;
        let (attempt, at, deadline) = (delivered.attempt, delivered.at, delivered.deadline);
        let what = format!("{}@{offset} #{attempt} of {at}", self.record.name(lite));
        let revoked = self.revoked.iter().filter(|(other, by)| *other == lite && *by >= at).map(|(_, by)| *by).min();
        let deleted = self.record.lites[lite].over;
        let how = match &result {
            Ok(()) => {
                let is_stale = revoked.is_some_and(|by| at < by && by < span.after)
                    || deleted.is_some_and(|deleted| deleted.before < span.after);
                if is_stale {
                    self.wrong(format!("{what} was settled by a token that was taken away: {end:?}"));
                }
                (span, Ended::Settled(end, result.clone()))
            }
            Err(SettleError::LeaseLost) => match (revoked, deleted) {
                (Some(by), _) if by <= span.before && by <= deadline => (Span::exact(by), Ended::Revoked),
                (_, Some(deleted)) if deleted.after <= span.before => (deleted, Ended::Deleted),
                _ if deadline <= span.before => (span, Ended::Abandoned),
                _ => {
                    self.wrong(format!("{what} lost its lease for no reason at {} to {}", span.after, span.before));
                    (span, Ended::Unsure)
                }
            },
            Err(_) => {
                self.wrong(format!("{what} could not be settled: {end:?}, {result:?}"));
                (span, Ended::Settled(end, result.clone()))
            }
        };
        self.record.deliveries[index].ended = Some(how);
        result.is_ok().then(|| self.hold(lite, attempt, span, end)).flatten()
    }

    fn hold(&mut self, lite: usize, attempt: u32, span: Span, end: End) -> Option<(usize, Timestamp)> {
        let is_last = attempt >= self.record.max_attempts;
        let (source, duration) = match end {
            End::Suspend(duration) => (Source::Settle, duration),
            End::Retry(Some(delay)) if !is_last && !delay.is_zero() => (Source::Retry, delay),
            _ => return None,
        };
        let until = span.after.plus(duration);
        self.record.holds.push(Hold { lite, source, from: span.before, until });
        Some((self.record.holds.len() - 1, span.after))
    }

    /// Resumes end what consumers asked for before.
    fn cut_by_resumes(&mut self, resumed: &[(usize, Span)], begun: &[(usize, Timestamp)]) {
        let begun: HashMap<_, _> = begun.iter().copied().collect();
        for (index, hold) in self.record.holds.iter_mut().enumerate() {
            let earliest = begun.get(&index).copied().unwrap_or_default();
            for (_, span) in resumed.iter().filter(|(lite, span)| *lite == hold.lite && earliest <= span.before) {
                if hold.source != Source::Operator {
                    hold.until = hold.until.min(span.after);
                }
            }
        }
    }

    /// Leases that an operator took away and of which their holders have not heard.
    fn taken_away(&mut self) {
        let Record { deliveries, lites, restarts, .. } = &mut self.record;
        for delivered in deliveries.iter_mut().filter(|delivered| delivered.ended.is_none() || is_abandoned(delivered))
        {
            let (at, deadline) = (delivered.at, delivered.deadline);
            let of_it = self.revoked.iter().filter(|(lite, by)| *lite == delivered.place.0 && *by >= at);
            let revoked = of_it.map(|(_, by)| *by).min();
            let unsure_until = deadline.plus(START_MAX);
            if let Some(by) = revoked.filter(|by| *by < deadline) {
                delivered.ended = Some((Span::exact(by), Ended::Revoked));
            } else if let Some(over) = lites[delivered.place.0].over {
                delivered.ended = Some((over, Ended::Deleted));
            } else if revoked.is_some_and(|by| by < unsure_until)
                && restarts.iter().any(|restart| at <= restart.before && restart.after <= deadline)
            {
                // It ran out, or was taken away just before that.
                delivered.ended = Some((Span { after: deadline, before: unsure_until }, Ended::Unsure));
            }
        }
    }
}

fn is_abandoned(delivered: &Delivered) -> bool {
    matches!(delivered.ended, Some((_, Ended::Abandoned)))
}
