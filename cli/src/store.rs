//! `sluice store`.

use std::path::PathBuf;

use serde::Serialize;
use sluicegate_broker::{StoreReport, check_store, restore_backup};

use crate::connect::Broker;
use crate::exit::Damaged;
use crate::output::{self, Format};

/// Check a data directory, back it up while the broker runs, restore it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Store {
    /// Read every row of a data directory that no broker has open, and count them. Exit code 1 if one cannot be read.
    Check {
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
