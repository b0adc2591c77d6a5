//! What a consumer subscribed to, and the changes that the broker is to be told. Pure: no I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::SUBSCRIPTIONS_PER_FRAME_MAX;
use sluicegate_protocol::{LiteName, Position, Timestamp, wire};
use tokio::sync::oneshot;

use crate::refusal::Refusal;

/// Lite topics by name, and by how their names start, whether they exist or not.
///
/// ```
/// use sluicegate_client::{LiteName, Subscription};
///
/// let subscription = Subscription::default()
///     .lite_topic(LiteName::parse("session/42")?)
///     .prefix(LiteName::parse("batch/")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    lites: BTreeSet<LiteName>,
    prefixes: BTreeSet<LiteName>,
    start: Position,
}

impl Subscription {
    /// With this lite topic.
    #[must_use]
    pub fn lite_topic(mut self, name: LiteName) -> Self {
        self.lites.insert(name);
        self
    }

    /// With these lite topics.
    #[must_use]
    pub fn lite_topics(mut self, names: impl IntoIterator<Item = LiteName>) -> Self {
        self.lites.extend(names);
        self
    }

    /// With all lite topics whose names start like this, those of later too.
    #[must_use]
    pub fn prefix(mut self, prefix: LiteName) -> Self {
        self.prefixes.insert(prefix);
        self
    }

    /// The group begins here in those lite topics that exist now and that it does not follow yet, [`Position::Earliest`] unless told
    /// otherwise. In later ones it begins with the first message; where it follows already it goes on where it was. [`Position::Offset`]
    /// and [`Position::Last`] are for names only.
    #[must_use]
    pub fn starting_at(mut self, start: Position) -> Self {
        self.start = start;
        self
    }

    /// At most as many as fit into a frame, lite topics first; what is left stays.
    fn split(&mut self) -> Self {
        let lites: BTreeSet<_> =
            std::iter::from_fn(|| self.lites.pop_first()).take(SUBSCRIPTIONS_PER_FRAME_MAX).collect();
        let room = SUBSCRIPTIONS_PER_FRAME_MAX - lites.len();
        let prefixes = std::iter::from_fn(|| self.prefixes.pop_first()).take(room).collect();
        Self { lites, prefixes, start: self.start }
    }

    fn is_empty(&self) -> bool {
        self.lites.is_empty() && self.prefixes.is_empty()
    }
}

/// What a subscription met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscribed {
    /// Lite topics that were named, with a [start](Subscription::starting_at), and that the group followed already: it goes on there where
    /// it was.
    pub kept: Vec<LiteName>,
}

/// Why a consumer is not subscribed as it asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The consumer was made without a subscription: it takes all lite topics.
    #[error("the consumer takes all lite topics, it has no subscription to change")]
    TakesAll,
    /// The broker refused; of several frames of names the ones before may have gone through.
    #[error("subscription refused: {0}")]
    Refused(Refusal),
    /// The consumer has ended.
    #[error("the consumer has ended")]
    Closed,
}

pub(super) type Done = oneshot::Sender<Result<Subscribed, SubscribeError>>;

/// More or fewer lite topics, and who wants to know.
#[derive(Debug)]
pub(crate) struct Change {
    pub(super) kind: Kind,
    pub(super) names: Subscription,
    pub(super) done: Option<Done>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Add,
    Remove,
}

/// What the session is subscribed to as far as the user is concerned, and what the broker was not told of it.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    wanted: Wanted,
    changes: VecDeque<Change>,
    sent: Option<Sent>,
    /// What the frames so far of the change that is out have met.
    met: Subscribed,
}

/// Names and prefixes, each with where the group is to begin if it has to be said again.
#[derive(Debug, Default)]
struct Wanted {
    lites: BTreeMap<LiteName, Position>,
    prefixes: BTreeMap<LiteName, Position>,
}

impl Wanted {
    fn add(&mut self, names: &Subscription) {
        for name in &names.lites {
            self.lites.entry(name.clone()).or_insert(names.start);
        }
        for prefix in &names.prefixes {
            self.prefixes.entry(prefix.clone()).or_insert(names.start);
        }
    }

    fn remove(&mut self, names: &Subscription) {
        self.lites.retain(|name, _| !names.lites.contains(name));
        self.prefixes.retain(|prefix, _| !names.prefixes.contains(prefix));
    }

