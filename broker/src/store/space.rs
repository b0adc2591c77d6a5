//! How much room the disk has left. What is stored must be kept, settled and compacted: for that some of it is held in
//! reserve, and publishes are refused before they take it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(test)]
use std::sync::{Arc, atomic::AtomicU64};

/// The default reserve is this part of the disk, inside the bounds below.
const RESERVE_DIVISOR: u64 = 20;
/// Enough for what RocksDB writes anew while it compacts.
const RESERVE_BYTES_MAX: u64 = 1 << 30;
const RESERVE_BYTES_MIN: u64 = 64 << 20;

/// Where the free bytes are read.
#[derive(Debug)]
pub(super) enum Source {
    /// The file system that holds this directory.
    Directory(PathBuf),
    /// What a test says, of a disk of 20 GiB.
    #[cfg(test)]
    Told(Arc<AtomicU64>),
}

/// The room of one store.
#[derive(Debug)]
pub(crate) struct Space {
    source: Source,
    /// What the operator wants in reserve.
    reserve_bytes: Option<u64>,
    is_short: AtomicBool,
    measured: Mutex<Room>,
}

/// What was measured last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Room {
    pub(crate) free_bytes: u64,
    pub(crate) reserve_bytes: u64,
}

impl Space {
    pub(super) fn new(source: Source, reserve_bytes: Option<u64>) -> Self {
        let space = Self { source, reserve_bytes, is_short: AtomicBool::new(false), measured: Mutex::default() };
        space.measure();
        space
    }

    /// Whether publishes are refused at present.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// What was measured last.
    pub(crate) fn room(&self) -> Room {
        *self.measured.lock().expect("nobody panics with the lock")
    }

    /// Looks at the disk, which may take as long as it likes.
    pub(crate) fn measure(&self) {
        let (free_bytes, total_bytes) = match self.source.read() {
            Ok(read) => read,
            // Writes meet whatever is wrong, and say so.
            Err(error) => return tracing::debug!(%error, "the room of the disk cannot be read"),
        };
        let room =
            Room { free_bytes, reserve_bytes: self.reserve_bytes.unwrap_or_else(|| default_reserve(total_bytes)) };
        *self.measured.lock().expect("nobody panics with the lock") = room;
        let was_short = self.is_short();
        let is_short = room.is_short(was_short);
        self.is_short.store(is_short, Ordering::Relaxed);
        match (was_short, is_short) {
            (false, true) => tracing::error!(
                room.free_bytes,
                room.reserve_bytes,
                "the disk is nearly full, publishes are refused until there is room"
            ),
            (true, false) => tracing::info!(room.free_bytes, "the disk has room again"),
            _ => {}
        }
    }
}

impl Room {
    /// Publishes go on only when there is a tenth more than the reserve, so that they do not come and go by the second.
    fn is_short(self, was_short: bool) -> bool {
        let margin = if was_short { self.reserve_bytes / 10 } else { 0 };
        self.free_bytes < self.reserve_bytes.saturating_add(margin)
    }
}

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (free, reserve) = (self.free_bytes >> 20, self.reserve_bytes >> 20);
        write!(f, "the disk is nearly full: {free} MiB are free, {reserve} MiB are held in reserve")
    }
}

impl Source {
    /// Bytes that are free for us, and all that the disk has.
    fn read(&self) -> std::io::Result<(u64, u64)> {
        match self {
            Self::Directory(path) => {
                let found = rustix::fs::statvfs(path)?;
                Ok((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
            }
            #[cfg(test)]
            Self::Told(free) => Ok((free.load(Ordering::Relaxed), 20 << 30)),
        }
    }
}

/// 5 % of the disk, at least 64 MiB and at most 1 GiB; never more than half of a tiny one.
fn default_reserve(total_bytes: u64) -> u64 {
    (total_bytes / RESERVE_DIVISOR).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX).min(total_bytes / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reserve_suits_large_disks_and_small_ones() {
        let mebibytes: Vec<_> = [64, 200, 4_000, 20_480, 4 << 20].map(|disk| default_reserve(disk << 20) >> 20).into();
        assert_eq!(mebibytes, [32, 64, 200, 1_024, 1_024]);
    }

    #[test]
    fn publishes_stop_below_the_reserve_and_go_on_a_tenth_above() {
        let free = Arc::new(AtomicU64::new(1_000));
        let space = Space::new(Source::Told(Arc::clone(&free)), Some(1_000));
        let mut is_short = |bytes| {
            free.store(bytes, Ordering::Relaxed);
            space.measure();
            space.is_short()
        };
        assert_eq!(
            [1_000, 999, 1_000, 1_099, 1_100, 1_000].map(&mut is_short),
            [false, true, true, true, false, false]
        );
        assert_eq!(space.room(), Room { free_bytes: 1_000, reserve_bytes: 1_000 });
    }

    #[test]
    fn no_reserve_is_never_short_and_a_real_directory_has_a_size() {
        assert!(!Space::new(Source::Told(Arc::default()), Some(0)).is_short());
        let directory = tempfile::tempdir().unwrap();
        let room = Space::new(Source::Directory(directory.path().into()), None).room();
        assert!(room.free_bytes > 0 && room.reserve_bytes > 0, "{room:?}");
    }
}
