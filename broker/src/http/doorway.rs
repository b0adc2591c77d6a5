//! Where the door is: its address, how many may come in, and how long they may take to say what they want.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use sluicegate_protocol::ProducerId;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tower_http::add_extension::AddExtension;
use tower_http::cors::AllowOrigin;

use crate::first_word::Spoken;
use crate::server::{Serving, StartError, listen};

/// HTTP connections at once. More are closed before they have said anything.
const CONNECTIONS_MAX: usize = 8_192;
/// Requests of an HTTP/2 connection at once.
const REQUESTS_PER_CONNECTION_MAX: u32 = 64;
/// How long a TLS handshake may take, and the head of a request, and how long an idle connection waits for the next one.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long without a word an HTTP/2 connection is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
/// Bytes of a connection's request head and of its answers that are not sent yet; beside the message that is being sent.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// The same of one request of an HTTP/2 connection.
const STREAM_BUFFER_BYTES_MAX: usize = 64 << 10;
/// Bytes of a request's headers in HTTP/2.
const HEADER_BYTES_MAX: u32 = 32 << 10;

/// The listener of the door.
pub(crate) struct Doorway {
    listener: std::net::TcpListener,
    address: SocketAddr,
    tls: RustlsConfig,
    /// Whose web pages may come; none for no one's.
    pub(super) origins: Option<AllowOrigin>,
    pub(crate) producer: ProducerId,
    connections: Arc<Semaphore>,
    /// How long a client may take nothing of what is sent to it.
    write_patience: Duration,
}

/// Which origins the settings allow.
pub(crate) fn origins(allowed: &[String]) -> Option<AllowOrigin> {
    if allowed.iter().any(|origin| origin == "*") {
        return Some(AllowOrigin::any());
    }
    let origins = allowed.iter().map(|origin| HeaderValue::from_str(origin).expect("the settings were checked"));
    (!allowed.is_empty()).then(|| AllowOrigin::list(origins))
}

impl Doorway {
    pub(crate) fn new(
        listener: std::net::TcpListener,
        tls: Arc<rustls::ServerConfig>,
        (origins, write_patience): (Option<AllowOrigin>, Duration),
        producer: ProducerId,
    ) -> Result<Self, StartError> {
        let address = listener.local_addr().expect("the socket is bound");
        listener.set_nonblocking(true).map_err(|error| listen("data HTTPS", address, &error))?;
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tls = RustlsConfig::from_config(tls);
        Ok(Self { listener, address, tls, origins, producer, connections, write_patience })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn serve(&self, router: axum::Router) -> Result<Serving, StartError> {
        let failed = |error: io::Error| listen("data HTTPS", self.address, &error);
        let handle = axum_server::Handle::new();
        let listener = self.listener.try_clone().map_err(failed)?;
        let tls = RustlsAcceptor::new(self.tls.clone()).handshake_timeout(PATIENCE);
        let admission = Admission { connections: Arc::clone(&self.connections), write_patience: self.write_patience };
        let server = axum_server::from_tcp(listener).map_err(failed)?.handle(handle.clone());
        let mut server = server.acceptor(Spoken(tls.acceptor(admission)));
        let http = server.http_builder();
        http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(BUFFER_BYTES_MAX);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PATIENCE)
            .max_concurrent_streams(REQUESTS_PER_CONNECTION_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buf_size(STREAM_BUFFER_BYTES_MAX);
        let task = tokio::spawn(server.serve(router.into_make_service_with_connect_info::<SocketAddr>()));
        Ok(Serving::new(handle, task))
    }
}

/// Lets in as many connections as may be. The place of each is kept by its service, and so as long as the connection.
#[derive(Clone)]
struct Admission {
    connections: Arc<Semaphore>,
    write_patience: Duration,
}

impl<S: Send + 'static> Accept<TcpStream, S> for Admission {
    type Stream = Pin<Box<TimeoutStream<TcpStream>>>;
    type Service = AddExtension<S, Arc<OwnedSemaphorePermit>>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let (place, write_patience) = (Arc::clone(&self.connections).try_acquire_owned(), self.write_patience);
        Box::pin(async move {
            let Ok(place) = place else {
                tracing::warn!(max = CONNECTIONS_MAX, "HTTP connection refused, there are as many as are allowed");
                return Err(io::Error::other("too many connections"));
            };
            // Small messages leave at once. A system that does not let it delays them.
            let _ = stream.set_nodelay(true);
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(write_patience));
            Ok((Box::pin(stream), AddExtension::new(service, Arc::new(place))))
        })
    }
}
