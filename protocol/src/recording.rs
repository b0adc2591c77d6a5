//! A recording: what came to a group and what became of it, without bodies. JSON lines, one file.
//!
//! The first line is a [`Header`], each one after it a [`Line`], the last one [`Line::End`]. A broker writes recordings,
//! `sluice policy simulate` reads them; `docs/recordings.md` is the format for everybody else. Here are the shapes and what must hold
//! for each of them; nothing here reads or writes.
//!
//! A lite topic is in a recording with all that came to it, or not at all, so that order and waits inside it mean something: a sample is one of
//! lite topics. Times count from the start of the recording.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admin::GroupSettings;
use crate::limits::{COST_MAX, PRIORITY_MAX};
use crate::{GroupName, LiteId, Offset, Timestamp, TopicName};

/// [`Header::format`].
pub const FORMAT: &str = "sluicegate-recording";
/// The [`Header::version`] that is written. Fields may be added within a version, and are ignored where they are not known; a kind of
/// line is not.
pub const VERSION: u32 = 1;
/// Bytes of one line, its end included: names, labels and properties of one message fit many times.
pub const LINE_BYTES_MAX: usize = 256 << 10;

/// Bytes of the first line, its end included: the labels of all tenants that a group may label fit, escaped.
pub const HEADER_BYTES_MAX: usize = 8 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of the broker that was recorded.
    pub broker: String,
    /// The topic.
    pub topic: TopicName,
    /// The group.
    pub group: GroupName,
    /// The group's settings at the start: what a simulation takes for quotas, concurrency, attempts and back-off.
    pub settings: GroupSettings,
    /// When the recording starts.
    pub started_at: Timestamp,
    /// Consumer sessions at the start.
    pub sessions: u32,
    /// Messages that each of them had room for, on average.
    pub slots: u32,
    /// One in so many lite topics was recorded; 1 for all.
    #[serde(default = "one")]
    pub one_in: u32,
    /// The policy that decided at the start; none for built-in fair scheduling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RecordedPolicy>,
}

/// A policy that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPolicy {
    /// Its digest.
    pub digest: String,
    /// Its name.
    pub name: String,
    /// Its configuration, as text.
    pub config: String,
}

/// Each line after the first: an object with one key, the kind.
///
/// ```
/// use sluicegate_protocol::recording::{Line, Outcome, WorkResult};
/// use sluicegate_protocol::{LiteId, Offset};
/// let outcome = Outcome { at_us: 5_000, lite: LiteId(7), offset: Offset(0), attempt: 1, wait_us: None, service_us: 2_000, cost: 90,
///     result: WorkResult::Done, retry_after_us: None };
/// assert!(Line::Outcome(outcome).check().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A lite topic, before the first line that mentions it.
    Lite(Lite),
    /// A message was published, or waited already when the recording started: then at 0.
    Arrival(Arrival),
    /// A delivery ended.
    Outcome(Outcome),
    /// The last line. Without it the recording was cut off.
    End(End),
}

/// A lite topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lite {
    /// Its id, never reused.
    pub id: LiteId,
    /// Its name.
    pub name: String,
    /// Name of its tenant.
    pub tenant: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Since the start of the recording. Arrivals come in the order of their times.
    pub at_us: u64,
    /// Which lite topic.
    pub lite: LiteId,
    /// Its offset there.
    pub offset: Offset,
    /// Its estimated cost.
    pub cost: u64,
    /// 0 to 9, 9 first.
    pub priority: u8,
    /// From its arrival until it may no longer be delivered, if it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_us: Option<u64>,
    /// From its arrival until it may be delivered, if that was put off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_in_us: Option<u64>,
    /// Its properties that are decimal numbers: what a policy can want as columns.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, u64>,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When its lease ended, since the start of the recording.
    pub at_us: u64,
    /// Which lite topic.
    pub lite: LiteId,
    /// Which message in it.
    pub offset: Offset,
    /// From 1.
    pub attempt: u32,
    /// From publish to this delivery, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_us: Option<u64>,
    /// From delivery to settle.
    pub service_us: u64,
    /// Measured cost, else the estimate.
    pub cost: u64,
    /// What came of the work.
    pub result: WorkResult,
    /// How long what does the work asked to be left alone, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_us: Option<u64>,
}

/// What came of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkResult {
    /// Done.
    Done,
    /// It failed and is tried again.
    Retried,
    /// It went to the dead-letter topic.
    DeadLettered,
    /// The lease ran out, or its session was lost.
    TimedOut,
    /// It came back unused: suspended, closed in order, or its lite topic went to another session.
    Returned,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How long the recording is.
    pub at_us: u64,
    /// Arrivals and outcomes that it could not keep up with, and has not.
    pub lost: u64,
}

