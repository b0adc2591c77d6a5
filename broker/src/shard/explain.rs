//! Why a lite topic is not being served, and who waits longest. Looks, and changes nothing.
//!
//! Answers wait for no write: they are wanted most when the disk is slow.

use std::cmp::Reverse;
use std::time::Duration;

use sluicegate_protocol::admin::{
    Blocker, Bucket, Cause, ExplainedHead, Explanation, PolicyRuns, PolicyVerdict, PolicyWord, Rank, Waiter, Waiters,
};
use sluicegate_protocol::{ErrorCode, GroupId, LiteId, LiteName, Offset, Timestamp};
use sluicegate_scheduler as scheduler;

use super::Shard;
use super::cursor::{Cursor, Held};
use super::fault::{Fault, Reply};
use super::group::Group;
use super::operator::{Place, lite_lease, suspension_source};
use crate::policy::BoundPolicy;
use crate::refusal::Refusal;

/// An explanation, but for the name of the policy, which the catalog knows.
#[derive(Debug)]
pub(crate) struct Explained {
    pub(crate) explanation: Explanation,
    /// What the policy that decides said of the lite topic.
    pub(crate) said: Option<PolicyWord>,
    /// Why the bound policy does not decide at present.
    pub(crate) policy_suspended_because: Option<String>,
    /// Where its frames are answered.
    pub(crate) policy_runs: Option<PolicyRuns>,
}

/// A place among the waiters: when the head was published, and of which lite topic.
pub(crate) type Wait = (Timestamp, LiteId);

/// Some of the waiters, and after which one the next step goes on.
#[derive(Debug)]
pub(crate) struct WaitersStep {
    pub(crate) waiters: Waiters,
    pub(crate) next: Option<Wait>,
}

impl Shard {
    pub(super) fn explain(&mut self, group: GroupId, name: &LiteName, reply: Reply<Explained>) {
        let done = self.explained(group, name);
        self.answer_now(reply, done);
    }

    pub(super) fn waiters(&mut self, group: GroupId, after: Option<Wait>, limit: usize, reply: Reply<WaitersStep>) {
        let done = self.waiters_after(group, after, limit);
        self.answer_now(reply, done);
    }

    fn explained(&mut self, group: GroupId, name: &LiteName) -> Result<Explained, Fault> {
        self.check_delivers()?;
        let stop = self.stop();
        Ok(self.place(group, name)?.explain(stop.as_ref()))
    }

    fn waiters_after(&mut self, group: GroupId, after: Option<Wait>, limit: usize) -> Result<WaitersStep, Fault> {
        self.check_delivers()?;
        let (now, stop) = (self.ledger.stage.now(), self.stop());
        let deleted = || Refusal::new(ErrorCode::UnknownGroup, "the group was deleted");
        let group = self.groups.get(&group).ok_or_else(deleted)?;
        let found: Vec<_> = group.scheduler.oldest_waiters(after).take(limit).collect();
        let mut waiters = Vec::with_capacity(found.len());
        for &(since, id) in &found {
            let Some(known) = group.scheduler.explain(now, id) else { continue };
            let Some(lite) = self.ledger.lite(id)? else { continue };
            let name = lite.name.clone();
            let holds = lite.cursor(group.id()).map_or_else(Vec::new, |cursor| cursor.holds().to_vec());
            waiters.push(Waiter {
                name,
                lite_id: id,
                tenant: self.ledger.tenant_name(known.tenant).as_ref().to_owned(),
                since,
                blocker: blockers(group, &known, &holds, stop.as_ref()).into_iter().next(),
                rank_in_tenant: known.rank_in_tenant.map(rank),
                rank_in_band: known.rank_in_band.map(rank),
            });
        }
        let waiters = Waiters {
            group: group.spec.name.clone(),
            at: now,
            paused: group.spec.paused,
            draining: self.draining,
            stats: group.report(&self.ledger).stats,
            waiters,
        };
        Ok(WaitersStep { waiters, next: found.last().filter(|_| found.len() == limit).copied() })
    }

