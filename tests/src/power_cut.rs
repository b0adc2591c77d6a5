//! A power cut without one: after `kill -9` the data directory is cut to what was synced, as the shim noted it.
//!
//! What is modelled: a file keeps the bytes that it had at its last `fsync` or `fdatasync`, and perhaps some that were written
//! later; a directory has the entries of its last `fsync`, so that later creations, renames and unlinks did not happen. What
//! is not: bytes that were synced and then written over in place (RocksDB only appends), a later write that arrives before an
//! earlier one of the same file, and disks that lose what they confirmed.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::sluice;

/// A data directory whose syncs are noted.
#[derive(Debug)]
pub struct PowerCut {
    data: PathBuf,
    notes: PathBuf,
    /// Where the directory is rebuilt.
    rebuilt: PathBuf,
}

/// Whether a broker's syncs do what they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// They do.
    Honest,
    /// They answer success, and do nothing.
    Lie,
}

/// What a power cut took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Bytes at the ends of files.
    pub bytes: u64,
    /// Names that were not in their directory when it was last synced.
    pub names: u64,
}

/// What is on the disk for certain.
#[derive(Debug, Default)]
struct Synced {
    /// Length by inode.
    files: HashMap<u64, u64>,
    /// Inodes and names of the entries, by path inside the data directory.
    dirs: BTreeMap<PathBuf, Vec<(u64, OsString)>>,
}

impl PowerCut {
    /// A data directory `data` in this folder, empty or as it is, with the notes beside it.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize()?;
        let this = Self { data: folder.join("data"), notes: folder.join("notes"), rebuilt: folder.join("rebuilt") };
        std::fs::create_dir_all(&this.data)?;
        this.all_is_synced()?;
        Ok(this)
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// What loads the shim into a process that is started with it.
    pub fn environment(&self, syncs: Syncs) -> Vec<(OsString, OsString)> {
        let shim = sluice().with_file_name("libsluicegate_shim.so");
        let lie = (syncs == Syncs::Lie).then(|| ("SLUICE_SHIM_LIE".into(), "1".into()));
        let set =
            [("LD_PRELOAD", shim), ("SLUICE_SHIM_DATA", self.data.clone()), ("SLUICE_SHIM_NOTES", self.notes.clone())];
        set.into_iter().map(|(name, value)| (name.into(), value.into())).chain(lie).collect()
    }

