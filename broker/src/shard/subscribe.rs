//! What a consumer subscribes to takes effect: lite topics that wait are shown to the sessions that may now serve them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::admin::ConsumeMode;
use sluicegate_protocol::limits::SUBSCRIBED_PREFIXES_MAX;
use sluicegate_protocol::{ErrorCode, GroupId, LiteName, SessionId, wire};
use sluicegate_scheduler::SessionKey;
use tokio::sync::mpsc;

use super::Shard;
use super::command::ToConsumer;
use super::group::{Back, Group};
use super::ledger::Ledger;
use super::subscription::Names;
use crate::metrics::Ended;
use crate::refusal::Refusal;
use crate::store::{LiteKey, LiteRow, Scan, StoreError};

/// Lite topics of a prefix that are looked at in one turn.
const MATCHED_PER_TURN: usize = 512;
/// The same where each may have to be read from the store.
const FOLLOWED_PER_TURN: usize = 64;

/// A change of what a session subscribes to.
#[derive(Debug)]
pub(crate) struct SubscribeRequest {
    pub(crate) group: GroupId,
    pub(crate) session: SessionId,
    pub(crate) stream: u64,
    pub(crate) sequence: u64,
    pub(crate) change: SubscriptionChange,
    pub(crate) replies: mpsc::Sender<ToConsumer>,
}

/// More, or less.
#[derive(Debug)]
pub(crate) enum SubscriptionChange {
    Add(Names),
    Remove(Names),
}

/// Why lite topics are matched anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    Subscribed,
    Unsubscribed,
}

/// Prefixes whose lite topics are to be matched anew, why, and after which name each goes on. Where there would be too many, one
/// look at all names does for them.
#[derive(Debug, Default)]
pub(super) struct Rematches(BTreeMap<Arc<str>, (Why, Option<LiteName>)>);

impl Rematches {
    fn add(&mut self, prefix: &LiteName, why: Why) {
        let before = self.0.get(prefix.as_str()).map(|(why, _)| *why);
        if self.0.len() >= SUBSCRIBED_PREFIXES_MAX && before.is_none() {
            self.0.clear();
            self.0.insert("".into(), (Why::Subscribed, None));
        } else {
            // What was left is looked at for that, although somebody came back.
            self.0.insert(prefix.shared(), (before.unwrap_or(why).max(why), None));
        }
    }

    /// Whether so many more can wait, each for itself.
    fn have_room(&self, more: usize) -> bool {
        self.0.len() + more <= SUBSCRIBED_PREFIXES_MAX
    }
}

impl Shard {
    pub(super) fn subscribe(&mut self, request: SubscribeRequest) {
        let SubscribeRequest { group, session, stream, sequence, change, replies } = request;
        let Some(group) = self.groups.get_mut(&group).filter(|_| self.failed.is_none()) else { return };
        let Some(key) = group.sessions.key_on(session, stream) else { return };
        let reply = match group.subscribe(&mut self.ledger, key, change) {
            Ok(Ok(())) => {
                let (lites, prefixes) = group.subscriptions.count_of(key);
                let count = |count| u32::try_from(count).expect("subscriptions are limited");
                ToConsumer::Subscribed(wire::Subscribed { sequence, lites: count(lites), prefixes: count(prefixes) })
            }
            Ok(Err(refusal)) => ToConsumer::Refused(sequence, refusal),
            Err(error) => return self.fail(&error),
        };
        // A stream that does not read is ended by its own task.
        let _ = replies.try_send(reply);
    }
}

impl Group {
    fn subscribe(
        &mut self,
        ledger: &mut Ledger,
        session: SessionKey,
        change: SubscriptionChange,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let is_exclusive = self.spec.settings.mode == ConsumeMode::Exclusive;
        let (SubscriptionChange::Add(names) | SubscriptionChange::Remove(names)) = &change;
        if self.chooses() && !self.rematches.have_room(names.prefixes.len()) {
            let message = "too many prefixes of the group wait to be matched";
            return Ok(Err(Refusal::new(ErrorCode::LimitReached, message).retry_after(Duration::from_secs(1))));
        }
        let why = match &change {
            SubscriptionChange::Add(_) => Why::Subscribed,
            SubscriptionChange::Remove(_) => Why::Unsubscribed,
        };
        let names = match change {
            SubscriptionChange::Add(names) if is_exclusive && !names.prefixes.is_empty() => {
                let message =
                    "an exclusive group has one owner for each lite topic: subscribe by names, not by prefixes";
                return Ok(Err(Refusal::new(ErrorCode::InvalidArgument, message)));
            }
            SubscriptionChange::Add(names) => {
                if let Err(refusal) = self.subscriptions.add(session, &names) {
                    return Ok(Err(refusal));
                }
                if is_exclusive {
                    self.take_over(ledger, session, &names.lites)?;
                }
                names
            }
            SubscriptionChange::Remove(names) => {
                self.subscriptions.remove(session, &names);
                names
            }
        };
        for name in &names.lites {
            self.rematch(ledger, name, why)?;
        }
        for prefix in &names.prefixes {
            self.rematches.add(prefix, why);
        }
        Ok(Ok(()))
    }

