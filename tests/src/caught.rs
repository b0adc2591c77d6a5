//! A panic as an error, so that what led to it can be told.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use anyhow::{Result, anyhow};

/// What the future resolves to.
///
/// # Errors
/// It panicked. What it was changing may be half changed: only look at it.
pub async fn caught<F: Future>(future: F) -> Result<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(anyhow!("panicked: {}", text(panic.as_ref())))),
    })
    .await
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("with something that is not text")
}
