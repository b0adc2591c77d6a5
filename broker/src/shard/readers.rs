//! Readers that are attached to lite topics, and the marks by which they learn how far they may read. Messages do not come
//! through the shard.
//!
//! A mark is moved when a message is visible, so that a reader that waits is woken by an event. A lite topic that does not exist
//! can be waited for by name.

use std::collections::HashMap;

use sluicegate_protocol::{ErrorCode, LiteId, LiteName, Offset, Position, TopicId};
use tokio::sync::watch;

use super::fault::{Fault, Reply};
use super::lite::Lite;
use super::operator::unknown_lite;
use super::position::position;
use super::{Shard, store_failed};
use crate::id_hash::IdHash;
use crate::refusal::Refusal;

/// How far a reader may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The lite topic does not exist yet.
    Awaited,
    /// In this life, the messages below this offset.
    Life(LiteId, Offset),
    /// The life is over.
    Ended,
}

/// Where a reader wants to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// In the life that there is now, or in the next one.
    Position(Position),
    /// In this life.
    Life {
        lite: LiteId,
        offset: Offset,
        /// It read all before, on an earlier stream.
        goes_on: bool,
    },
}

/// A reader that wants to attach.
#[derive(Debug)]
pub(crate) struct BeginRead {
    pub(crate) topic: TopicId,
    pub(crate) lite: LiteName,
    pub(crate) from: ReadFrom,
    /// It waits for what is to come.
    pub(crate) follows: bool,
    pub(crate) reply: Reply<BegunRead>,
}

/// A reader that is attached.
#[derive(Debug)]
pub(crate) struct BegunRead {
    pub(crate) marks: watch::Receiver<Mark>,
    /// Its next message; none while the lite topic does not exist.
    pub(crate) at: Option<(LiteId, Offset)>,
    /// The next message to come.
    pub(crate) end: Offset,
}

/// Whether a message can be read.
#[derive(Debug)]
pub(crate) struct CheckRead {
    pub(crate) topic: TopicId,
    pub(crate) lite: LiteName,
    pub(crate) at: (LiteId, Offset),
    pub(crate) reply: Reply<()>,
}

/// The marks of all lite topics that have readers.
#[derive(Debug, Default)]
pub(super) struct Readers {
    lives: HashMap<LiteId, (TopicId, watch::Sender<Mark>), IdHash>,
    awaited: HashMap<(TopicId, LiteName), watch::Sender<Mark>>,
}

impl Readers {
    fn attach(&mut self, lite: &Lite) -> watch::Receiver<Mark> {
        let mark = || (lite.topic.id, watch::Sender::new(Mark::Life(lite.id, lite.visible)));
        self.lives.entry(lite.id).or_insert_with(mark).1.subscribe()
    }

    fn attach_to_next(&mut self, topic: TopicId, name: &LiteName) -> watch::Receiver<Mark> {
        let mark = || watch::Sender::new(Mark::Awaited);
        self.awaited.entry((topic, name.clone())).or_insert_with(mark).subscribe()
    }

    /// A lite topic was made: whoever waits for it goes on with its first life.
    pub(super) fn born(&mut self, topic: TopicId, name: &LiteName, id: LiteId) {
        if self.awaited.is_empty() {
            return;
        }
        if let Some(marks) = self.awaited.remove(&(topic, name.clone())) {
            marks.send_replace(Mark::Life(id, Offset(0)));
            self.lives.insert(id, (topic, marks));
        }
    }

    /// A message more is visible.
    pub(super) fn saw(&mut self, lite: &Lite) {
        if let Some((_, marks)) = self.lives.get(&lite.id) {
            marks.send_replace(Mark::Life(lite.id, lite.visible));
        }
    }

    /// Whether somebody reads it.
    pub(super) fn are_at(&self, lite: LiteId) -> bool {
        self.lives.get(&lite).is_some_and(|(_, marks)| marks.receiver_count() > 0)
    }

    /// A life is over.
    pub(super) fn ended(&mut self, lite: LiteId) {
        if let Some((_, marks)) = self.lives.remove(&lite) {
            marks.send_replace(Mark::Ended);
        }
    }

    /// A topic is deleted: its readers find that their mark is gone.
    pub(super) fn forget(&mut self, topic: TopicId) {
        self.lives.retain(|_, (of, _)| *of != topic);
        self.awaited.retain(|(of, _), _| *of != topic);
    }

    /// Nobody is told anything any more.
    pub(super) fn end_all(&mut self) {
        *self = Self::default();
    }

    /// Lets go of the mark of a lite topic that nobody reads.
    fn let_go(&mut self, awaited: &(TopicId, LiteName), life: Option<LiteId>) {
        if let Some(life) = life
            && !self.are_at(life)
        {
            self.lives.remove(&life);
        }
        if self.awaited.get(awaited).is_some_and(|marks| marks.receiver_count() == 0) {
            self.awaited.remove(awaited);
        }
    }
}

impl Shard {
    pub(super) fn begin_read(&mut self, begin: BeginRead) {
        let done = self.begun_read(&begin);
        self.answer_at_once(begin.reply, done);
    }

