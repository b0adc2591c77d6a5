//! What the broker counts, and how a scrape gathers it.
//!
//! Shards own what they count and are asked for a copy, like for everything else; what threads and connections count are
//! atomics. No message waits for a scrape, and no label is ever a lite topic, a tenant or a session. Every metric is
//! described in `docs/metrics.md`.

mod gather;
mod group;
mod histogram;
mod process;
mod text;

pub(crate) use gather::scrape;
pub(crate) use group::{Buried, Ended, GroupMeters, GroupSample, Skipped};
pub(crate) use process::{AttachedReader, Meters, Published, ShardSample};

/// Content type of what [`scrape`] answers.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Groups of one scrape, in the order of their names; how many are left out is a metric. With 81 series each this is
/// what bounds a scrape.
const GROUPS_MAX: usize = 256;