    /// The newest subscriber owns the lite topics: those before lose them, and what they have of them in work.
    fn take_over(&mut self, ledger: &mut Ledger, owner: SessionKey, lites: &[LiteName]) -> Result<(), StoreError> {
        let mut all_losers = BTreeSet::new();
        for name in lites {
            let losers: Vec<_> =
                self.subscriptions.members(name).iter().copied().filter(|&session| session != owner).collect();
            for &loser in &losers {
                self.subscriptions.remove(loser, &Names { lites: vec![name.clone()], prefixes: Vec::new() });
                self.return_leases_of(ledger, loser, name)?;
                self.sessions.lost(loser, name.clone());
                all_losers.insert(loser);
            }
        }
        for loser in all_losers {
            self.sessions.tell_lost(loser);
        }
        Ok(())
    }

    fn return_leases_of(&mut self, ledger: &mut Ledger, loser: SessionKey, name: &LiteName) -> Result<(), StoreError> {
        let Some(id) = ledger.lites.named(self.spec.topic, name) else { return Ok(()) };
        let (group, loser) = (self.id(), self.sessions.id(loser));
        let Some(cursor) = ledger.open_lite(id).cursor(group) else { return Ok(()) };
        let held = cursor.leases().filter(|(_, lease)| Some(lease.session) == loser);
        let leases: Vec<_> = held.map(|(offset, _)| offset).collect();
        // Highest offset first: each becomes the head only for as long as a lower one is not back.
        for offset in leases.into_iter().rev() {
            self.meters.ended(Ended::Revoked);
            self.give_back(ledger, id, offset, Back::Unused)?;
        }
        Ok(())
    }

    /// The lite topic's members changed. One that the scheduler does not know has nothing that waits, or is only in its rows.
    fn rematch(&mut self, ledger: &mut Ledger, name: &LiteName, why: Why) -> Result<(), StoreError> {
        if self.chooses() {
            self.refollow(ledger, name, why)?;
        }
        let Some(id) = ledger.id_of(self.spec.topic, name)? else { return Ok(()) };
        let is_known = self.scheduler.has_head(id);
        if !is_known && !self.paging.is_behind() {
            return Ok(());
        }
        let (group, lite) = (self.id(), ledger.lite(id)?);
        let Some(lite) = lite else { return Ok(()) };
        let end = lite.visible;
        if lite.cursor(group).is_some_and(|cursor| is_known || !cursor.is_drained(end)) {
            self.announce(ledger, id)?;
        }
        Ok(())
    }

    /// Goes on with the prefixes that sessions subscribed to or left; true while there is more to do.
    pub(super) fn rematch_prefixes(&mut self, ledger: &mut Ledger) -> Result<bool, StoreError> {
        let Some((prefix, (why, after))) = self.rematches.0.pop_first() else { return Ok(false) };
        let at_once = if self.chooses() { FOLLOWED_PER_TURN } else { MATCHED_PER_TURN };
        let (shard, topic) = (ledger.stage.shard(), self.spec.topic);
        let within = LiteKey::of_prefix(shard, topic, &prefix);
        let from = after.as_ref().map_or_else(|| within.clone(), |name| LiteKey::after(shard, topic, name));
        let mut names = Vec::new();
        ledger.stage.store().scan(&within, &from, |key: LiteKey, _: LiteRow| {
            names.push(key.name);
            if names.len() < at_once { Scan::More } else { Scan::Done }
        })?;
        for name in &names {
            self.rematch(ledger, name, why)?;
        }
        if names.len() == at_once {
            self.rematches.0.insert(prefix, (why, names.pop()));
        }
        Ok(!self.rematches.0.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_wait_once_and_never_more_than_a_session_may_have() {
        let mut rematches = Rematches::default();
        let prefix = |number: usize| LiteName::parse(&format!("p{number}/")).unwrap();
        for number in 0..SUBSCRIBED_PREFIXES_MAX {
            rematches.add(&prefix(number), Why::Subscribed);
            rematches.add(&prefix(0), Why::Unsubscribed);
        }
        assert_eq!(rematches.0.len(), SUBSCRIBED_PREFIXES_MAX);
        assert_eq!(rematches.0["p0/"].0, Why::Unsubscribed);
        assert!(!rematches.have_room(1));
        rematches.add(&prefix(SUBSCRIBED_PREFIXES_MAX), Why::Subscribed);
        assert_eq!(rematches.0.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), [""]);
    }
}