    /// Everything that is there now survives the next power cut: a new machine starts from its disk.
    ///
    /// # Errors
    /// The notes cannot be written.
    pub fn all_is_synced(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.notes) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => std::fs::create_dir_all(self.notes.join("kept"))?,
        }
        let mut journal = Vec::new();
        self.note(Path::new(""), &mut journal)?;
        Ok(std::fs::write(self.notes.join("journal"), journal)?)
    }

    fn note(&self, inside: &Path, journal: &mut Vec<u8>) -> Result<()> {
        let mut entries = b"dir ".to_vec();
        entries.extend_from_slice(inside.as_os_str().as_bytes());
        for entry in std::fs::read_dir(self.data.join(inside))? {
            let entry = entry?;
            let inside = inside.join(entry.file_name());
            entries.extend_from_slice(format!("\n{} ", entry.ino()).as_bytes());
            entries.extend_from_slice(entry.file_name().as_bytes());
            if entry.file_type()?.is_dir() {
                self.note(&inside, journal)?;
            } else {
                std::fs::hard_link(entry.path(), self.kept(entry.ino()))?;
                journal.extend_from_slice(format!("file {} {}\0", entry.ino(), entry.metadata()?.len()).as_bytes());
            }
        }
        entries.push(0);
        journal.extend_from_slice(&entries);
        Ok(())
    }

    fn kept(&self, inode: u64) -> PathBuf {
        self.notes.join("kept").join(inode.to_string())
    }

    /// Cuts the data directory of a process that was killed. `keeps` says how many bytes of a file are there after, given how
    /// many were synced and how many were written.
    ///
    /// # Errors
    /// The notes are not whole, or the directory cannot be rebuilt.
    pub fn cut(&self, mut keeps: impl FnMut(u64, u64) -> u64) -> Result<Lost> {
        let synced = Synced::read(&std::fs::read(self.notes.join("journal"))?)?;
        let mut lost = Lost::default();
        self.rebuild(Path::new(""), &synced, &mut keeps, &mut lost)?;
        std::fs::remove_dir_all(&self.data)?;
        std::fs::rename(&self.rebuilt, &self.data)?;
        self.all_is_synced()?;
        Ok(lost)
    }

    fn rebuild(
        &self,
        inside: &Path,
        synced: &Synced,
        keeps: &mut impl FnMut(u64, u64) -> u64,
        lost: &mut Lost,
    ) -> Result<()> {
        std::fs::create_dir(self.rebuilt.join(inside))?;
        let entries = synced.dirs.get(inside).map_or(&[][..], Vec::as_slice);
        for entry in std::fs::read_dir(self.data.join(inside)).into_iter().flatten() {
            let name = entry?.file_name();
            lost.names += u64::from(entries.iter().all(|(_, kept)| *kept != name));
        }
        for (inode, name) in entries {
            let inside = inside.join(name);
            if synced.dirs.contains_key(&inside) || self.data.join(&inside).is_dir() {
                self.rebuild(&inside, synced, keeps, lost)?;
                continue;
            }
            let Some(written) = self.source(*inode, &inside) else {
                // It was made, its directory was synced, and then it was unlinked, never synced itself.
                File::create(self.rebuilt.join(&inside))?;
                continue;
            };
            let written = File::open(written)?;
            let length = written.metadata()?.len();
            let on_disk = synced.files.get(inode).copied().unwrap_or(0).min(length);
            let keep = keeps(on_disk, length).clamp(on_disk, length);
            lost.bytes += length - keep;
            let mut rebuilt = File::create(self.rebuilt.join(&inside))?;
            let copied = std::io::copy(&mut Read::take(written, keep), &mut rebuilt)?;
            ensure!(copied == keep, "{} has {copied} bytes, not {keep}", inside.display());
            rebuilt.flush()?;
        }
        Ok(())
    }

    /// Where the bytes of a file are that had this name.
    fn source(&self, inode: u64, inside: &Path) -> Option<PathBuf> {
        let named = self.data.join(inside);
        let is_it = std::fs::metadata(&named).is_ok_and(|metadata| metadata.ino() == inode);
        if is_it { Some(named) } else { Some(self.kept(inode)).filter(|kept| kept.exists()) }
    }
}

impl Synced {
    fn read(journal: &[u8]) -> Result<Self> {
        let mut synced = Self::default();
        for note in journal.split(|byte| *byte == 0).filter(|note| !note.is_empty()) {
            if let Some(note) = note.strip_prefix(b"dir ") {
                let mut lines = note.split(|byte| *byte == b'\n');
                let path = lines.next().map_or_else(PathBuf::new, |line| Path::new(OsStr::from_bytes(line)).into());
                synced.dirs.insert(path, lines.map(entry).collect::<Result<_>>()?);
                continue;
            }
            let note = std::str::from_utf8(note)?;
            let mut words = note.strip_prefix("file ").with_context(|| format!("not a note: {note}"))?.split(' ');
            let mut number = || -> Result<u64> { Ok(words.next().context("a number is missing")?.parse()?) };
            let (inode, length) = (number()?, number()?);
            let longest = synced.files.entry(inode).or_default();
            *longest = length.max(*longest);
        }
        Ok(synced)
    }
}

fn entry(line: &[u8]) -> Result<(u64, OsString)> {
    let space = line.iter().position(|byte| *byte == b' ').context("an entry without a name")?;
    let inode = std::str::from_utf8(&line[..space])?.parse()?;
    Ok((inode, OsStr::from_bytes(&line[space + 1..]).to_owned()))
}
