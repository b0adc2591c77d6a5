//! What is done with the store as a whole.

use serde::{Deserialize, Serialize};

/// Makes a backup while the broker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackUp {
    /// An absolute path on the broker's machine, of a directory that does not exist or is empty.
    pub directory: String,
}

/// A backup that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUp {
    /// Where it is.
    pub directory: String,
    /// How many files it has.
    pub files: u64,
    /// Their bytes. Files that are linked take no room of their own until the broker lets go of them.
    pub bytes: u64,
}
