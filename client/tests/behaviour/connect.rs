//! Behaviour of a client before it has a stream.

use std::io::Write;
use std::time::Duration;

use crate::peer::Peer;
use sluicegate_client::{Client, ConnectError, TopicName, Trust, TrustError};

async fn connect(client: Client) -> Result<(), ConnectError> {
    client.producer(TopicName::parse("chat").unwrap()).connect().await.map(drop)
}

#[tokio::test]
async fn a_broker_is_trusted_by_file_by_pin_and_by_root() {
    let peer = Peer::start();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(peer.pem()).unwrap();
    let pem = peer.pem().to_vec();
    for trust in [Trust::Certificate(file.path().into()), Trust::Pinned(pem.clone()), Trust::Roots(vec![pem])] {
        let connecting = tokio::spawn(connect(Client::builder(peer.address(), trust).build()));
        let mut stream = peer.accept().await;
        stream.welcome_producer().await;
        assert_eq!(connecting.await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn another_broker_is_not_trusted() {
    let (peer, other) = (Peer::start(), Peer::start());
    for trust in [Trust::Pinned(other.pem().to_vec()), Trust::Roots(vec![other.pem().to_vec()])] {
        let client = Client::builder(peer.address(), trust).build();
        let connecting = tokio::spawn(connect(client));
        peer.turn_away().await;
        let error = connecting.await.unwrap().unwrap_err();
        assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_missing_certificate_file_is_named_at_once() {
    let client = Client::builder("localhost:1", Trust::Certificate("/nowhere/dev-cert.pem".into())).build();
    let error = connect(client).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Trust(TrustError::Unreadable { path, .. }) if path == "/nowhere/dev-cert.pem")
    );
}

#[tokio::test]
async fn a_broker_that_is_away_is_an_error_after_the_connect_timeout() {
    let peer = Peer::start();
    let trust = Trust::Pinned(peer.pem().to_vec());
    let client = Client::builder("127.0.0.1:9", trust).connect_timeout(Duration::from_millis(100)).build();
    assert_eq!(connect(client).await.unwrap_err().to_string(), "no broker at 127.0.0.1:9: no answer");
}

#[tokio::test]
async fn producers_and_consumers_share_one_connection() {
    let peer = Peer::start();
    let client = peer.client();
    let connecting = tokio::spawn(connect(client.clone()));
    let mut first = peer.accept().await;
    first.welcome_producer().await;
    connecting.await.unwrap().unwrap();
    let connecting = tokio::spawn(connect(client));
    let mut second = crate::peer::Stream::accept(first.connection.clone()).await;
    second.welcome_producer().await;
    assert_eq!(connecting.await.unwrap(), Ok(()));
}