/// What does not hold for a recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecording {
    /// It is some other file.
    #[error("expected `format` to be \"{FORMAT}\", found {found:?}")]
    Format {
        /// What it says.
        found: String,
    },
    /// It is of another version.
    #[error("the recording has version {found}, this build reads version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// A number that cannot be.
    #[error("expected `{field}` to be {expected}, found {found}")]
    Number {
        /// Which field.
        field: &'static str,
        /// The range.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
}

fn number(field: &'static str, expected: &'static str, found: u64, fits: bool) -> Result<(), InvalidRecording> {
    if fits { Ok(()) } else { Err(InvalidRecording::Number { field, expected, found }) }
}

impl Header {
    /// Whether this build reads it.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), InvalidRecording> {
        if self.format != FORMAT {
            return Err(InvalidRecording::Format { found: self.format.clone() });
        }
        if self.version != VERSION {
            return Err(InvalidRecording::Version { found: self.version });
        }
        number("one_in", "at least 1", self.one_in.into(), self.one_in > 0)
    }
}

impl Line {
    /// Whether what it says can be.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), InvalidRecording> {
        match self {
            Self::Arrival(Arrival { cost, priority, .. }) => {
                number("priority", "0 to 9", (*priority).into(), *priority <= PRIORITY_MAX)?;
                number("cost", "at most 1099511627776", *cost, *cost <= COST_MAX)
            }
            Self::Outcome(Outcome { attempt, .. }) => number("attempt", "at least 1", (*attempt).into(), *attempt > 0),
            Self::Lite(_) | Self::End(_) => Ok(()),
        }
    }
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            format: FORMAT.into(),
            version: VERSION,
            broker: "0.1.0".into(),
            topic: TopicName::parse("chat").unwrap(),
            group: GroupName::parse("workers").unwrap(),
            settings: GroupSettings::default(),
            started_at: Timestamp::from_millis(1_700_000_000_000),
            sessions: 2,
            slots: 8,
            one_in: 1,
            policy: None,
        }
    }

    fn lines() -> Vec<Line> {
        let labels = [("class".to_owned(), "batch".to_owned())].into();
        let arrival = Arrival {
            at_us: 1_500,
            lite: LiteId(7),
            offset: Offset(0),
            cost: 120,
            priority: 4,
            expires_in_us: Some(9_000_000),
            deliver_in_us: None,
            numbers: [("tokens".to_owned(), 120)].into(),
        };
        let outcome = Outcome {
            at_us: 351_500,
            lite: LiteId(7),
            offset: Offset(0),
            attempt: 1,
            wait_us: Some(50_000),
            service_us: 300_000,
            cost: 95,
            result: WorkResult::Done,
            retry_after_us: None,
        };
        vec![
            Line::Lite(Lite { id: LiteId(7), name: "acme/7".into(), tenant: "acme".into(), labels }),
            Line::Arrival(arrival),
            Line::Outcome(outcome),
            Line::End(End { at_us: 400_000, lost: 0 }),
        ]
    }

    #[test]
    fn lines_are_written_as_they_are_documented_and_read_back() {
        let texts: Vec<String> = lines().iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        insta::assert_snapshot!(texts.join("\n"), @r#"
        {"lite":{"id":"7","name":"acme/7","tenant":"acme","labels":{"class":"batch"}}}
        {"arrival":{"at_us":1500,"lite":"7","offset":0,"cost":120,"priority":4,"expires_in_us":9000000,"numbers":{"tokens":120}}}
        {"outcome":{"at_us":351500,"lite":"7","offset":0,"attempt":1,"wait_us":50000,"service_us":300000,"cost":95,"result":"done"}}
        {"end":{"at_us":400000,"lost":0}}
        "#);
        let read: Vec<Line> = texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        assert_eq!(read, lines());
        let text = serde_json::to_string(&header()).unwrap();
        assert_eq!(serde_json::from_str::<Header>(&text).unwrap(), header());
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_was_expected() {
        let header = |change: fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            header.check().unwrap_err().to_string()
        };
        assert_eq!(
            header(|header| header.format = "csv".into()),
            "expected `format` to be \"sluicegate-recording\", found \"csv\""
        );
        assert_eq!(header(|header| header.version = 9), "the recording has version 9, this build reads version 1");
        assert_eq!(header(|header| header.one_in = 0), "expected `one_in` to be at least 1, found 0");
        let Line::Arrival(arrival) = lines().remove(1) else { panic!("the second line is an arrival") };
        let error = Line::Arrival(Arrival { priority: 12, ..arrival }).check().unwrap_err().to_string();
        assert_eq!(error, "expected `priority` to be 0 to 9, found 12");
        assert!(serde_json::from_str::<Line>(r#"{"surprise":{}}"#).is_err());
        assert!(serde_json::from_str::<Line>(r#"{"end":{"at_us":1,"lost":0,"later":true}}"#).is_ok());
    }
}
