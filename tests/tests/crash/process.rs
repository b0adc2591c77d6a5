//! A client's process: a runtime of its own, which ends without a word.

use anyhow::Result;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

pub(crate) struct Process(Option<Runtime>);

impl Process {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self(Some(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)))
    }

    pub(crate) fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("it is taken only to be dropped").spawn(future)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