    /// The broker took these. What was named it follows now, or from its first message; a prefix is matched behind.
    fn taken(&mut self, names: &Subscription, now: Timestamp) {
        for name in &names.lites {
            self.lites.entry(name.clone()).and_modify(|start| *start = Position::Earliest);
        }
        for prefix in &names.prefixes {
            let start = self.prefixes.get_mut(prefix);
            if let Some(start) = start.filter(|start| **start == Position::Latest) {
                *start = Position::Timestamp(now);
            }
        }
    }

    /// All of it, one subscription for each start.
    fn by_start(&self) -> Vec<Subscription> {
        let mut all: BTreeMap<Position, Subscription> = BTreeMap::new();
        let empty = |start: Position| Subscription::default().starting_at(start);
        for (name, &start) in &self.lites {
            all.entry(start).or_insert_with(|| empty(start)).lites.insert(name.clone());
        }
        for (prefix, &start) in &self.prefixes {
            all.entry(start).or_insert_with(|| empty(start)).prefixes.insert(prefix.clone());
        }
        all.into_values().collect()
    }
}

/// The frame that is out.
#[derive(Debug)]
struct Sent {
    sequence: u64,
    /// What it says: a whole change, or as much of one as fits.
    change: Change,
    /// The rest of the change is the first of those that wait.
    has_rest: bool,
}

/// What became of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Whoever asked knows, or nobody need know.
    Told,
    /// Refused, and nobody waits to know: the consumer cannot be what it was made to be.
    Unheard(Refusal),
    /// It answers nothing that is out.
    NotOurs,
}

impl Subscriptions {
    pub(super) fn change(&mut self, change: Change) {
        let Change { kind, names, .. } = &change;
        match kind {
            Kind::Add => self.wanted.add(names),
            Kind::Remove => self.wanted.remove(names),
        }
        self.changes.push_back(change);
    }

    /// A newer subscriber has it.
    pub(super) fn lost(&mut self, name: &LiteName) {
        self.wanted.lites.remove(name);
    }

    /// The next frame, one at a time, in the order of the changes.
    pub(super) fn next_frame(&mut self, next_sequence: impl FnOnce() -> u64) -> Option<Frame> {
        if self.sent.is_some() {
            return None;
        }
        let change = self.changes.front_mut()?;
        let (kind, names) = (change.kind, change.names.split());
        let has_rest = !change.names.is_empty();
        let done = if has_rest { None } else { self.changes.pop_front().and_then(|change| change.done) };
        let sequence = next_sequence();
        let lites = names.lites.iter().map(|name| name.as_str().to_owned()).collect();
        let prefixes = names.prefixes.iter().map(|prefix| prefix.as_str().to_owned()).collect();
        let start = names.start.to_wire();
        self.sent = Some(Sent { sequence, change: Change { kind, names, done }, has_rest });
        Some(match kind {
            Kind::Add => Frame::Subscribe(wire::Subscribe { sequence, lites, prefixes, start }, ()),
            Kind::Remove => Frame::Unsubscribe(wire::Unsubscribe { sequence, lites, prefixes }, ()),
        })
    }

    /// The frame with this sequence was answered. The rest of a change that was refused in part is not sent.
    pub(super) fn answered(&mut self, sequence: u64, result: Result<wire::Subscribed, Refusal>) -> Heard {
        let Some(sent) = self.sent.take_if(|sent| sent.sequence == sequence) else { return Heard::NotOurs };
        if let (Kind::Add, Ok(subscribed)) = (sent.change.kind, &result) {
            self.wanted.taken(&sent.change.names, Timestamp(subscribed.now_us));
            self.met.kept.extend(subscribed.kept.iter().filter_map(|name| LiteName::parse(name).ok()));
        }
        let mut done = sent.change.done;
        if result.is_err() && sent.has_rest {
            done = self.changes.pop_front().and_then(|rest| rest.done);
        }
        match (done, result) {
            // Whoever dropped the future did not want to know.
            (Some(done), Ok(_)) => drop(done.send(Ok(std::mem::take(&mut self.met)))),
            (Some(done), Err(refusal)) => drop(done.send(Err(SubscribeError::Refused(refusal)))),
            (None, Ok(_)) if sent.has_rest => return Heard::Told,
            (None, Ok(_)) => {}
            (None, Err(refusal)) => return Heard::Unheard(refusal),
        }
        self.met = Subscribed::default();
        Heard::Told
    }

