//! A policy that may decide no more, told to whom it concerns.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// A policy failed too often for a group; built-in fair scheduling serves that group until something else is activated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Name of the group.
    pub(crate) group: String,
    /// The policy's digest.
    pub(crate) digest: String,
    /// The configuration that it had.
    pub(crate) config: String,
    /// The last fault.
    pub(crate) cause: String,
}

/// Keeps what broke until somebody takes it. Cheap to share. Each binding breaks once, so there are never more than groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarms(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    broken: Mutex<Vec<Broken>>,
    rung: Notify,
}

impl Alarms {
    pub(super) fn ring(&self, broken: Broken) {
        self.0.broken.lock().unwrap_or_else(PoisonError::into_inner).push(broken);
        self.0.rung.notify_one();
    }

    /// Waits until something broke. What is taken is not told again.
    pub(crate) async fn next(&self) -> Vec<Broken> {
        loop {
            let broken = std::mem::take(&mut *self.0.broken.lock().unwrap_or_else(PoisonError::into_inner));
            if !broken.is_empty() {
                return broken;
            }
            self.0.rung.notified().await;
        }
    }
}
