//! Why a store cannot be opened, and how it fails.

use std::path::PathBuf;

/// Why a data directory could not be opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory {} is in use by another broker", .0.display())]
    InUse(PathBuf),
    /// It cannot be made or written.
    #[error("data directory {} is not writable: {problem}", .path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// It holds no store.
    #[error("data directory {} holds no store", .0.display())]
    Missing(PathBuf),
    /// It holds something else.
    #[error("data directory {} holds {found}, not a store of Sluicegate; choose another directory", .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// A newer broker wrote it.
    #[error(
        "data directory {} has the store format {found}, this broker reads up to {}; start the newer broker that wrote \
         it, or choose another directory", .path.display(), super::FORMAT
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Files of a store are there, and its beginning is not.
    #[error(
        "data directory {} holds part of a store: {problem}; put back the files that are missing, or choose another \
         directory", .path.display()
    )]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// A file of it is damaged.
    #[error(
        "data directory {} is damaged: {problem}; restore a backup, and keep this one for repair", .path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What the database said.
        problem: String,
    },
    /// The database itself failed.
    #[error("data directory {} cannot be opened: {problem}", .path.display())]
    Database {
        /// The directory.
        path: PathBuf,
        /// What the database said.
        problem: String,
    },
}

/// The store failed; nothing can be said about what it holds until it is opened anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database failed to write or sync: what became of it is unknown.
    #[error("store: {0}")]
    Database(String),
    /// The database failed to read.
    #[error("store: cannot read: {0}")]
    Read(String),
    /// Somebody else opened the store since.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "RocksDB refuses a second opener; an engine on shared storage fences")
    )]
    #[error("store: opened by another broker since (epoch {epoch})")]
    Fenced {
        /// Epoch of the last opening.
        epoch: u64,
    },
    /// A row cannot be read as what its table says.
    #[error("store: {table} row {key}: {problem}")]
    Corrupt {
        /// Name of the table.
        table: &'static str,
        /// The key, in hexadecimal.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}
