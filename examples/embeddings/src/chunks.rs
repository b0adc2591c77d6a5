//! The folder, cut into chunks that are each embedded alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// Files that are read, by their extensions.
const CODE: [&str; 16] =
    ["c", "cc", "cpp", "go", "h", "java", "js", "md", "proto", "py", "rs", "sh", "toml", "ts", "txt", "wit"];
/// Folders that have what was made, not written.
const SKIPPED: [&str; 3] = ["node_modules", "target", "__pycache__"];
/// Bytes of a file; larger ones are left out.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Files and folders that are looked at, and chunks of all files.
const ENTRIES_MAX: usize = 100_000;
const CHUNKS_MAX: usize = 20_000;
/// Lines of a chunk, about as many as the model takes.
const LINES: usize = 24;

/// Some lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// In the folder.
    pub(crate) path: String,
    /// Its first line, from 1.
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// All chunks of a folder, by what names each of them: a digest of the chunk, and of what embeds it.
pub(crate) fn of_folder(folder: &Path, embedder: &str) -> Result<BTreeMap<String, Chunk>> {
    let (mut chunks, mut left, mut seen) = (BTreeMap::new(), vec![folder.to_owned()], 0);
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let entry = entry?;
            seen += 1;
            ensure!(seen <= ENTRIES_MAX, "{} has more than {ENTRIES_MAX} files", folder.display());
            let name = entry.file_name().to_string_lossy().into_owned();
            // What a link leads to is not followed: it may lead back.
            let kind = entry.file_type()?;
            if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
                left.push(entry.path());
            } else if kind.is_file() && is_code(&entry.path()) && entry.metadata()?.len() <= FILE_BYTES_MAX {
                of_file(folder, &entry.path(), embedder, &mut chunks)?;
                ensure!(chunks.len() <= CHUNKS_MAX, "{} has more than {CHUNKS_MAX} chunks", folder.display());
            }
        }
    }
    Ok(chunks)
}

fn is_code(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| CODE.contains(&extension))
}

fn of_file(folder: &Path, file: &PathBuf, embedder: &str, chunks: &mut BTreeMap<String, Chunk>) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // Something else than text is left out.
    let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
    let path = file.strip_prefix(folder).unwrap_or(file).to_string_lossy().into_owned();
    for (number, lines) in text.lines().collect::<Vec<_>>().chunks(LINES).enumerate() {
        let chunk = Chunk { path: path.clone(), line: 1 + number * LINES, text: lines.join("\n") };
        if !chunk.text.trim().is_empty() {
            chunks.insert(chunk.key(embedder), chunk);
        }
    }
    Ok(())
}

impl Chunk {
    fn key(&self, embedder: &str) -> String {
        digest(&[embedder, &self.path, &self.line.to_string(), &self.text])
    }
}

/// 32 hexadecimal digits that these parts have, and no others.
pub(crate) fn digest(parts: &[&str]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    format!("{:x}", sha.finalize())[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_changed_has_another_key_and_the_others_keep_theirs() {
        let chunk = |line, text: &str| Chunk { path: "a.rs".into(), line, text: text.into() };
        assert_eq!(chunk(1, "x").key("m"), chunk(1, "x").key("m"));
        for other in [chunk(1, "y").key("m"), chunk(25, "x").key("m"), chunk(1, "x").key("n")] {
            assert_ne!(chunk(1, "x").key("m"), other);
        }
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
    }
}
