//! A policy that failed, or may decide no more, told to whom it concerns.

use std::sync::{Arc, Mutex, PoisonError};

use sluicegate_protocol::admin::PolicyRole;
use tokio::sync::{Notify, mpsc};

use super::capsule::Capsule;

/// Capsules that wait to be kept; one that comes when there are as many is lost.
const CAPSULES_WAITING_MAX: usize = 4;

/// A policy failed too often for a group; built-in fair scheduling serves that group until something else is activated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Whether it decided.
    pub(crate) role: PolicyRole,
    /// Name of the group.
    pub(crate) group: String,
    /// The policy's digest.
    pub(crate) digest: String,
    /// The configuration that it had.
    pub(crate) config: String,
    /// The last fault.
    pub(crate) cause: String,
    /// The capsule that it left, if it had started.
    pub(crate) capsule: Option<String>,
}

/// Keeps what broke until somebody takes it. Cheap to share. Each binding breaks once, so there are never more than groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    broken: Mutex<Vec<Broken>>,
    rung: Notify,
    capsules: mpsc::Sender<Capsule>,
    /// Until somebody takes it.
    left: Mutex<Option<mpsc::Receiver<Capsule>>>,
}

impl Default for Shared {
    fn default() -> Self {
        let (capsules, left) = mpsc::channel(CAPSULES_WAITING_MAX);
        Self { broken: Mutex::default(), rung: Notify::default(), capsules, left: Mutex::new(Some(left)) }
    }
}

impl Alarms {
    /// Hands a capsule to whoever keeps them. Never waits.
    pub(super) fn leave(&self, capsule: Capsule) {
        if let Err(error) = self.0.capsules.try_send(capsule) {
            let capsule = error.into_inner();
            tracing::error!(capsule = capsule.header().id, "the capsule is lost: there are too many at once");
        }
    }

    /// The capsules that come; for one taker, until the last policy is gone.
    pub(crate) fn capsules(&self) -> Option<mpsc::Receiver<Capsule>> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

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
