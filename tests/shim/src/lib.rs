//! Loaded into a broker by `LD_PRELOAD`, this notes what of its data directory is on the disk for certain: the length that
//! each file had when it was last synced, and what each directory held. `sluicegate-tests` cuts the files to that after a
//! `kill -9`, as a power cut would.
//!
//! `fsync` and `fdatasync` are the only calls that count. `sync_file_range` promises nothing about a power cut, by its own
//! manual, and RocksDB does not write by `mmap`: both stay the C library's own.
//!
//! A synced file is also linked into a folder beside the data directory, so that it can be restored when its unlink or its
//! replacement was not synced, and so that its inode number means this file for as long as the notes are read.
#![cfg(target_os = "linux")]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The data directory; nothing is noted without it.
const DATA: &str = "SLUICE_SHIM_DATA";
/// Where the notes go: `journal`, and `kept/` with the links.
const NOTES: &str = "SLUICE_SHIM_NOTES";
/// When set, syncs answer success, and neither sync nor note anything.
const LIE: &str = "SLUICE_SHIM_LIE";

struct Notes {
    data: PathBuf,
    kept: PathBuf,
    journal: File,
    lies: bool,
}

/// Syncs a file and notes it.
#[expect(unsafe_code, reason = "only under its C name does the symbol take the place of the C library's")]
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    synced(fd, libc::SYS_fsync)
}

/// Syncs a file's content and notes it.
#[expect(unsafe_code, reason = "only under its C name does the symbol take the place of the C library's")]
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    synced(fd, libc::SYS_fdatasync)
}

fn synced(fd: c_int, call: libc::c_long) -> c_int {
    let Some(notes) = notes() else { return sync(fd, call) };
    if notes.lies {
        return 0;
    }
    // Before the sync: what is written while it runs need not be part of it.
    let note = notes.note(fd);
    let result = sync(fd, call);
    if result == 0
        && let Some(note) = note
    {
        // One write, so that the notes of several threads do not mix. Where it fails, the test knows less and fails.
        let _ = (&notes.journal).write_all(&note);
    }
    result
}

#[expect(unsafe_code, reason = "the C library's function is hidden by ours; the system call is what it makes")]
fn sync(fd: c_int, call: libc::c_long) -> c_int {
    // SAFETY: both system calls take one descriptor, whatever its number, and touch no memory of this process.
    let result = unsafe { libc::syscall(call, fd) };
    c_int::try_from(result).expect("they return 0 or -1")
}

fn notes() -> Option<&'static Notes> {
    static OPENED: OnceLock<Option<Notes>> = OnceLock::new();
    OPENED.get_or_init(open).as_ref()
}

fn open() -> Option<Notes> {
    let (data, notes) = (PathBuf::from(std::env::var_os(DATA)?), PathBuf::from(std::env::var_os(NOTES)?));
    let journal = OpenOptions::new().append(true).create(true).open(notes.join("journal")).ok()?;
    Some(Notes { data, kept: notes.join("kept"), journal, lies: std::env::var_os(LIE).is_some() })
}

impl Notes {
    /// `file INODE LENGTH`, or `dir PATH` with a line `INODE NAME` for each entry; lines end with a NUL.
    fn note(&self, fd: c_int) -> Option<Vec<u8>> {
        // No name leads to a file that is unlinked already: its link says so, and there is nothing to note.
        let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
        let inside = path.strip_prefix(&self.data).ok()?;
        if path.is_dir() {
            return dir_note(&path, inside);
        }
        let metadata = path.metadata().ok()?;
        let kept = self.kept.join(metadata.ino().to_string());
        if !kept.exists() {
            std::fs::hard_link(&path, kept).ok()?;
        }
        Some(format!("file {} {}\0", metadata.ino(), metadata.len()).into_bytes())
    }
}

fn dir_note(path: &Path, inside: &Path) -> Option<Vec<u8>> {
    let mut note = b"dir ".to_vec();
    note.extend_from_slice(inside.as_os_str().as_bytes());
    for entry in std::fs::read_dir(path).ok()? {
        let entry = entry.ok()?;
        note.extend_from_slice(format!("\n{} ", entry.ino()).as_bytes());
        note.extend_from_slice(entry.file_name().as_bytes());
    }
    note.push(0);
    Some(note)
}
