//! What is counted for the process as a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::group::GroupSample;
use super::histogram::{Histogram, SharedHistogram};

/// Counters of threads and connections. Cheap to share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meters(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    commits: AtomicU64,
    syncs: SharedHistogram,
    readers: AtomicU64,
    read_messages: AtomicU64,
}

/// Counts a reader while it is attached.
#[derive(Debug)]
pub(crate) struct AttachedReader(Meters);

/// Counts a connection while it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(Meters);

impl Meters {
    pub(crate) fn connected(&self) -> OpenConnection {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self.clone())
    }

    /// The store wrote a batch.
    pub(crate) fn committed(&self) {
        self.0.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// The store waited for the disk.
    pub(crate) fn synced(&self, took: Duration) {
        self.0.syncs.record(took);
    }

    /// A reader attached.
    pub(crate) fn reading(&self) -> AttachedReader {
        self.0.readers.fetch_add(1, Ordering::Relaxed);
        AttachedReader(self.clone())
    }

    /// Messages were read for readers.
    pub(crate) fn read(&self, messages: u64) {
        self.0.read_messages.fetch_add(messages, Ordering::Relaxed);
    }

    pub(super) fn readers(&self) -> u64 {
        self.0.readers.load(Ordering::Relaxed)
    }

    pub(super) fn read_messages(&self) -> u64 {
        self.0.read_messages.load(Ordering::Relaxed)
    }

    pub(super) fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> u64 {
        self.0.commits.load(Ordering::Relaxed)
    }

    pub(super) fn syncs(&self) -> Histogram {
        self.0.syncs.read()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for AttachedReader {
    fn drop(&mut self) {
        self.0.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What producers published since the broker started, counted when it is as durable as its topic asks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Published {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// What a scrape gets of one shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShardSample {
    pub(crate) groups: Vec<GroupSample>,
    pub(crate) lite_topics: u64,
    /// Lite topics whose life ended by itself, since the start.
    pub(crate) lite_topics_reclaimed: u64,
    pub(crate) published: Published,
}
