//! A folder's index is a lite topic: it is brought up to date by publishing what is missing, and used by reading it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sluicegate_client::{Client, ConnectError, ErrorCode, LiteName, Message, MessageId, ReadError, ReadMessage};
use tokio::time::timeout;

use crate::chunks::{self, Chunk};
use crate::embedder::{Vector, nearness};
use crate::topics;

/// The property that has the chunk's key.
pub(crate) const KEY: &str = "key";
/// The property that says which folder's index a vector goes to.
pub(crate) const INDEX: &str = "index";
/// The property that says what is to embed it: a worker that has something else leaves it to others.
pub(crate) const MODEL: &str = "model";
/// How long the next vector may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// The vectors of a folder, by the keys of their chunks; of chunks that are gone too.
#[derive(Default)]
pub(crate) struct Index {
    vectors: BTreeMap<String, Vector>,
    last: Option<MessageId>,
}

impl Index {
    /// All that is there.
    pub(crate) async fn read(client: &Client, folder: &LiteName) -> Result<Self> {
        let mut index = Self::default();
        let reader = client.reader(topics::index()?, folder.clone()).connect().await;
        let mut reader = match reader {
            Ok(reader) => reader,
            // Nothing was embedded yet.
            Err(ReadError::Connect(ConnectError::Refused(refusal))) if refusal.code == ErrorCode::UnknownLite => {
                return Ok(index);
            }
            Err(error) => return Err(error.into()),
        };
        while let Some(message) = reader.next().await {
            index.add(&message?)?;
        }
        Ok(index)
    }

    /// Has every chunk embedded that is not; answers how many were not.
    pub(crate) async fn update(
        &mut self,
        client: &Client,
        folder: &LiteName,
        wanted: &BTreeMap<String, Chunk>,
        model: &str,
    ) -> Result<usize> {
        let producer = client.producer(topics::chunks()?).connect().await?;
        let mut sent = Vec::new();
        for (key, chunk) in wanted.iter().filter(|(key, _)| !self.vectors.contains_key(*key)) {
            // A file's path may be longer than a name.
            let file = chunks::digest(&[&chunk.path]);
            let message =
                Message::to(&format!("{folder}/{file}"))?.body(chunk.text.clone()).cost(chunk.text.len() as u64);
            // One that is under way already, from a run that was stopped, is not asked for again.
            let message = message.property(INDEX, folder.as_str()).property(KEY, key).property(MODEL, model);
            sent.push(producer.enqueue(message.idempotency_key(key)).await?);
        }
        let missing = sent.len();
        for receipt in sent {
            receipt.await?;
        }
        producer.close().await;
        self.wait_for(client, folder, wanted).await?;
        Ok(missing)
    }

    async fn wait_for(&mut self, client: &Client, folder: &LiteName, wanted: &BTreeMap<String, Chunk>) -> Result<()> {
        let mut left = wanted.keys().filter(|key| !self.vectors.contains_key(*key)).count();
        if left == 0 {
            return Ok(());
        }
        let reader = client.reader(topics::index()?, folder.clone()).follow(true);
        let mut reader = self.last.map_or(reader.clone(), |last| reader.after(last)).connect().await?;
        while left > 0 {
            let message = timeout(PATIENCE, reader.next()).await.context("no vector comes: is there a worker?")?;
            let key = self.add(&message.context("the index ended")??)?;
            left -= usize::from(wanted.contains_key(&key));
        }
        Ok(())
    }

    fn add(&mut self, message: &ReadMessage) -> Result<String> {
        let key = message.property(KEY).context("a vector has its chunk's key")?.to_owned();
        let numbers = message.body().chunks_exact(size_of::<f32>());
        let vector = numbers.map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect();
        self.last = Some(message.id());
        // Whatever ran twice, each chunk has one vector.
        ensure!(self.vectors.insert(key.clone(), vector).is_none(), "chunk {key} has two vectors");
        Ok(key)
    }

    /// The chunks that are nearest to a vector, with how near they are.
    pub(crate) fn nearest<'a>(
        &self,
        vector: &[f32],
        wanted: &'a BTreeMap<String, Chunk>,
        count: usize,
    ) -> Result<Vec<(f32, &'a Chunk)>> {
        let mut near = Vec::with_capacity(wanted.len());
        for (key, chunk) in wanted {
            let Some(of_chunk) = self.vectors.get(key) else { bail!("{}:{} has no vector", chunk.path, chunk.line) };
            near.push((nearness(vector, of_chunk), chunk));
        }
        near.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        near.truncate(count);
        Ok(near)
    }
}
