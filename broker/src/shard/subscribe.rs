//! What a consumer subscribes to takes effect: lite topics that wait are shown to the sessions that may now serve them, and a group
//! that follows what is subscribed to begins where the consumer said.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::admin::{ConsumeMode, Durability};
use sluicegate_protocol::limits::SUBSCRIBED_PREFIXES_MAX;
use sluicegate_protocol::{ErrorCode, GroupId, LiteName, Offset, Position, SessionId, Timestamp, wire};
use sluicegate_scheduler::SessionKey;
use tokio::sync::mpsc;

use super::command::ToConsumer;
use super::fault::Fault;
use super::group::{Back, Group};
use super::ledger::Ledger;
use super::position::{first_since, position};
use super::subscription::Names;
use super::{Effect, Shard};
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
    /// These too. The group begins at the position in those that exist and that it does not follow yet.
    Add(Names, Position),
    Remove(Names),
}

/// Why lite topics are matched anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    Subscribed,
    Unsubscribed,
}

/// Prefixes whose lite topics are to be matched anew. Where there would be too many, one look at all names does for them.
#[derive(Debug, Default)]
pub(super) struct Rematches(BTreeMap<Arc<str>, Rematch>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rematch {
    why: Why,
    /// The group begins with the first message of this time or later in what it does not follow yet; none for the first that is kept.
    since: Option<Timestamp>,
    /// The name after which to go on.
    after: Option<LiteName>,
}

impl Rematches {
    fn add(&mut self, prefix: &LiteName, why: Why, since: Option<Timestamp>) {
        let before = self.0.get(prefix.as_str());
        if self.0.len() >= SUBSCRIBED_PREFIXES_MAX && before.is_none() {
            self.0.clear();
            self.0.insert("".into(), Rematch { why: Why::Subscribed, since: None, after: None });
            return;
        }
        let rematch = match before {
            // What was left is looked at for that, although somebody came back. Of two starts the earlier one passes over nothing
            // that is wanted.
            Some(before) => Rematch { why: before.why.max(why), since: before.since.min(since), after: None },
            None => Rematch { why, since, after: None },
        };
        self.0.insert(prefix.shared(), rematch);
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
        let has_start = matches!(&change, SubscriptionChange::Add(_, start) if *start != Position::Earliest);
        let reply = match group.subscribe(&mut self.ledger, key, change) {
            Ok(kept) => {
                let (lites, prefixes) = group.subscriptions.count_of(key);
                let count = |count| u32::try_from(count).expect("subscriptions are limited");
                let kept = kept.iter().map(|name| name.as_str().to_owned()).collect();
                let now_us = self.ledger.stage.now().as_micros();
                let (lites, prefixes) = (count(lites), count(prefixes));
                ToConsumer::Subscribed(wire::Subscribed { sequence, lites, prefixes, kept, now_us })
            }
            Err(Fault::Refused(refusal)) => ToConsumer::Refused(sequence, refusal),
            Err(Fault::Store(error)) => return self.fail(&error),
        };
        if has_start {
            // The consumer will not say again where to begin.
            return self.ledger.stage.then(Durability::Fsync, Effect::Reply(replies, reply));
        }
        // A stream that does not read is ended by its own task.
        let _ = replies.try_send(reply);
    }
}

impl Group {
    /// Answers those of the names that the group followed already, if a start was said.
    pub(super) fn subscribe(
        &mut self,
        ledger: &mut Ledger,
        session: SessionKey,
        change: SubscriptionChange,
    ) -> Result<Vec<LiteName>, Fault> {
        let is_exclusive = self.spec.settings.mode == ConsumeMode::Exclusive;
        let (names, start, why) = match change {
            SubscriptionChange::Add(names, start) => (names, start, Why::Subscribed),
            SubscriptionChange::Remove(names) => (names, Position::Earliest, Why::Unsubscribed),
        };
        if self.chooses() && !self.rematches.have_room(names.prefixes.len()) {
            let message = "too many prefixes of the group wait to be matched";
            return Err(Refusal::new(ErrorCode::LimitReached, message).retry_after(Duration::from_secs(1)).into());
        }
        if is_exclusive && why == Why::Subscribed && !names.prefixes.is_empty() {
            let message = "an exclusive group has one owner for each lite topic: subscribe by names, not by prefixes";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message).into());
        }
        // A group that follows everything has a position everywhere.
        let since = if names.prefixes.is_empty() { None } else { since(start, ledger.stage.now())? };
        let since = since.filter(|_| self.chooses());
        // An offset that is not there is refused before anything is changed.
        let starts = self.starts(ledger, &names.lites, start)?;
        match why {
            Why::Subscribed => self.subscriptions.add(session, &names)?,
            Why::Unsubscribed => self.subscriptions.remove(session, &names),
        }
        if is_exclusive && why == Why::Subscribed {
            self.take_over(ledger, session, &names.lites)?;
        }
        for name in &names.lites {
            self.rematch(ledger, name, why, starts.offsets.get(name).copied())?;
        }
        for prefix in &names.prefixes {
            self.rematches.add(prefix, why, since);
        }
        Ok(starts.kept)
    }

    /// Where the group begins in those of these lite topics that exist and that it does not follow yet.
    fn starts(&self, ledger: &mut Ledger, names: &[LiteName], start: Position) -> Result<Starts, Fault> {
        let mut starts = Starts::default();
        if start == Position::Earliest {
            return Ok(starts);
        }
        let (group, topic) = (self.id(), ledger.topics.get(&self.spec.topic).cloned());
        let topic = topic.expect("a group is in its topic's shard");
        for name in names {
            let Some(id) = ledger.find(&topic, name)? else { continue };
            if ledger.open_lite(id).cursor(group).is_some() {
                starts.kept.push(name.clone());
            } else {
                starts.offsets.insert(name.clone(), position(ledger, id, start)?);
            }
        }
        Ok(starts)
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
    fn rematch(
        &mut self,
        ledger: &mut Ledger,
        name: &LiteName,
        why: Why,
        start: Option<Offset>,
    ) -> Result<(), StoreError> {
        if self.chooses() {
            self.refollow(ledger, name, why, start)?;
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

    /// The first message of a time or later, if the group does not follow the lite topic yet.
    fn start_since(
        &self,
        ledger: &mut Ledger,
        name: &LiteName,
        since: Timestamp,
    ) -> Result<Option<Offset>, StoreError> {
        let topic = ledger.topics.get(&self.spec.topic).cloned().expect("a group is in its topic's shard");
        let Some(id) = ledger.find(&topic, name)? else { return Ok(None) };
        let lite = ledger.open_lite(id);
        if lite.cursor(self.id()).is_some() {
            return Ok(None);
        }
        let kept = (lite.trimmed, lite.visible);
        first_since(ledger, id, since, kept).map(Some)
    }

    /// Goes on with the prefixes that sessions subscribed to or left; true while there is more to do.
    pub(super) fn rematch_prefixes(&mut self, ledger: &mut Ledger) -> Result<bool, StoreError> {
        let Some((prefix, rematch)) = self.rematches.0.pop_first() else { return Ok(false) };
        let Rematch { why, since, after } = rematch;
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
            let start = match since {
                Some(since) => self.start_since(ledger, name, since)?,
                None => None,
            };
            self.rematch(ledger, name, why, start)?;
        }
        if names.len() == at_once {
            self.rematches.0.insert(prefix, Rematch { why, since, after: names.pop() });
        }
        Ok(!self.rematches.0.is_empty())
    }
}

/// Where a group begins that did not follow these before.
#[derive(Debug, Default)]
struct Starts {
    offsets: HashMap<LiteName, Offset>,
    /// It follows these already, and goes on there where it was.
    kept: Vec<LiteName>,
}

/// What a start means for lite topics that are matched later: none for the first message that is kept.
fn since(start: Position, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    match start {
        Position::Earliest => Ok(None),
        // What is published until they are matched is wanted.
        Position::Latest => Ok(Some(now)),
        Position::Timestamp(at) => Ok(Some(at)),
        Position::Offset(_) | Position::Last(_) => {
            let message =
                "start: an offset or `last` means something in one lite topic: say it with names, not with prefixes";
            Err(Refusal::new(ErrorCode::InvalidArgument, message))
        }
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
            rematches.add(&prefix(number), Why::Subscribed, Some(Timestamp(number as u64)));
            rematches.add(&prefix(0), Why::Unsubscribed, Some(Timestamp(7)));
        }
        assert_eq!(rematches.0.len(), SUBSCRIBED_PREFIXES_MAX);
        let both = Rematch { why: Why::Unsubscribed, since: Some(Timestamp(0)), after: None };
        assert_eq!(rematches.0["p0/"], both);
        assert!(!rematches.have_room(1));
        rematches.add(&prefix(SUBSCRIBED_PREFIXES_MAX), Why::Subscribed, Some(Timestamp(1)));
        assert_eq!(rematches.0.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), [""]);
    }
}