    /// Once the store failed, what is in memory may be what the store has, or not: it explains nothing.
    fn check_delivers(&self) -> Result<(), Refusal> {
        self.failed.as_ref().map_or(Ok(()), |error| {
            let message = format!("nothing is delivered until the store is open again: the store failed: {error}");
            Err(Refusal::new(ErrorCode::StoreFailed, message).retry_after(Duration::from_secs(1)))
        })
    }

    /// What keeps the broker from delivering anything.
    fn stop(&self) -> Option<Cause> {
        self.draining.then_some(Cause::Draining)
    }
}

impl Place<'_> {
    fn explain(&mut self, stop: Option<&Cause>) -> Explained {
        let now = self.ledger.stage.now();
        let known = self.group.scheduler.explain(now, self.id);
        let tenant = self.lite().tenant;
        let tenant = self.ledger.tenant_name(tenant).as_ref().to_owned();
        let lite = self.lite();
        let (topic, name, end) = (lite.topic.topic_name(), lite.name.clone(), lite.visible);
        let cursor = self.cursor();
        let first = cursor.head_offset(end);
        let head = first.and_then(|offset| cursor.head(offset));
        let (backlog, leases) = (cursor.backlog(end), cursor.leases().map(lite_lease).collect::<Vec<_>>());
        let rest = if first.is_none() { Some(nothing_starts(cursor, backlog)) } else { None };
        let (holds, unlisted) = (cursor.holds().to_vec(), unlisted(cursor, end, now));
        let group = &*self.group;
        // It may remember one that sleeps, or that nobody takes, and know nothing of its head.
        let listed = known.as_ref().filter(|known| known.head.is_some() || first.is_none());
        let mut blockers = if let Some(known) = listed {
            blockers(group, known, &holds, stop)
        } else {
            let stopped = stop.cloned().or_else(|| group.spec.paused.then_some(Cause::Paused));
            stopped.map(open_ended).into_iter().chain(unlisted).collect()
        };
        blockers.extend(rest.map(open_ended));
        let leased_since = leases.iter().map(|lease| lease.dispatched_at).min();
        for blocker in &mut blockers {
            if matches!(blocker.cause, Cause::LiteConcurrency { .. } | Cause::AllLeased | Cause::Window { .. }) {
                blocker.since = leased_since;
            }
        }
        blockers.sort_by_key(order);
        let estimated_start = match listed {
            Some(known) => known.estimated_start,
            // Of one that sleeps, when it wakes: then it may have to wait for its turn.
            None => blockers
                .iter()
                .map(|blocker| blocker.until)
                .collect::<Option<Vec<_>>>()
                .and_then(|ends| ends.into_iter().max()),
        };
        let known = known.as_ref();
        Explained {
            said: known.and_then(|known| word(group, known.said?)),
            policy_suspended_because: group.deciding.suspended_because.clone(),
            policy_runs: group.deciding.policy.as_ref().map(BoundPolicy::runs),
            explanation: Explanation {
                group: group.spec.name.clone(),
                topic,
                name,
                lite_id: self.id,
                tenant,
                at: now,
                blockers,
                head: known.and_then(|known| known.head).or(head).map(explained_head),
                backlog,
                leases,
                weight: known.map(|known| known.weight),
                band: known.and_then(|known| known.band),
                rank_in_tenant: known.and_then(|known| known.rank_in_tenant).map(rank),
                rank_in_band: known.and_then(|known| known.rank_in_band).map(rank),
                estimated_start: estimated_start.filter(|_| stop.is_none() && backlog > 0),
                policy: None,
            },
        }
    }
}

/// Why no message may start, although nothing holds the lite topic back.
fn nothing_starts(cursor: &Cursor, backlog: u64) -> Cause {
    match (backlog, cursor.leases().next()) {
        (0, None) => Cause::Empty,
        (0, Some(_)) => Cause::AllLeased,
        (_, _) => Cause::Window { first: cursor.settled_up_to() },
    }
}

