//! What is done with the store as a whole.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use sluicegate_protocol::ErrorCode;
use sluicegate_protocol::admin::{BackUp, BackedUp};

use super::{App, Body};
use crate::broker::stopping;
use crate::refusal::Refusal;
use crate::store::BackupError;

pub(super) async fn back_up(
    State(broker): App,
    Body(BackUp { directory }): Body<BackUp>,
) -> Result<Json<BackedUp>, Refusal> {
    let path = PathBuf::from(&directory);
    if !path.is_absolute() {
        let message = format!("directory: `{directory}` is not absolute, and the broker's own directory is not yours");
        return Err(Refusal::new(ErrorCode::InvalidArgument, message));
    }
    let store = Arc::clone(&broker.store);
    let made = tokio::task::spawn_blocking(move || store.back_up(&path)).await.map_err(|_| stopping())?;
    let made = made.map_err(|error| {
        let code = match error {
            BackupError::Exists(_) => ErrorCode::AlreadyExists,
            BackupError::Failed { .. } | BackupError::Incomplete { .. } => ErrorCode::InvalidArgument,
        };
        Refusal::new(code, format!("no backup was made: {error}"))
    })?;
    tracing::info!(directory, bytes = made.bytes(), "backup made");
    Ok(Json(BackedUp { directory, files: made.files() as u64, bytes: made.bytes() }))
}
