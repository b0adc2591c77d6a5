//! Group commit: the batches of all shards, written in order of arrival, with few syncs.
//!
//! Two threads. The writer applies each submission (it then survives the process) and moves its
//! shard's `written` mark. The syncer waits for the disk once for all that was written meanwhile
//! and moves the `durable` marks. So a lease, which needs only to be written, never waits for a
//! sync, and a sync serves every publish that came during the one before.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{Batch, ShardId, Store, StoreError};
use crate::clock::Clock;
use crate::metrics::Meters;

/// Submissions that wait for the writer, of all shards together.
const SUBMISSIONS_MAX: usize = 256;

/// How far a shard's batches got. Batches are numbered from 1 by their shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Watermark {
    /// Up to this batch all survive the process.
    pub(crate) written: u64,
    /// Up to this batch all survive a power cut.
    pub(crate) durable: u64,
    /// The store failed: whether later batches took effect is unknown.
    pub(crate) failed: Option<StoreError>,
}

/// One batch on its way to the store.
#[derive(Debug)]
pub(crate) struct Submission {
    /// Whose.
    pub(crate) shard: ShardId,
    /// Its number.
    pub(crate) number: u64,
    /// Its rows.
    pub(crate) batch: Batch,
    /// Whether somebody waits for it to be durable. Without, it is durable with the next that is.
    pub(crate) sync: bool,
}

/// What the writer takes.
enum Work {
    Batch(Submission),
    /// Rows that become durable with a batch that comes after them; told when they survive the process.
    Rows(Batch, oneshot::Sender<()>),
}

/// Takes submissions. The threads end when the last handle is dropped and all is synced.
#[derive(Debug, Clone)]
pub(crate) struct Committer {
    submissions: mpsc::Sender<Work>,
    finished: watch::Receiver<bool>,
}

/// What the syncer still has to make durable.
struct Written {
    shard: ShardId,
    number: u64,
    sync: bool,
}

impl Committer {
    /// Starts the two threads; `marks` has one sender per shard, in order.
    pub(crate) fn start(
        (store, clock, meters): (Arc<Store>, Clock, Meters),
        marks: Vec<watch::Sender<Watermark>>,
    ) -> Self {
        let (submissions, submitted) = mpsc::channel(SUBMISSIONS_MAX);
        let (written_tx, written_rx) = mpsc::channel(SUBMISSIONS_MAX);
        let (finished_tx, finished) = watch::channel(false);
        let marks = Arc::new(marks);
        let (writer_store, writer_marks) = (Arc::clone(&store), Arc::clone(&marks));
        let writer_meters = meters.clone();
        let writer = move || write_all((&writer_store, &writer_meters), submitted, &writer_marks, &written_tx);
        std::thread::Builder::new().name("store-writer".into()).spawn(writer).expect("a thread can be started");
        let syncer = move || {
            sync_all((&store, clock, &meters), written_rx, &marks);
            drop(store);
            // Nobody may wait for the end; then nobody is told.
            let _ = finished_tx.send(true);
        };
        std::thread::Builder::new().name("store-syncer".into()).spawn(syncer).expect("a thread can be started");
        Self { submissions, finished }
    }

    /// Queues a batch; waits while too many are queued.
    ///
    /// # Errors
    /// The store failed earlier.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<(), StoreError> {
        self.submissions.send(Work::Batch(submission)).await.map_err(|_| stopped())
    }

    /// Writes rows that no batch depends on but those which are submitted after this has returned. They are durable when
    /// one of those is.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn write(&self, rows: Batch) -> Result<(), StoreError> {
        let (written, is_written) = oneshot::channel();
        self.submissions.send(Work::Rows(rows, written)).await.map_err(|_| stopped())?;
        is_written.await.map_err(|_| stopped())
    }

    /// Drops this handle and waits until the threads have ended.
    pub(crate) async fn finish(self) {
        let Self { submissions, mut finished } = self;
        drop(submissions);
        // An error means that the syncer is gone already.
        let _ = finished.wait_for(|finished| *finished).await;
    }
}

fn stopped() -> StoreError {
    StoreError::Database("the committer has stopped after a failure".into())
}

fn write_all(
    (store, meters): (&Store, &Meters),
    mut submitted: mpsc::Receiver<Work>,
    marks: &[watch::Sender<Watermark>],
    written: &mpsc::Sender<Written>,
) {
    while let Some(work) = submitted.blocking_recv() {
        let Submission { shard, number, batch, sync } = match work {
            Work::Batch(submission) => submission,
            Work::Rows(rows, written) => {
                if let Err(error) = rows.write() {
                    return fail_all(store, marks, &error);
                }
                // Whoever wrote may have gone.
                let _ = written.send(());
                continue;
            }
        };
        if let Err(error) = batch.write() {
            return fail_all(store, marks, &error);
        }
        meters.committed();
        marks[usize::from(shard.0)].send_modify(|mark| mark.written = number);
        if written.blocking_send(Written { shard, number, sync }).is_err() {
            return; // The syncer has failed and said so.
        }
    }
}

fn sync_all(
    (store, clock, meters): (&Store, Clock, &Meters),
    mut written: mpsc::Receiver<Written>,
    marks: &[watch::Sender<Watermark>],
) {
    let mut group = Vec::new();
    while written.blocking_recv_many(&mut group, SUBMISSIONS_MAX) > 0 {
        if group.iter().any(|written| written.sync) {
            let before = clock.now();
            if let Err(error) = store.sync() {
                return fail_all(store, marks, &error);
            }
            meters.synced(clock.now().since(before));
            for Written { shard, number, .. } in group.drain(..) {
                marks[usize::from(shard.0)].send_modify(|mark| mark.durable = number);
            }
        }
        group.clear();
    }
    // An orderly end leaves nothing to the page cache.
    if let Err(error) = store.sync() {
        fail_all(store, marks, &error);
    }
}

fn fail_all(store: &Store, marks: &[watch::Sender<Watermark>], error: &StoreError) {
    store.failed(error);
    for mark in marks {
        mark.send_modify(|mark| mark.failed = Some(error.clone()));
    }
}