/// What keeps a lite topic that the scheduler has no entry of: it sleeps, for its suspensions or its head's `deliver_at`. One with
/// a head and neither is not there because nobody takes it.
fn unlisted(cursor: &Cursor, end: Offset, now: Timestamp) -> Vec<Blocker> {
    let mut held: Vec<_> = cursor.holds().iter().filter(|held| held.until > now).map(suspended).collect();
    let first = cursor.head_offset(end);
    if let Some(head) = first.and_then(|offset| cursor.head(offset))
        && let Some(at) = head.deliver_at.filter(|at| *at > now)
    {
        held.push(Blocker { cause: Cause::DeliverAt, since: Some(head.published_at), until: Some(at) });
    }
    match held.is_empty() && first.is_some() {
        true => vec![open_ended(Cause::NoSession)],
        false => held,
    }
}

/// What keeps a lite topic that the scheduler knows, in order.
fn blockers(group: &Group, known: &scheduler::Explanation, holds: &[Held], stop: Option<&Cause>) -> Vec<Blocker> {
    let stopped = stop.cloned().map(open_ended).into_iter();
    let mut blockers: Vec<_> =
        stopped.chain(known.blockers.iter().filter_map(|found| blocker(group, known, holds, found))).collect();
    blockers.sort_by_key(order);
    blockers
}

/// First what somebody must end, then what ends by itself, the last to end first; then what ends by the course of things; then
/// the turn of others, which is no longer than it has to be.
fn order(blocker: &Blocker) -> (u8, Reverse<Option<Timestamp>>) {
    let class = match blocker.cause {
        Cause::Draining | Cause::Paused | Cause::NoSession => 0,
        Cause::Suspended { .. } | Cause::DeliverAt | Cause::Throttled | Cause::Quota { .. } => 1,
        Cause::Empty
        | Cause::AllLeased
        | Cause::Window { .. }
        | Cause::LiteConcurrency { .. }
        | Cause::TenantConcurrency { .. }
        | Cause::GroupConcurrency { .. }
        | Cause::Asking
        | Cause::Refused
        | Cause::NoCredit
        | Cause::SessionFull { .. } => 2,
        Cause::Turn => 3,
    };
    (class, Reverse(blocker.until))
}

/// A blocker as operators see it. None where the shard itself knows better why nothing starts.
fn blocker(
    group: &Group,
    known: &scheduler::Explanation,
    holds: &[Held],
    found: &scheduler::Blocker,
) -> Option<Blocker> {
    use scheduler::{Blocker as Found, Verdict};
    let said = |is_it: fn(&Verdict) -> bool| known.said.filter(|said| is_it(&said.verdict)).map(|said| said.at);
    let (cause, since) = match *found {
        Found::Empty => return None,
        Found::LiteConcurrency(_) if known.head.is_none() => return None,
        Found::LiteConcurrency(limit) => (Cause::LiteConcurrency { limit }, None),
        Found::Paused => (Cause::Paused, None),
        Found::Held(source, until) => {
            let since = holds.iter().find(|held| held.source == source).and_then(|held| held.since);
            return Some(suspended(&Held { source, since, until }));
        }
        Found::DeliverAt(_) => (Cause::DeliverAt, known.head.map(|head| head.published_at)),
        Found::Throttled(_) => {
            let said = said(|verdict| matches!(verdict, Verdict::Throttle(_)));
            (Cause::Throttled, known.kept_since.or(said))
        }
        Found::Refused => (Cause::Refused, said(|verdict| matches!(verdict, Verdict::DeadLetter | Verdict::Drop))),
        Found::TenantConcurrency(limit) => (Cause::TenantConcurrency { limit }, None),
        Found::GroupConcurrency(limit) => {
            let by_policy = group.spec.settings.concurrency.group.is_none_or(|own| limit < own);
            (Cause::GroupConcurrency { limit, by_policy }, None)
        }
        Found::Asking(since) => (Cause::Asking, since),
        Found::NoSession => (Cause::NoSession, None),
        Found::NoCredit => (Cause::NoCredit, None),
        Found::SessionFull(key) => {
            (Cause::SessionFull { session: group.sessions.id(key).map(|session| session.to_string()) }, None)
        }
        Found::Quota { bucket, short, since, .. } => {
            let bucket = match bucket {
                scheduler::Bucket::Messages => Bucket::Messages,
                scheduler::Bucket::Cost => Bucket::Cost,
            };
            (Cause::Quota { bucket, short }, Some(since))
        }
        Found::Turn => (Cause::Turn, None),
    };
    Some(Blocker { cause, since, until: found.until() })
}

