//! Compiled code in the data directory, so that a restart compiles nothing.
//!
//! Code that is run is trusted, so each file proves by a MAC that this broker wrote it, for this component and these settings of the
//! compiler. What is damaged, foreign or of another version is as good as not there. The key lies in the data directory, readable by its
//! owner: who can read it can replace the broker's data too.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use ring::hmac;

use super::limits::CODE_BYTES_MAX;
use crate::disk::{Readers, make_dir, secret, write_file};

/// Files that are kept; beyond, those go that were used least lately.
const FILES_MAX: usize = 64;
/// Bytes of all files together, in the same way.
const BYTES_MAX: u64 = 256 << 20;
const _: () = assert!(CODE_BYTES_MAX as u64 + MAC_BYTES as u64 <= BYTES_MAX);
/// Bytes in front of the code.
const MAC_BYTES: usize = 32;

const DIRECTORY: &str = "policy-cache";
const KEY: &str = "policy-cache.key";
const EXTENSION: &str = "code";

/// The files.
pub(crate) struct CodeCache {
    dir: PathBuf,
    key: hmac::Key,
    /// What the code depends on beside its component.
    compatibility: String,
}

impl CodeCache {
    /// The cache in this data directory, made on first use.
    ///
    /// # Errors
    /// The directory or the key cannot be made or read.
    pub(super) fn open(data_dir: &Path, compatibility: String) -> io::Result<Self> {
        let dir = data_dir.join(DIRECTORY);
        make_dir(&dir)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret(&data_dir.join(KEY))?);
        Ok(Self { dir, key, compatibility })
    }

    /// The code of the component with this digest, if it is there and our own.
    pub(super) fn get(&self, digest: &str) -> Option<Vec<u8>> {
        let path = self.path(digest);
        let mut file = File::options().read(true).write(true).open(&path).ok()?;
        let mut bytes = Vec::new();
        file.by_ref().take((MAC_BYTES + CODE_BYTES_MAX) as u64).read_to_end(&mut bytes).ok()?;
        let (mac, code) = bytes.split_first_chunk::<MAC_BYTES>()?;
        if hmac::verify(&self.key, &self.signed(digest, code), mac).is_err() {
            tracing::warn!(file = %path.display(), "cached code is not what was written, it is compiled again");
            return None;
        }
        touch(&file);
        bytes.drain(..MAC_BYTES);
        Some(bytes)
    }

    /// Keeps code. What does not fit any more goes.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn put(&self, digest: &str, code: &[u8]) -> io::Result<()> {
        let mac = hmac::sign(&self.key, &self.signed(digest, code));
        let bytes = [mac.as_ref(), code].concat();
        self.make_room(bytes.len() as u64)?;
        write_file(&self.path(digest), &bytes, Readers::Owner)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}-{}.{EXTENSION}", self.compatibility))
    }

    fn signed(&self, digest: &str, code: &[u8]) -> Vec<u8> {
        [digest.as_bytes(), b"-", self.compatibility.as_bytes(), b"-", code].concat()
    }

    /// Removes the files that were used least lately until one more of this size fits.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        files.sort_unstable();
        let mut used = files.iter().map(|(_, bytes, _)| bytes).sum::<u64>() + bytes;
        let mut count = files.len() + 1;
        for (_, bytes, path) in files {
            if used <= BYTES_MAX && count <= FILES_MAX {
                break;
            }
            fs::remove_file(path)?;
            (used, count) = (used - bytes, count - 1);
        }
        Ok(())
    }
}

/// It was used just now, by the file system's own time. Where that cannot be written down, it may go earlier.
#[cfg(unix)]
fn touch(file: &File) {
    use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let _ = futimens(file, &Timestamps { last_access: now, last_modification: now });
}

#[cfg(not(unix))]
fn touch(_: &File) {}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn digest(n: usize) -> String {
        format!("{n:064x}")
    }

    fn open(dir: &Path) -> CodeCache {
        CodeCache::open(dir, "settings".into()).unwrap()
    }

    #[test]
    fn code_is_there_for_the_next_process_with_the_same_settings() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).put(&digest(1), b"code").unwrap();
        assert_eq!(open(dir.path()).get(&digest(1)).as_deref(), Some(&b"code"[..]));
        assert_eq!(open(dir.path()).get(&digest(2)), None);
        assert_eq!(CodeCache::open(dir.path(), "other".into()).unwrap().get(&digest(1)), None);
    }

    #[test]
    fn what_is_damaged_cut_or_foreign_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        cache.put(&digest(1), b"code").unwrap();
        let path = cache.path(&digest(1));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(cache.get(&digest(1)), None, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(cache.get(&digest(1)), None, "{at} bytes");
        }
        // Our own, under another name.
        fs::write(cache.path(&digest(2)), &whole).unwrap();
        assert_eq!(cache.get(&digest(2)), None);
        // Of a broker with another key.
        let other = tempfile::tempdir().unwrap();
        let foreign = open(other.path());
        foreign.put(&digest(1), b"code").unwrap();
        fs::copy(foreign.path(&digest(1)), &path).unwrap();
        assert_eq!(cache.get(&digest(1)), None);
        fs::write(&path, &whole).unwrap();
        assert!(cache.get(&digest(1)).is_some());
    }

    #[test]
    fn what_was_used_least_lately_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path());
        for n in 0..FILES_MAX {
            cache.put(&digest(n), b"code").unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000 + n as u64);
            File::options().write(true).open(cache.path(&digest(n))).unwrap().set_modified(at).unwrap();
        }
        cache.get(&digest(0)).unwrap();
        cache.put(&digest(FILES_MAX), b"code").unwrap();
        let kept: Vec<_> = (0..=FILES_MAX).filter(|n| cache.get(&digest(*n)).is_some()).collect();
        assert_eq!(kept, [0].into_iter().chain(2..=FILES_MAX).collect::<Vec<_>>());
        fs::write(cache.dir.join("large"), vec![0; 1 << 10]).unwrap();
        File::options().write(true).open(cache.dir.join("large")).unwrap().set_len(BYTES_MAX).unwrap();
        cache.put(&digest(1), b"code").unwrap();
        let bytes: u64 = fs::read_dir(&cache.dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < BYTES_MAX, "{bytes}");
    }
}
