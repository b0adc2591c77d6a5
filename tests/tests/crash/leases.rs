//! Who holds what after a restart.

use std::collections::BTreeMap;

use sluicegate_client::admin::LiteLease;
use sluicegate_client::{LiteId, Offset, SettleError, Timestamp};
use sluicegate_protocol::wire;
use sluicegate_tests::history::{Delivered, Ended, Place, Span};
use tokio::time::Instant;

use crate::audit::{HowItEnded, Seen, is_settled, one_life};
use crate::fact::OneLife;
use crate::operator::Verb;
use crate::worker::{Held, Worker, token};
use crate::world::{World, lite};

impl World {
    /// Who holds what: every lease that was seen is there, or over for a reason.
    pub(crate) fn audit_leases(&mut self, seen: &Seen<'_>, unsure: Option<&(Verb, Timestamp)>, gone: &mut [Worker]) {
        let now = seen.clock.latest(Instant::now());
        let mut shown = BTreeMap::new();
        for lite in seen.lites {
            let life = self.story.life(&one_life(lite));
            for lease in &lite.leases {
                shown.insert(((life, lease.offset.0), lease.dispatched_at), lease);
            }
        }
        let sessions_gone: Vec<_> = gone.iter().map(|worker| worker.session).collect();
        let is_gone = |session| sessions_gone.contains(&session);
        for index in 0..self.story.record.deliveries.len() {
            let grace = self.story.record.grace;
            let delivered = &mut self.story.record.deliveries[index];
            if delivered.ended.is_some() && !matches!(delivered.ended, Some((_, Ended::Abandoned))) {
                continue;
            }
            if delivered.ended.is_some() && delivered.deadline < seen.restart.after {
                continue;
            }
            if is_gone(delivered.session) {
                delivered.survives(seen.restart, grace);
            }
            let is_open = shown.remove(&(delivered.place, delivered.at)).is_some();
            if delivered.ended.is_none() || !is_open {
                // What nobody works on any more is leased until it runs out.
                delivered.ended = None;
                self.audit_lease((index, is_open, now), seen, unsure, gone);
            }
            let delivered = &mut self.story.record.deliveries[index];
            if delivered.ended.is_none() && is_gone(delivered.session) {
                delivered.ended = Some((seen.restart, Ended::Abandoned));
            }
        }
        for ((place, _), lease) in shown {
            self.unseen(place, lease, seen, gone);
        }
    }

    /// A lease that its holder knows: whether it is over, and why.
    fn audit_lease(
        &mut self,
        (index, is_open, now): (usize, bool, Timestamp),
        seen: &Seen<'_>,
        unsure: Option<&(Verb, Timestamp)>,
        gone: &mut [Worker],
    ) {
        let delivered = self.story.record.deliveries[index].clone();
        let token = delivered.token.expect("an open lease is of a session that has attached");
        let worker = self.workers.iter_mut().chain(gone).find(|worker| worker.session == delivered.session);
        if is_open {
            if let Some(held) = worker.and_then(|worker| worker.held.get_mut(&token)) {
                held.asked = None;
            }
            return;
        }
        let asked = worker.and_then(|worker| worker.lost(token)).and_then(|held| held.asked);
        let (lite_index, offset) = delivered.place;
        let life = &self.story.record.lites[lite_index];
        let named = |index: usize| lite(index).as_str() == life.name;
        let taken_away = match unsure {
            Some((Verb::Revoke { lite, .. }, at)) if named(*lite) => Some((*at, Ended::Revoked)),
            _ => None,
        };
        if let Some(over) = life.over {
            self.story.end(token, over, Ended::Deleted);
            return;
        }
        let ends_at = delivered.deadline.min(self.grace_over());
        let ran_out = ends_at <= now;
        let shown = seen.lites.iter().find(|shown| self.story.known_life(shown.lite_id) == Some(lite_index));
        let is_settled = shown.is_some_and(|shown| is_settled(shown, offset));
        let others = ran_out || taken_away.is_some() || seen.how == HowItEnded::PowerCut;
        let within = |after| Span { after, before: seen.restart.before };
        match (asked, taken_away) {
            (Some((end, at)), _) if !others || (end.is_final() && is_settled) => {
                // The answer was lost; what became of the message after it may be known from another.
                let is_last = self
                    .story
                    .record
                    .deliveries
                    .iter()
                    .all(|other| other.place != delivered.place || other.at <= delivered.at);
                if end.is_final() != is_settled && is_last && delivered.attempt < self.story.record.max_attempts {
                    let life = self.story.record.life_of(delivered.place);
                    self.story.wrong(format!("asked to end by {end:?}, and settled: {is_settled}\n{life}"));
                }
                self.story.settled((token, within(at), end, Ok(())));
            }
            // Whether the settle was synced or not even the lease: nobody was told either.
            _ if seen.how == HowItEnded::PowerCut => self.story.end(token, seen.restart, Ended::Forgotten),
            (Some((end, at)), _) if end.is_final() => {
                self.story.end(token, within(at), Ended::Settled(end, Err(SettleError::LeaseLost)));
            }
            (Some((end, at)), _) => self.story.end(token, within(at), Ended::Settled(end, Err(SettleError::Unknown))),
            (None, Some((at, how))) => self.story.end(token, within(at), how),
            (None, None) if ran_out => self.story.end(token, within(ends_at), Ended::Abandoned),
            (None, None) => {
                let what =
                    format!("{}@{offset}: its lease was lost by the restart", self.story.record.name(lite_index));
                self.story.wrong(what);
                self.story.end(token, seen.restart, Ended::Unsure);
            }
        }
    }

