//! Connections of callers: how many there may be, and how long they may take to say what they want.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once; a further one waits.
const CONNECTIONS_MAX: usize = 4_096;
/// How long the head of a request may take, and an idle connection wait for the next one.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a connection's request head, and of its answers that are not sent yet.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Serves until the listener fails.
pub(crate) async fn serve(listener: TcpListener, router: Router) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let Ok((connection, _)) = listener.accept().await else {
            // There are no more file descriptors, say; those who are here leave some.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Tokens leave at once. A system that does not let them delays them.
        let _ = connection.set_nodelay(true);
        let router = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut http = Builder::new(TokioExecutor::new()).http1_only();
            http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(BUFFER_BYTES_MAX);
            // A caller that goes away, or speaks something else, ends its own connection alone.
            let _ = http.serve_connection(TokioIo::new(connection), router).await;
            drop(place);
        });
    }
}
