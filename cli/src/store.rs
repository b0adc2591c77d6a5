//! `sluice store`.

use std::path::PathBuf;

use serde::Serialize;
use sluicegate_broker::{StoreReport, StoreStats, check_store, restore_backup, store_stats};

use crate::connect::Broker;
use crate::exit::Damaged;
use crate::output::{self, Format};

/// Check a data directory, see what is in it, back it up while the broker runs, restore it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Store {
    /// Read every row of a data directory that no broker has open, and count them. Exit code 1 if one cannot be read. An older store's
    /// format is brought to today's.
    Check {
        /// The data directory.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Show how much a data directory holds that no broker has open: by table, by topic, in RocksDB's files. What is large is
    /// estimated, and marked with `~`. An older store's format is brought to today's.
    Stats {
        /// The data directory.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Let the running broker make a backup. What is acknowledged before is in it.
    Backup {
        /// Absolute path on the broker's machine; it must not exist or be empty.
        directory: String,
    },
    /// Copy a backup into a data directory without a store, and read all of it.
    Restore {
        /// The backup.
        backup: PathBuf,
        /// The data directory.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

/// Printed when a backup is restored.
#[derive(Debug, Serialize)]
struct Restored {
    data_dir: PathBuf,
    files: usize,
    bytes: u64,
}

impl Store {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        match self {
            Self::Check { data_dir } => {
                let report = tokio::task::spawn_blocking(move || check_store(&data_dir)).await??;
                output::print(format, &report, table)?;
                match report.problems.first() {
                    None => Ok(()),
                    Some(problem) => Err(Damaged(report.problem_count, problem.clone()).into()),
                }
            }
            Self::Stats { data_dir } => {
                let stats = tokio::task::spawn_blocking(move || store_stats(&data_dir)).await??;
                output::print(format, &stats, stats_tables)
            }
            Self::Backup { directory } => {
                let made = broker.admin()?.back_up(&directory).await?;
                output::print(format, &made, |made| {
                    format!("backup of {} files, {} bytes in {}", made.files, made.bytes, made.directory)
                })
            }
            Self::Restore { backup, data_dir } => {
                let target = data_dir.clone();
                let backup = tokio::task::spawn_blocking(move || restore_backup(&backup, &target)).await??;
                let restored = Restored { data_dir, files: backup.files(), bytes: backup.bytes() };
                output::print(format, &restored, |restored| {
                    format!(
                        "{} files, {} bytes restored to {}",
                        restored.files,
                        restored.bytes,
                        restored.data_dir.display()
                    )
                })
            }
        }
    }
}

fn table(report: &StoreReport) -> String {
    let mut table = output::table(&["TABLE", "ROWS", "BYTES"]);
    for (name, found) in &report.tables {
        table.add_row([(*name).to_owned(), found.rows.to_string(), found.bytes.to_string()]);
    }
    let problems = report.problems.iter().map(|problem| format!("\ndamaged: {problem}"));
    std::iter::once(table.to_string()).chain(problems).collect()
}

fn stats_tables(stats: &StoreStats) -> String {
    let about = |is_estimate: bool, number: u64| format!("{}{number}", if is_estimate { "~" } else { "" });
    let mut tables = output::table(&["TABLE", "ROWS", "BYTES", "ON DISK"]);
    for (name, found) in &stats.tables {
        let [rows, bytes] = [found.rows, found.bytes].map(|number| about(found.is_estimate, number));
        tables.add_row([(*name).to_owned(), rows, bytes, about(true, found.disk_bytes)]);
    }
    let mut topics = output::table(&["TOPIC", "LITE TOPICS", "MESSAGES"]);
    for (name, found) in &stats.topics {
        topics.add_row([name.clone(), found.lite_topics.to_string(), about(found.is_estimate, found.messages)]);
    }
    let mut files = output::table(&["FILES OF", "LIVE SST", "TOTAL SST", "LIVE BLOB", "TOTAL BLOB"]);
    for (name, found) in &stats.families {
        let bytes = [found.live_sst_bytes, found.total_sst_bytes, found.live_blob_bytes, found.total_blob_bytes];
        files.add_row(std::iter::once((*name).to_owned()).chain(bytes.map(|bytes| bytes.to_string())));
    }
    format!("{tables}\n\n{topics}\n\n{files}\n\nWAL: {} bytes", stats.wal_bytes)
}