    fn begun_read(&mut self, begin: &BeginRead) -> Result<BegunRead, Fault> {
        let (topic, name) = (begin.topic, &begin.lite);
        let Some(id) = self.find_read(topic, name)? else {
            return match begin.from {
                ReadFrom::Life { lite, .. } => Err(reclaimed(name, lite).into()),
                ReadFrom::Position(Position::Offset(offset)) if offset > Offset(0) => {
                    Err(beyond_end(name, offset, Offset(0)).into())
                }
                ReadFrom::Position(_) if !begin.follows => Err(unknown_lite(&self.ledger.topics[&topic], name).into()),
                ReadFrom::Position(_) => {
                    let marks = self.ledger.readers.attach_to_next(topic, name);
                    Ok(BegunRead { marks, at: None, end: Offset(0) })
                }
            };
        };
        let offset = match begin.from {
            ReadFrom::Life { lite, .. } if lite != id => return Err(reclaimed(name, lite).into()),
            ReadFrom::Life { offset, goes_on, .. } => {
                let lite = self.ledger.open_lite(id);
                // Of a work queue what is settled is gone, which is no gap to one who follows it.
                let passes_over = goes_on && lite.log().is_none();
                let offset = if passes_over { offset.max(lite.trimmed) } else { offset };
                check(lite, offset)?
            }
            ReadFrom::Position(Position::Offset(offset)) => check(self.ledger.open_lite(id), offset)?,
            ReadFrom::Position(at) => position(&mut self.ledger, id, at)?,
        };
        let lite = self.ledger.lites.get(id).expect("it was just found");
        let marks = self.ledger.readers.attach(lite);
        Ok(BegunRead { marks, at: Some((id, offset)), end: lite.visible })
    }

    pub(super) fn check_read(&mut self, asked: CheckRead) {
        let checked = self.checked_read(&asked);
        self.answer_at_once(asked.reply, checked);
    }

    fn checked_read(&mut self, asked: &CheckRead) -> Result<(), Fault> {
        let (asked_life, offset) = asked.at;
        match self.find_read(asked.topic, &asked.lite)? {
            Some(id) if id == asked_life => {
                let lite = self.ledger.open_lite(id);
                match check(lite, offset)? {
                    there if there < lite.visible => Ok(()),
                    next => Err(beyond_end(&asked.lite, next, lite.visible).into()),
                }
            }
            Some(_) | None => Err(reclaimed(&asked.lite, asked_life).into()),
        }
    }

    /// A reader went away.
    pub(super) fn end_read(&mut self, topic: TopicId, name: LiteName, life: Option<LiteId>) {
        // It may have begun to be in a life that it did not hear of. A store that fails is noticed by others.
        let life = life.or_else(|| self.ledger.id_of(topic, &name).ok().flatten());
        self.ledger.readers.let_go(&(topic, name), life);
    }

    pub(super) fn find_read(&mut self, topic: TopicId, name: &LiteName) -> Result<Option<LiteId>, Fault> {
        if let Some(error) = &self.failed {
            return Err(store_failed(error).into());
        }
        let deleted = || Refusal::new(ErrorCode::UnknownTopic, "the topic was deleted");
        let topic = self.ledger.topics.get(&topic).cloned().ok_or_else(deleted)?;
        Ok(self.ledger.find(&topic, name)?)
    }

    /// Answers what changes nothing, and so waits for nothing.
    fn answer_at_once<T>(&mut self, reply: Reply<T>, done: Result<T, Fault>) {
        let done = done.map_err(|fault| match fault {
            Fault::Refused(refusal) => refusal,
            Fault::Store(error) => {
                self.fail(&error);
                store_failed(&error)
            }
        });
        // Whoever asked may have gone.
        let _ = reply.send(done);
    }
}

/// The offset, if it is one of a kept message or the next one to come.
fn check(lite: &Lite, offset: Offset) -> Result<Offset, Refusal> {
    let (name, first, end) = (&lite.name, lite.trimmed, lite.visible);
    if offset < first {
        let message =
            format!("offset {offset} of lite topic `{name}` is not kept any more, {first} is the first that is");
        let refusal = Refusal::new(ErrorCode::Trimmed, message).detail("first", &first.to_string());
        // A reader that meets a large body that was settled meanwhile passes over it.
        let retention = if lite.log().is_some() { "log" } else { "work_queue" };
        return Err(refusal.detail("lite_id", &lite.id.to_string()).detail("retention", retention));
    }
    if offset > end { Err(beyond_end(name, offset, end)) } else { Ok(offset) }
}

pub(super) fn beyond_end(name: &LiteName, offset: Offset, end: Offset) -> Refusal {
    let message = format!("offset {offset} of lite topic `{name}` is beyond its end, {end} is the next to come");
    Refusal::new(ErrorCode::BeyondEnd, message).detail("end", &end.to_string())
}

/// The life that is asked for is not the one that there is.
pub(crate) fn reclaimed(name: &LiteName, life: LiteId) -> Refusal {
    let message = format!("life {life} of lite topic `{name}` is over");
    Refusal::new(ErrorCode::Reclaimed, message).detail("lite_id", &life.to_string())
}
