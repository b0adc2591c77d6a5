//! Files and directories that are there after a power cut: whole, or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    Everybody,
    /// It holds a secret.
    Owner,
}

/// Writes a file, in place of what had its name.
pub(crate) fn write_file(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = open(&new, readers)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The secret in this file, made of 64 random bytes on first use.
pub(crate) fn secret(path: &Path) -> io::Result<Vec<u8>> {
    if !path.exists() {
        let bytes: [u8; 64] = ring::rand::generate(&ring::rand::SystemRandom::new())
            .map_err(|_| io::Error::other("the system has no randomness"))?
            .expose();
        write_file(path, &bytes, Readers::Owner)?;
    }
    std::fs::read(path)
}

/// Makes a directory and those above it that are missing.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        std::fs::create_dir(path)?;
        return sync_dir(Path::new("."));
    };
    make_dir(parent)?;
    match std::fs::create_dir(path) {
        // Somebody else was faster, or something else has the name: that shows when it is used.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| sync_dir(parent)),
    }
}

/// The directory's entries are on the disk when this returns.
#[cfg(unix)]
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Windows opens no directory as a file, and keeps its entries in a journal.
#[cfg(not(unix))]
pub(crate) fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Files that are wanted open at once: a store of many gigabytes has thousands, and each HTTP connection is one.
pub(crate) const OPEN_FILES_WANTED: u64 = 1 << 20;

/// Raises the files and sockets that this process may have open at once, as far as the system lets it; answers how many.
#[cfg(unix)]
pub(crate) fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current.unwrap_or(OPEN_FILES_WANTED);
    let wanted = maximum.unwrap_or(OPEN_FILES_WANTED).min(OPEN_FILES_WANTED);
    let raised = current < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok();
    if raised { wanted } else { current }
}

/// Other systems have no such limit to raise.
#[cfg(not(unix))]
pub(crate) fn raise_open_files() -> u64 {
    OPEN_FILES_WANTED
}

#[cfg(unix)]
fn open(path: &Path, readers: Readers) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mode = match readers {
        Readers::Everybody => 0o644,
        Readers::Owner => 0o600,
    };
    OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path, _: Readers) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_the_place_of_the_one_before_in_a_directory_that_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/b");
        make_dir(&dir).unwrap();
        make_dir(&dir).unwrap();
        for text in ["first", "second"] {
            write_file(&dir.join("key.pem"), text.as_bytes(), Readers::Owner).unwrap();
            assert_eq!(std::fs::read_to_string(dir.join("key.pem")).unwrap(), text);
        }
        let names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["key.pem"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_stays_the_same_and_only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.key");
        let made = secret(&path).unwrap();
        assert_eq!((made.len(), secret(&path).unwrap()), (64, made.clone()));
        assert_ne!(secret(&folder.path().join("other.key")).unwrap(), made);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
