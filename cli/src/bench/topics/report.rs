//! What was measured, and how it reads.

use std::fmt::Write as _;

use serde::Serialize;

use crate::broker_process::StoreMemory;

/// Figures of one run.
#[derive(Debug, Serialize)]
pub(in super::super) struct Report {
    pub(super) lite_topics: u64,
    pub(super) tenants: u64,
    pub(super) size: u32,
    /// Lite topics made per second, of the first tenth.
    pub(super) created_per_s_first: f64,
    /// Of the last tenth.
    pub(super) created_per_s_last: f64,
    /// Resident bytes of a broker that has nothing.
    pub(super) empty_rss_bytes: u64,
    /// With all lite topics and no group.
    pub(super) rss_without_group_bytes: u64,
    /// With a group, and all of them ready in its scheduler.
    pub(super) rss_bytes: u64,
    /// With all of them drained.
    pub(super) idle_rss_bytes: u64,
    /// With as many messages drained, out of 10,000 lite topics: what is the same whatever there is.
    pub(super) reference_rss_bytes: u64,
    /// What idle lite topics add: the one less the other.
    pub(super) idle_added_bytes: i64,
    /// Of the one. A comparison is one where both caches are full.
    pub(super) idle_store: StoreMemory,
    /// Of the other.
    pub(super) reference_store: StoreMemory,
    pub(super) disk_bytes_per_lite_topic: f64,
    /// From the start of the process that follows a kill to a delivery at a client that tries.
    pub(super) restart_first_delivery_ms: u64,
    /// To the moment at which the scheduler knows all.
    pub(super) restart_all_ready_ms: u64,
    pub(super) drained_per_s: f64,
    /// Out of few lite topics.
    pub(super) reference_drained_per_s: f64,
    pub(super) drain_ratio: f64,
}

pub(super) fn text(report: &Report) -> String {
    let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    let rows = [
        ("lite topics made per second, first tenth", format!("{:.0}", report.created_per_s_first)),
        ("the same, last tenth", format!("{:.0}", report.created_per_s_last)),
        ("resident, empty", mib(report.empty_rss_bytes)),
        ("resident, no group", mib(report.rss_without_group_bytes)),
        ("resident, all ready", mib(report.rss_bytes)),
        ("resident, all drained", mib(report.idle_rss_bytes)),
        ("the same, as many of 10,000 lite topics", mib(report.reference_rss_bytes)),
        ("blocks of files in these", mib(report.idle_store.block_cache)),
        ("and in those", mib(report.reference_store.block_cache)),
        ("idle lite topics add", format!("{:.0} MiB", report.idle_added_bytes as f64 / f64::from(1 << 20))),
        ("bytes on disk by lite topic", format!("{:.0}", report.disk_bytes_per_lite_topic)),
        ("after a kill: first delivery", format!("{} ms", report.restart_first_delivery_ms)),
        ("after a kill: all ready", format!("{} ms", report.restart_all_ready_ms)),
        ("drained per second", format!("{:.0}", report.drained_per_s)),
        ("the same, of 10,000 lite topics", format!("{:.0}", report.reference_drained_per_s)),
        ("ratio", format!("{:.2}", report.drain_ratio)),
    ];
    let mut text = format!("{} lite topics of {} tenants\n", report.lite_topics, report.tenants);
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<42} {value:>14}");
    }
    text
}
