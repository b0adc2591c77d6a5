//! How long lite topics live, how long messages are kept and how many there may be, as the command line says it.

use std::time::Duration;

use sluicegate_client::admin::{LogRetention, ReclaimMode, ReclaimSettings, Retention, TopicLimits};

/// `empty:1h`, `idle:30s`, `absolute:1day` or `never`.
pub(crate) fn reclaim(text: &str) -> Result<ReclaimSettings, String> {
    if text == "never" {
        return Ok(ReclaimSettings::NEVER);
    }
    let expected = || "it is `empty:DURATION`, `idle:DURATION`, `absolute:DURATION` or `never`".to_owned();
    let (mode, after) = text.split_once(':').ok_or_else(expected)?;
    let mode = match mode {
        "empty" => ReclaimMode::Empty,
        "idle" => ReclaimMode::Idle,
        "absolute" => ReclaimMode::Absolute,
        _ => return Err(expected()),
    };
    let reclaim = ReclaimSettings { mode, after_ms: millis(after)? };
    reclaim.check().map(|()| reclaim)
}

/// What a topic is for: retention and reclaim that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Use {
    /// Requests that are worked off: gone when they are settled, their lite topic an hour later.
    Work,
    /// Conversations that are read again: kept for a day, until nothing happened for a day.
    Sessions,
    /// Answers to one request: kept for ten minutes, until nothing happened for ten minutes.
    Replies,
}

impl Use {
    pub(crate) const fn retention(self) -> Retention {
        match self {
            Self::Work => Retention::WorkQueue,
            Self::Sessions => Retention::Log(LogRetention { age_ms: Some(DAY_MS), bytes: None }),
            Self::Replies => Retention::Log(LogRetention { age_ms: Some(TEN_MINUTES_MS), bytes: None }),
        }
    }

    pub(crate) const fn reclaim(self) -> ReclaimSettings {
        match self {
            Self::Work => ReclaimSettings { mode: ReclaimMode::Empty, after_ms: HOUR_MS },
            Self::Sessions => ReclaimSettings { mode: ReclaimMode::Idle, after_ms: DAY_MS },
            Self::Replies => ReclaimSettings { mode: ReclaimMode::Idle, after_ms: TEN_MINUTES_MS },
        }
    }
}

const TEN_MINUTES_MS: u64 = 600_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// `work-queue`, `log:7days`, `log:1GiB` or `log:7days,1GiB`.
pub(crate) fn retention(text: &str) -> Result<Retention, String> {
    if text == "work-queue" {
        return Ok(Retention::WorkQueue);
    }
    let bounds = text.strip_prefix("log:").ok_or("it is `work-queue`, `log:AGE`, `log:SIZE` or `log:AGE,SIZE`")?;
    let mut log = LogRetention::default();
    for bound in bounds.split(',') {
        let before = match bound.ends_with('B') {
            true => log.bytes.replace(size(bound)?),
            false => log.age_ms.replace(millis(bound)?),
        };
        if before.is_some() {
            return Err(format!("`{text}` says two times how much is kept"));
        }
    }
    let retention = Retention::Log(log);
    retention.check().map(|()| retention)
}

/// The same text again.
pub(crate) fn retention_text(retention: Retention) -> String {
    let Retention::Log(LogRetention { age_ms, bytes }) = retention else { return "work-queue".to_owned() };
    let bounds: Vec<_> = age_ms.map(duration_text).into_iter().chain(bytes.map(size_text)).collect();
    format!("log:{}", bounds.join(","))
}

/// `512B`, `64KiB`, `10MiB`, `1GiB`; a number alone is bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let unit = |(suffix, shift): &(&str, u32)| text.strip_suffix(suffix).map(|number| (number, *shift));
    let (number, shift) = SIZES.iter().find_map(unit).unwrap_or((text, 0));
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is not a size such as 64KiB or 1GiB"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

fn size_text(bytes: u64) -> String {
    let fits = |(_, shift): &&(&str, u32)| bytes > 0 && bytes.trailing_zeros() >= *shift;
    let (suffix, shift) = SIZES.iter().find(fits).unwrap_or(&("B", 0));
    format!("{}{suffix}", bytes >> shift)
}

/// Largest first; what ends like another comes before it.
const SIZES: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// How much a topic lets in; 0 is no limit.
#[derive(Debug, Clone, Copy, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the fields are the options' names")]
pub(crate) struct Limits {
    /// Lite topics; default 10 million. 0 is no limit, here and below.
    #[arg(long, value_name = "N", default_value_t = TopicLimits::default().lite_topics)]
    max_lite_topics: u64,
    /// Kept messages of all lite topics.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_messages: u64,
    /// Bytes of their bodies and properties.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    max_bytes: u64,
    /// Kept messages of one lite topic; default 1 million.
    #[arg(long, value_name = "N", default_value_t = TopicLimits::default().lite_messages)]
    max_lite_messages: u64,
    /// Bytes of one lite topic.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    max_lite_bytes: u64,
    /// Kept messages of one tenant.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_tenant_messages: u64,
    /// Bytes of one tenant.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    max_tenant_bytes: u64,
}

impl From<Limits> for TopicLimits {
    fn from(limits: Limits) -> Self {
        Self {
            lite_topics: limits.max_lite_topics,
            messages: limits.max_messages,
            bytes: limits.max_bytes,
            lite_messages: limits.max_lite_messages,
            lite_bytes: limits.max_lite_bytes,
            tenant_messages: limits.max_tenant_messages,
            tenant_bytes: limits.max_tenant_bytes,
        }
    }
}

pub(crate) fn millis(text: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("`{text}`: {error}"))?;
    u64::try_from(duration.as_millis()).map_err(|_| format!("`{text}` is too long"))
}

/// The same text again.
pub(crate) fn reclaim_text(reclaim: ReclaimSettings) -> String {
    let mode = match reclaim.mode {
        ReclaimMode::Never => return "never".to_owned(),
        ReclaimMode::Empty => "empty",
        ReclaimMode::Idle => "idle",
        ReclaimMode::Absolute => "absolute",
    };
    format!("{mode}:{}", duration_text(reclaim.after_ms))
}

pub(crate) fn duration_text(millis: u64) -> String {
    humantime::format_duration(Duration::from_millis(millis)).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        for text in ["never", "empty:1h", "idle:1s", "absolute:1day2h", "idle:1s500ms"] {
            assert_eq!(reclaim(text).map(reclaim_text), Ok(text.to_owned()));
        }
        for text in ["", "idle", "soon:1h", "idle:999ms", "idle:1", "absolute:11years"] {
            assert!(reclaim(text).is_err(), "{text}");
        }
        for text in ["work-queue", "log:7days", "log:1GiB", "log:1h,64KiB", "log:1500B"] {
            assert_eq!(retention(text).map(retention_text), Ok(text.to_owned()));
        }
        for text in ["", "log:", "log", "log:1s,2s", "log:1KiB,2KiB", "log:500ms", "log:0B", "log:99999999999GiB"] {
            assert!(retention(text).is_err(), "{text}");
        }
    }
}
