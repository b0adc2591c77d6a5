//! A policy that is asked too, and does not decide.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A group's shadow: a policy that gets the same questions as the one that decides. Its answers are compared, and not used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// SHA-256 of the component, 64 hexadecimal digits.
    pub digest: String,
    /// Its own name.
    pub name: String,
    /// Its configuration, as text.
    pub config: String,
    /// Since when.
    pub since: Timestamp,
    /// Who wanted it: the name of a token, or the address of a peer without one.
    pub by: String,
    /// Why it is not asked any more, if so: its third fault, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_because: Option<String>,
    /// What came of it since then, or since the broker started.
    pub figures: ShadowFigures,
}

/// What a shadow's answers were, beside those that counted: those of the policy that decides, or of built-in fair scheduling.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ShadowFigures {
    /// Frames that both answered.
    pub frames: u64,
    /// Frames that it answered, and the deciding policy did not, or too late to be compared.
    pub frames_alone: u64,
    /// Frames that it was not asked, because it was still busy with earlier ones. Their outcomes it is not told either.
    pub frames_skipped: u64,
    /// Its faults. The third ends it.
    pub faults: u64,
    /// Rows of the frames that both answered.
    pub rows: u64,
    /// Those of them for which something would have been different.
    pub rows_different: u64,
    /// `rows_different / rows`; 0 without rows.
    pub disagreement: f64,
    /// Rows with another verdict: those of the next four, and others.
    pub verdicts_different: u64,
    /// It would have served what was held, dead-lettered or dropped.
    pub served_more: u64,
    /// It would have throttled what was not throttled.
    pub throttled_more: u64,
    /// It would have suspended what was not suspended.
    pub suspended_more: u64,
    /// It would have dead-lettered or dropped what was not.
    pub refused_more: u64,
    /// Rows that both served, in other bands.
    pub bands_different: u64,
    /// Rows that both held in the same way, for another time.
    pub durations_different: u64,
    /// By how much, in all, in milliseconds.
    pub durations_difference_ms: u64,
    /// Tenants of frames, each frame counted.
    pub tenants: u64,
    /// Those of them with another weight.
    pub weights_different: u64,
    /// Mean distance of the weights, in doublings: 1 where one is twice the other.
    pub weight_distance: f64,
    /// Frames with another concurrency.
    pub concurrencies_different: u64,
    /// Processor time of its guest, in microseconds.
    pub guest_us: u64,
    /// Processor time of the deciding policy's guest for the same frames, in microseconds.
    pub deciding_guest_us: u64,
}
