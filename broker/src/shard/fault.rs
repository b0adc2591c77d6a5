//! Why a request to a shard is not done, and answers that wait for the store.

use tokio::sync::oneshot;

use crate::refusal::Refusal;
use crate::store::StoreError;

/// Why a request is not done.
#[derive(Debug)]
pub(super) enum Fault {
    /// What was asked cannot be: nothing is changed.
    Refused(Refusal),
    /// The store failed: the shard refuses everything from now on.
    Store(StoreError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Who waits for the outcome of a request.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// An outcome that is told when it is durable.
pub(super) struct Answer(Box<dyn FnOnce(Result<(), Refusal>) + Send>);

impl Answer {
    pub(super) fn new<T: Send + 'static>(reply: Reply<T>, value: T) -> Self {
        // Whoever asked may have given up.
        Self(Box::new(move |done| drop(reply.send(done.map(|()| value)))))
    }

    /// It is durable, or refused after all because the store failed.
    pub(super) fn tell(self, done: Result<(), Refusal>) {
        (self.0)(done);
    }
}