    /// When sessions that have not come back after the last restart may be over.
    fn grace_over(&self) -> Timestamp {
        let record = &self.story.record;
        record.restarts.last().map_or(Timestamp::MAX, |restart| restart.after.plus(record.grace))
    }

    /// A lease whose delivery went down with the broker.
    fn unseen(&mut self, place: Place, lease: &LiteLease, seen: &Seen<'_>, gone: &[Worker]) {
        let workers = self.workers.iter().map(|worker| (worker, false)).chain(gone.iter().map(|worker| (worker, true)));
        let holder = workers.into_iter().find(|(worker, _)| worker.id.to_string() == lease.session);
        let holder = holder.map(|(worker, is_gone)| (worker.session, is_gone));
        let name = format!("{}@{}", self.story.record.name(place.0), place.1);
        let Some((session, is_gone)) = holder else {
            // Of a worker that left in an earlier round: its grace is not over yet.
            if self.story.record.deliveries.iter().all(|known| known.place != place || known.at != lease.dispatched_at)
            {
                self.story.wrong(format!("{name} is leased to nobody: {lease:?}"));
            }
            return;
        };
        if lease.dispatched_at > seen.restart.before {
            self.story.wrong(format!("{name} was leased while nobody was attached: {lease:?}"));
        }
        let tenant = self.story.record.name(place.0).split('/').next().unwrap_or_default().to_owned();
        let mut delivered = Delivered {
            place,
            body: None,
            session,
            attempt: lease.attempt,
            at: lease.dispatched_at,
            deadline: lease.deadline,
            cost: 0,
            tenant,
            token: None,
            ended: None,
        };
        if is_gone {
            delivered.survives(seen.restart, self.story.record.grace);
            delivered.ended = Some((seen.restart, Ended::Abandoned));
        }
        self.story.delivered(delivered);
    }

    /// A worker is back with its session: what it holds by the broker's word.
    pub(crate) fn attached(&mut self, worker: &mut Worker, welcome: &wire::Welcome) {
        let now = Timestamp(welcome.now_us);
        let mut missing: Vec<_> = worker.held.keys().copied().collect();
        for lease in &welcome.held {
            let token = token(lease.token.expect("a lease has a token"));
            missing.retain(|held| *held != token);
            let deadline = Timestamp(lease.deadline_us);
            let Some(life) = self.story.known_life(LiteId(lease.lite_id)) else {
                self.story.wrong(format!("session {} holds {lease:?} of nobody", worker.session));
                continue;
            };
            if self.story.of_token(token).is_some() {
                self.story.has_deadline(token, deadline);
                continue;
            }
            let place = (life, lease.offset);
            let known = self.story.record.deliveries.iter().rposition(|delivered| {
                delivered.place == place && delivered.token.is_none() && delivered.session == worker.session
            });
            let Some(known) = known else {
                self.story.wrong(format!("session {} holds {lease:?}, which was not shown", worker.session));
                continue;
            };
            self.story.has_token(known, token);
            let one_life = OneLife { id: LiteId(lease.lite_id), name: lease.lite.clone() };
            let held = Held { token, lite: one_life, offset: Offset(lease.offset), asked: None };
            worker.held.insert(token, held);
        }
        for token in missing {
            worker.lost(token);
            let Some(known) = self.story.of_token(token).filter(|known| known.ended.is_none()) else {
                // An operator took it away before.
                continue;
            };
            let (ends_at, place) = (known.deadline.min(self.grace_over()), known.place);
            if ends_at > now {
                let name = self.story.record.name(place.0);
                self.story.wrong(format!("{name}@{} is not held any more at {now}, before {ends_at}", place.1));
            }
            self.story.end(token, Span { after: ends_at, before: now }, Ended::Abandoned);
        }
    }
}