    /// A new stream: what was out is said again, which changes nothing where it was heard. A broker that does not know
    /// the session learns all.
    pub(super) fn reattach(&mut self, is_kept: bool) {
        let sent = self.sent.take().map(|sent| sent.change);
        if is_kept {
            if let Some(again) = sent {
                self.changes.push_front(again);
            }
            return;
        }
        let dones = sent.into_iter().chain(self.changes.drain(..)).filter_map(|change| change.done).collect::<Vec<_>>();
        let again = self.wanted.by_start().into_iter();
        self.changes.extend(again.map(|names| Change { kind: Kind::Add, names, done: None }));
        let told = |done| Change { kind: Kind::Add, names: Subscription::default(), done: Some(done) };
        self.changes.extend(dones.into_iter().map(told));
    }

    /// The session is over.
    pub(super) fn fail(&mut self) {
        let sent = self.sent.take().map(|sent| sent.change);
        for done in sent.into_iter().chain(self.changes.drain(..)).filter_map(|change| change.done) {
            // Whoever dropped the future did not want to know.
            let _ = done.send(Err(SubscribeError::Closed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LiteName {
        LiteName::parse(text).unwrap()
    }

    fn add(names: Subscription) -> (Change, oneshot::Receiver<Result<Subscribed, SubscribeError>>) {
        let (done, is_done) = oneshot::channel();
        (Change { kind: Kind::Add, names, done: Some(done) }, is_done)
    }

    /// The broker's word at the time 7.
    fn taken() -> wire::Subscribed {
        wire::Subscribed { now_us: 7, ..wire::Subscribed::default() }
    }

    fn said(frame: Option<Frame>) -> Vec<String> {
        match frame {
            Some(Frame::Subscribe(said, ())) => [said.lites, said.prefixes].concat(),
            Some(Frame::Unsubscribe(said, ())) => [vec!["not".into()], said.lites, said.prefixes].concat(),
            Some(other) => panic!("{} frame", other.name()),
            None => Vec::new(),
        }
    }

    #[test]
    fn a_large_change_takes_several_frames_one_at_a_time_and_is_done_with_the_last() {
        let mut subscriptions = Subscriptions::default();
        let many = (0..SUBSCRIPTIONS_PER_FRAME_MAX + 3).map(|number| name(&format!("l{number}")));
        let (change, mut done) = add(Subscription::default().lite_topics(many).prefix(name("p/")));
        subscriptions.change(change);
        assert_eq!(said(subscriptions.next_frame(|| 1)).len(), SUBSCRIPTIONS_PER_FRAME_MAX);
        assert_eq!(said(subscriptions.next_frame(|| 2)), Vec::<String>::new());
        assert_eq!(subscriptions.answered(1, Ok(taken())), Heard::Told);
        assert!(done.try_recv().is_err());
        assert_eq!(said(subscriptions.next_frame(|| 2)).len(), 4);
        assert_eq!(subscriptions.answered(7, Ok(taken())), Heard::NotOurs);
        assert_eq!(subscriptions.answered(2, Ok(taken())), Heard::Told);
        assert_eq!(done.try_recv(), Ok(Ok(Subscribed::default())));
    }

    #[test]
    fn what_was_out_is_said_again_before_what_waits() {
        let mut subscriptions = Subscriptions::default();
        for text in ["a", "b", "c"] {
            subscriptions.change(add(Subscription::default().lite_topic(name(text))).0);
        }
        assert_eq!(said(subscriptions.next_frame(|| 1)), ["a"]);
        subscriptions.reattach(true);
        let again: Vec<_> = (1..4)
            .map(|sequence| {
                let said = said(subscriptions.next_frame(|| sequence));
                assert_eq!(subscriptions.answered(sequence, Ok(taken())), Heard::Told);
                said
            })
            .collect();
        assert_eq!(again, [["a"], ["b"], ["c"]]);
        subscriptions.reattach(true);
        assert!(subscriptions.next_frame(|| 9).is_none());
    }

    #[test]
    fn a_broker_that_forgot_the_session_learns_what_is_wanted_and_no_more() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.change(add(Subscription::default().lite_topics(["a", "b", "c"].map(name)).prefix(name("p"))).0);
        subscriptions.next_frame(|| 1).unwrap();
        assert_eq!(subscriptions.answered(1, Ok(taken())), Heard::Told);
        subscriptions.lost(&name("b"));
        let (done, mut is_done) = oneshot::channel();
        let names = Subscription::default().lite_topic(name("a"));
        subscriptions.change(Change { kind: Kind::Remove, names, done: Some(done) });
        subscriptions.reattach(false);
        assert_eq!(said(subscriptions.next_frame(|| 1)), ["c", "p"]);
        assert_eq!(subscriptions.answered(1, Ok(taken())), Heard::Told);
        assert!(is_done.try_recv().is_err());
        assert_eq!(said(subscriptions.next_frame(|| 2)), Vec::<String>::new());
        assert_eq!(subscriptions.answered(2, Ok(taken())), Heard::Told);
        assert_eq!(is_done.try_recv(), Ok(Ok(Subscribed::default())));
    }

    #[test]
    fn what_waits_keeps_its_order_when_nothing_was_out() {
        let mut subscriptions = Subscriptions::default();
        for text in ["a", "b"] {
            subscriptions.change(add(Subscription::default().lite_topic(name(text))).0);
        }
        subscriptions.reattach(true);
        assert_eq!(said(subscriptions.next_frame(|| 1)), ["a"]);
    }

    #[test]
    fn a_refusal_ends_its_own_change_and_no_other() {
        let refusal = || Refusal::new(sluicegate_protocol::ErrorCode::LimitReached, "too many".into());
        let mut subscriptions = Subscriptions::default();
        let many = (0..=SUBSCRIPTIONS_PER_FRAME_MAX).map(|number| name(&format!("l{number}")));
        let (change, mut done) = add(Subscription::default().lite_topics(many));
        subscriptions.change(change);
        // As a consumer is made: nobody waits to know.
        let names = Subscription::default().lite_topic(name("mine"));
        subscriptions.change(Change { kind: Kind::Add, names, done: None });
        subscriptions.change(add(Subscription::default().lite_topic(name("after"))).0);
        subscriptions.next_frame(|| 1).unwrap();
        assert_eq!(subscriptions.answered(1, Err(refusal())), Heard::Told);
        assert_eq!(done.try_recv(), Ok(Err(SubscribeError::Refused(refusal()))));
        assert_eq!(said(subscriptions.next_frame(|| 2)), ["mine"]);
        assert_eq!(subscriptions.answered(2, Err(refusal())), Heard::Unheard(refusal()));
        assert_eq!(said(subscriptions.next_frame(|| 3)), ["after"]);
    }

    #[test]
    fn where_a_group_begins_is_said_again_until_it_was_heard_and_latest_then_means_that_moment() {
        let start = |frame: Option<Frame>| match frame {
            Some(Frame::Subscribe(said, ())) => (Position::from_wire(said.start).unwrap(), said.lites, said.prefixes),
            other => panic!("{other:?}"),
        };
        let mut subscriptions = Subscriptions::default();
        let late = Subscription::default().lite_topic(name("a")).prefix(name("p/")).starting_at(Position::Latest);
        let (change, mut done) = add(late);
        subscriptions.change(change);
        subscriptions.change(add(Subscription::default().lite_topic(name("b")).starting_at(Position::Last(2))).0);
        let all = |start: Position| (start, vec!["a".to_owned()], vec!["p/".to_owned()]);
        assert_eq!(start(subscriptions.next_frame(|| 1)), all(Position::Latest));
        subscriptions.reattach(false);
        assert_eq!(start(subscriptions.next_frame(|| 2)), all(Position::Latest));
        subscriptions.answered(2, Ok(wire::Subscribed { kept: vec!["a".into()], ..taken() }));
        assert_eq!(start(subscriptions.next_frame(|| 3)), (Position::Last(2), vec!["b".into()], vec![]));
        subscriptions.answered(3, Ok(taken()));
        subscriptions.next_frame(|| 4).unwrap();
        subscriptions.answered(4, Ok(taken()));
        assert!(done.try_recv().unwrap().is_ok());
        subscriptions.reattach(false);
        let named = (Position::Earliest, vec!["a".to_owned(), "b".to_owned()], vec![]);
        assert_eq!(start(subscriptions.next_frame(|| 5)), named);
        subscriptions.answered(5, Ok(taken()));
        let matched = (Position::Timestamp(Timestamp(7)), vec![], vec!["p/".to_owned()]);
        assert_eq!(start(subscriptions.next_frame(|| 6)), matched);
    }
}
