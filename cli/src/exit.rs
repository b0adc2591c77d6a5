//! Exit codes, so that a script can tell what to do next.

use std::process::ExitCode;

use sluicegate_client::admin::AdminError;
use sluicegate_client::{ConnectError, PublishError, ReadError, RequestError, SettleError};

/// For `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or input
  3  the broker cannot be reached
  4  the broker refused
  5  a claim that was checked does not hold (demo, policy check)

Environment:
  SLUICE_BROKER, SLUICE_ADMIN, SLUICE_CERTIFICATE, SLUICE_TOKEN  defaults of the options of the same names
  SLUICE_SERVE_…  settings of `sluice serve`, for example SLUICE_SERVE_DATA_DIR
  SLUICE_LOG      what to log, for example `debug` or `sluicegate_broker=debug`";

/// Input of the user's that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongInput(pub(crate) String);

/// A claim that was checked and does not hold.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Violation(pub(crate) String);

/// The broker answers, and does not serve fully.
#[derive(Debug, thiserror::Error)]
#[error("the broker does not serve fully: {0}")]
pub(crate) struct Unhealthy(pub(crate) String);

/// Rows of a store that cannot be read: how many, and the first.
#[derive(Debug, thiserror::Error)]
#[error("{0} problems, the first: {1}; restore a backup, and keep this directory for repair")]
pub(crate) struct Damaged(pub(crate) u64, pub(crate) String);

/// The exit code of a failure.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(error.chain().find_map(of_cause).unwrap_or(1))
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<WrongInput>() || cause.is::<sluicegate_client::InvalidName>() {
        return Some(2);
    }
    if cause.is::<Violation>() {
        return Some(5);
    }
    if let Some(error) = cause.downcast_ref::<AdminError>() {
        return Some(match error {
            AdminError::Refused(_) => 4,
            AdminError::Trust(_) => 2,
            AdminError::Http { .. } | AdminError::Answer { .. } => 3,
        });
    }
    if let Some(ReadError::Connect(error)) = cause.downcast_ref::<ReadError>() {
        return Some(of_connect(error));
    }
    if let Some(error) = cause.downcast_ref::<RequestError>() {
        return Some(of_request(error));
    }
    if let Some(error) = cause.downcast_ref::<ConnectError>() {
        return Some(of_connect(error));
    }
    let refused = cause.is::<PublishError>() || cause.is::<SettleError>() || cause.is::<ReadError>();
    refused.then_some(4)
}

const fn of_request(error: &RequestError) -> u8 {
    match error {
        RequestError::Connect(error) | RequestError::Read { error: ReadError::Connect(error), .. } => of_connect(error),
        RequestError::Publish(_) | RequestError::Read { .. } => 4,
        RequestError::NoReplies { .. } | RequestError::Nowhere { .. } => 2,
        RequestError::TimedOut { .. } | RequestError::Failed { .. } | RequestError::TooLarge { .. } => 1,
    }
}

const fn of_connect(error: &ConnectError) -> u8 {
    match error {
        ConnectError::Refused(_) => 4,
        ConnectError::Trust(_) => 2,
        ConnectError::Unreachable { .. } | ConnectError::Handshake { .. } | ConnectError::Protocol(_) => 3,
    }
}
