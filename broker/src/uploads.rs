//! How much of large bodies may be on its way in, of all connections together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluicegate_protocol::ErrorCode;
use sluicegate_protocol::limits::BODY_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::refusal::Refusal;
use crate::store::{Batch, ChunkKey, Committer, Store, StoreError};

/// Uploads at once.
const UPLOADS_MAX: u32 = 256;
/// KiB of bodies that are being uploaded, as announced: they take room on the disk before anybody has them.
const UPLOAD_KIB_MAX: u32 = 4 << 20;
/// Chunks that wait for the writer at once: what small messages wait behind.
const CHUNKS_UNWRITTEN_MAX: usize = 16;
/// When an upload that was refused for want of room may be tried again.
const ROOM_AGAIN: Duration = Duration::from_millis(500);

/// The room for uploads, and the way of their chunks to the store.
pub(crate) struct Uploads {
    store: Arc<Store>,
    committer: Committer,
    /// Bytes of the largest body that is taken.
    pub(crate) max_body_bytes: u64,
    count: Arc<Semaphore>,
    kib: Arc<Semaphore>,
    unwritten: Semaphore,
}

/// The room of one upload, given back when it is dropped.
pub(crate) struct UploadRoom {
    _upload: OwnedSemaphorePermit,
    _kib: OwnedSemaphorePermit,
}

impl Uploads {
    pub(crate) fn new(store: Arc<Store>, committer: Committer, max_body_bytes: u64) -> Self {
        Self {
            store,
            committer,
            max_body_bytes,
            count: Arc::new(Semaphore::new(UPLOADS_MAX as usize)),
            kib: Arc::new(Semaphore::new(UPLOAD_KIB_MAX as usize)),
            unwritten: Semaphore::new(CHUNKS_UNWRITTEN_MAX),
        }
    }

    /// Whether a body of this size is taken.
    ///
    /// # Errors
    /// `too_large` names the setting.
    pub(crate) fn check_size(&self, bytes: u64) -> Result<(), Refusal> {
        match bytes > self.max_body_bytes {
            true => Err(Refusal::limit(ErrorCode::TooLarge, "max_body_bytes", self.max_body_bytes, bytes)),
            false => Ok(()),
        }
    }

    /// Room for an upload of this size.
    ///
    /// # Errors
    /// `limit_reached` names what is used up, and when to come again.
    pub(crate) fn enter(&self, bytes: u64) -> Result<UploadRoom, Refusal> {
        assert!(bytes <= BODY_BYTES_MAX, "its size was checked");
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).expect("the largest body has so many");
        Ok(UploadRoom {
            _upload: take(&self.count, 1, UPLOADS_MAX, "uploads of all connections")?,
            _kib: take(&self.kib, kib, UPLOAD_KIB_MAX, "KiB of uploads of all connections")?,
        })
    }

    /// Writes a chunk. It is durable when a batch is that is submitted after this has returned.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn write(&self, key: &ChunkKey, bytes: Bytes) -> Result<(), StoreError> {
        let _turn = self.unwritten.acquire().await.expect("the semaphore is never closed");
        let mut rows = Batch::new(&self.store);
        // As it came is how a chunk is encoded, and the batch has a copy of it.
        rows.put_encoded(key, &bytes);
        drop(bytes);
        self.committer.write(rows).await
    }
}

/// Takes so much of what is limited, or says that there is not so much left.
pub(crate) fn take(room: &Arc<Semaphore>, count: u32, max: u32, limit: &str) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(room).try_acquire_many_owned(count).map_err(|error| {
        assert_eq!(error, TryAcquireError::NoPermits, "the semaphore is never closed");
        let taken = (max as usize).saturating_sub(room.available_permits()) as u64;
        Refusal::limit(ErrorCode::LimitReached, limit, max.into(), taken + u64::from(count)).retry_after(ROOM_AGAIN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_named_and_comes_back() {
        let room = Arc::new(Semaphore::new(4));
        let held = take(&room, 3, 4, "things").unwrap();
        let refusal = take(&room, 2, 4, "things").unwrap_err();
        assert_eq!(refusal.to_string(), "limit_reached: things: 5, at most 4 are allowed");
        assert!(refusal.retry_after.is_some());
        drop(held);
        assert!(take(&room, 4, 4, "things").is_ok());
    }
}