const fn suspended(&Held { source, since, until }: &Held) -> Blocker {
    Blocker { cause: Cause::Suspended { source: suspension_source(source) }, since, until: Some(until) }
}

const fn open_ended(cause: Cause) -> Blocker {
    Blocker { cause, since: None, until: None }
}

/// What the policy that decides now said. The words of one before are not its own.
fn word(group: &Group, said: scheduler::Said) -> Option<PolicyWord> {
    let policy = group.deciding.policy.as_ref().filter(|policy| policy.bound_at() <= said.at)?;
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let verdict = match said.verdict {
        scheduler::Verdict::Serve { band, max_messages } => PolicyVerdict::Serve { band, max_messages },
        scheduler::Verdict::Throttle(wait) => PolicyVerdict::Throttle { for_ms: millis(wait) },
        scheduler::Verdict::Suspend(wait) => PolicyVerdict::Suspend { for_ms: millis(wait) },
        scheduler::Verdict::DeadLetter => PolicyVerdict::DeadLetter,
        scheduler::Verdict::Drop => PolicyVerdict::Drop,
    };
    let reason = policy.compiled().reason(said.reason).to_owned();
    Some(PolicyWord { at: said.at, verdict, reason, overruled: said.overruled })
}

const fn explained_head(head: scheduler::Head) -> ExplainedHead {
    ExplainedHead {
        offset: head.offset,
        published_at: head.published_at,
        priority: head.priority,
        cost: head.cost,
        attempts: head.attempts,
        expires_at: head.expires_at,
    }
}

const fn rank(rank: scheduler::Rank) -> Rank {
    match rank {
        scheduler::Rank::Exactly(count) => Rank::Exactly(count),
        scheduler::Rank::MoreThan(count) => Rank::MoreThan(count),
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::admin::SuspensionSource;

    use super::*;

    #[test]
    fn a_lite_topic_that_the_scheduler_does_not_know_is_held_or_nobody_takes_it() {
        let (mut cursor, now, end) = (Cursor::default(), Timestamp(10), Offset(2));
        assert_eq!(unlisted(&cursor, end, now), [open_ended(Cause::NoSession)]);
        assert_eq!(unlisted(&cursor, Offset(0), now), []);
        cursor.hold(Timestamp(5), scheduler::HoldSource::Policy, Timestamp(10));
        cursor.hold(Timestamp(6), scheduler::HoldSource::Operator, Timestamp(11));
        let by_operator = Cause::Suspended { source: SuspensionSource::Operator };
        let held = Blocker { cause: by_operator, since: Some(Timestamp(6)), until: Some(Timestamp(11)) };
        assert_eq!(unlisted(&cursor, end, now), [held]);
    }

    #[test]
    fn blockers_come_in_the_order_in_which_an_operator_acts_on_them() {
        let until = |cause, until| Blocker { cause, since: None, until: Some(Timestamp(until)) };
        let mut blockers = [
            open_ended(Cause::Turn),
            open_ended(Cause::NoCredit),
            until(Cause::Throttled, 5),
            until(Cause::DeliverAt, 9),
            open_ended(Cause::Paused),
        ];
        blockers.sort_by_key(order);
        let causes = blockers.map(|blocker| blocker.cause);
        assert_eq!(causes, [Cause::Paused, Cause::DeliverAt, Cause::Throttled, Cause::NoCredit, Cause::Turn]);
    }
}
