//! The Sluicegate broker: QUIC in, RocksDB below, a fair scheduler and Wasm policies between.
//!
//! Data runs one way: connection → broker handle → shard → {lifecycle, scheduler, delivery} →
//! store. [`Server`] is the only place that wires the parts.

mod admin;
mod auth;
mod broker;
mod catalog;
mod clock;
mod config;
mod connection;
mod control;
mod delivery;
mod disk;
#[cfg(test)]
mod failing_store;
mod first_word;
mod http;
mod id_hash;
mod incoming;
mod kept;
mod life;
mod message;
mod metrics;
mod policy;
mod reader;
mod refusal;
mod reopening;
mod server;
mod shard;
mod store;
mod tls;
mod uploads;

pub use config::{Config, ConfigError, Right, TlsFiles, TokenGrant};
pub use policy::lab as policy_lab;
pub use policy::replay as policy_replay;
pub use policy::{PolicyCompiler, policy_worker};
pub use server::{Server, StartError};
pub use store::{
    Backup, BackupError, FamilyStats, OpenError, StoreReport, StoreStats, TableReport, TableStats, TopicStats,
    check_store, database_options, restore_backup, store_stats,
};
pub use tls::TlsError;
