//! A large body on its way to the store: cut into chunks as it comes, whoever brings it.
//!
//! What the store does not take yet stays with the peer. Whoever owns it says when it ends, or lets it go.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use sluicegate_protocol::ErrorCode;

use crate::broker::{Broker, send};
use crate::catalog::TopicSpec;
use crate::refusal::Refusal;
use crate::shard::Command;
use crate::store::{BodyRef, ChunkKey};

/// A body of which some has come.
pub(crate) struct IncomingBody {
    broker: Arc<Broker>,
    topic: Arc<TopicSpec>,
    body: BodyRef,
    gathered: BytesMut,
    left: u64,
    number: u32,
    digest: Sha256,
}

impl IncomingBody {
    /// A body whose upload the shard has begun.
    pub(crate) fn new(broker: &Arc<Broker>, topic: Arc<TopicSpec>, body: BodyRef) -> Self {
        let (gathered, digest) = (BytesMut::new(), Sha256::new());
        Self { broker: Arc::clone(broker), topic, body, gathered, left: body.bytes, number: 0, digest }
    }

    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes of it; when they are the last, all of it is written.
    ///
    /// # Errors
    /// `protocol_violation`: there are more than were announced. `disk_full`, `store_failed`.
    pub(crate) async fn take(&mut self, bytes: Bytes) -> Result<(), Refusal> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            let message = format!("more chunks than the {} bytes that were announced", self.body.bytes);
            Refusal::new(ErrorCode::ProtocolViolation, message)
        })?;
        self.digest.update(&bytes);
        let mut whole = bytes;
        if !self.gathered.is_empty() {
            self.gathered.extend_from_slice(&whole);
            whole = self.gathered.split().freeze();
        }
        let max = self.body.chunk_bytes();
        while whole.len() >= max || (self.left == 0 && !whole.is_empty()) {
            let chunk = whole.split_to(whole.len().min(max));
            self.write(chunk).await?;
        }
        self.gathered.extend_from_slice(&whole);
        Ok(())
    }

    async fn write(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        let space = self.broker.store.space();
        if space.is_short() {
            return Err(Refusal::new(ErrorCode::DiskFull, format!("{}, the upload is refused", space.room())));
        }
        let key = ChunkKey { shard: self.topic.shard, body: self.body.id, number: self.number };
        self.number += 1;
        let written = self.broker.uploads.write(&key, chunk).await;
        written.map_err(|error| Refusal::new(ErrorCode::StoreFailed, error.to_string()))
    }

    /// The digest of the whole body.
    ///
    /// # Panics
    /// Some of it has not come.
    pub(crate) fn digest(self) -> [u8; 32] {
        assert_eq!(self.left, 0, "all of the body has come");
        self.digest.finalize().into()
    }

    /// It does not come to its end: what there is of it goes.
    pub(crate) async fn abort(self) {
        // A shard that is gone leaves it to the next process.
        let _ = send(self.broker.shard(self.topic.shard), Command::AbortUpload(self.body)).await;
    }
}
