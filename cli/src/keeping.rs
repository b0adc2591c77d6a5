//! How long lite topics live, as the command line says it.

use std::time::Duration;

use sluicegate_client::admin::{ReclaimMode, ReclaimSettings};

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
    }
}
