//! The capsules that a broker keeps: files of one directory, the oldest of which go when there are too many.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluicegate_protocol::admin::Capsule as CapsuleEntry;
use tokio::sync::mpsc;

use super::capsule::{self, Capsule};
use crate::disk::{self, Readers};

/// Capsules that are kept.
const CAPSULES_MAX: usize = 64;
/// Bytes of all of them; the newest is kept whatever it has.
const BYTES_MAX: u64 = 128 << 20;
/// Bytes of a capsule's first line: the longest configuration, escaped, fits.
const HEADER_BYTES_MAX: u64 = 512 << 10;
/// What the files' names end with.
const SUFFIX: &str = ".jsonl";

/// The directory. Cheap to share.
#[derive(Debug, Clone)]
pub(crate) struct Cabinet(Arc<Path>);

/// A capsule's file.
struct Kept {
    id: String,
    path: PathBuf,
    bytes: u64,
}

impl Cabinet {
    /// In this data directory. It is made when there is something to keep.
    pub(crate) fn in_dir(data_dir: &Path) -> Self {
        Self(data_dir.join("capsules").into())
    }

    /// Keeps what comes, until nobody is left who could send any. What cannot be kept is logged.
    pub(crate) async fn fill(self, mut capsules: mpsc::Receiver<Capsule>) {
        while let Some(capsule) = capsules.recv().await {
            let id = capsule.header().id.clone();
            let cabinet = self.clone();
            let kept = tokio::task::spawn_blocking(move || cabinet.keep(&capsule)).await;
            match kept {
                Ok(Ok(())) => tracing::info!(capsule = id, "capsule kept"),
                Ok(Err(error)) => tracing::error!(capsule = id, %error, "the capsule is lost"),
                Err(error) => tracing::error!(capsule = id, %error, "the capsule is lost"),
            }
        }
    }

    /// Writes a capsule, and removes the oldest where there are too many. Waits for the disk.
    pub(super) fn keep(&self, capsule: &Capsule) -> io::Result<()> {
        let mut text = Vec::new();
        capsule.write(&mut text)?;
        disk::make_dir(&self.0)?;
        disk::write_file(&self.path(&capsule.header().id), &text, Readers::Owner)?;
        let mut bytes = 0;
        for (nth, kept) in self.newest_first()?.into_iter().enumerate() {
            bytes += kept.bytes;
            if nth > 0 && (nth >= CAPSULES_MAX || bytes > BYTES_MAX) {
                fs::remove_file(kept.path)?;
            }
        }
        Ok(())
    }

    /// What is kept, the newest first. Waits for the disk.
    pub(crate) fn list(&self) -> io::Result<Vec<CapsuleEntry>> {
        let mut entries = Vec::new();
        for kept in self.newest_first()? {
            match read_header(&kept) {
                Ok(entry) => entries.push(entry),
                // Another version wrote it, or somebody else.
                Err(error) => tracing::warn!(capsule = kept.id, %error, "a capsule cannot be read"),
            }
        }
        Ok(entries)
    }

    /// A capsule's text; none if it is not kept. Waits for the disk.
    pub(crate) fn read(&self, id: &str) -> io::Result<Option<Vec<u8>>> {
        // Only what is listed is read, whatever the id looks like.
        let kept = self.newest_first()?.into_iter().find(|kept| kept.id == id);
        kept.map(|kept| fs::read(kept.path)).transpose()
    }

    fn path(&self, id: &str) -> PathBuf {
        self.0.join(format!("{id}{SUFFIX}"))
    }

    /// Ids begin with their time.
    fn newest_first(&self) -> io::Result<Vec<Kept>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut kept = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
            kept.push(Kept { id: id.into(), path: entry.path(), bytes: entry.metadata()?.len() });
        }
        kept.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(kept)
    }
}

fn read_header(kept: &Kept) -> Result<CapsuleEntry, Box<dyn std::error::Error>> {
    let mut line = Vec::new();
    let file = io::Read::take(fs::File::open(&kept.path)?, HEADER_BYTES_MAX);
    BufReader::new(file).read_until(b'\n', &mut line)?;
    Ok(CapsuleEntry { header: capsule::header(1, &line)?, bytes: kept.bytes })
}
