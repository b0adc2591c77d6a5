//! Who may reply, and where.

use anyhow::{Context, Result};
use bytes::Bytes;
use sluicegate_client::{ConnectError, ErrorCode, Message};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role};
use sluicegate_tests::raw::RawStream;
use sluicegate_tests::{Broker, PATIENCE};

use super::{World, group, make, next, requester, topic};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_replies_by_its_right_to_consume_and_publishes_nowhere_else() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sluice.toml");
    let grants = [("worker", "['consume']"), ("agent", "['publish', 'read']"), ("root", "['admin']")];
    let grants = grants.map(|(name, rights)| {
        use sha2::Digest as _;
        let sha256 = format!("{:x}", sha2::Sha256::digest(name.as_bytes()));
        format!("[[tokens]]\nname = '{name}'\nsha256 = '{sha256}'\nrights = {rights}\n")
    });
    std::fs::write(&config, grants.concat())?;
    let broker = Broker::start_with(&["--dev", "--config", config.to_str().context("temporary paths are UTF-8")?])?;
    make(&broker.admin(Some("root"))?).await?;
    let request = requester(&broker.client_with("agent")).await?.start(Message::to("work/1")?).await?;
    let client = broker.client_with("worker");
    let mut worker = client.consumer(group()).connect().await?;
    let delivery = next(&mut worker).await?;
    delivery.reply("by right").await?;
    delivery.ack().await?;
    assert_eq!(&request.reply(PATIENCE).await?.body[..], b"by right");
    for name in ["agents", "agents.replies"] {
        let ConnectError::Refused(refusal) = client.producer(topic(name)).connect().await.unwrap_err() else {
            anyhow::bail!("it was not refused");
        };
        assert_eq!(refusal.code, ErrorCode::PermissionDenied, "{name}");
    }
    // And who may only publish replies to nothing.
    let mut stream = RawStream::open(&broker).await?;
    let hello = wire::Hello {
        version_min: 1,
        version_max: 1,
        token: "agent".into(),
        role: Some(Role::Producer(role())),
        ..Default::default()
    };
    stream.send_frame(&Frame::Hello(hello, ())).await?;
    let (code, message) = stream.refusal().await?;
    assert_eq!(format!("{code}: {message}"), "permission_denied: the token lacks the right `consume`");
    Ok(())
}

fn role() -> wire::ProducerRole {
    wire::ProducerRole { producer_id: vec![7; 16], replies_of: "workers".into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_speaks_frames_is_kept_to_replies_too() -> Result<()> {
    let world = World::start().await?;
    let refused = async |role: Role, then: Option<Frame>| {
        let mut stream = RawStream::open(&world.broker).await?;
        stream.say_hello(role).await?;
        if let Some(then) = then {
            stream.send_frame(&then).await?;
        }
        let (code, message) = stream.refusal().await?;
        anyhow::Ok(format!("{code}: {message}"))
    };
    let of_group = |name: &str| Role::Producer(wire::ProducerRole { replies_of: name.into(), ..role() });
    let to = |name: &str| Role::Producer(wire::ProducerRole { topic: name.into(), ..role() });
    let upload =
        Role::Upload(wire::UploadRole { producer_id: vec![7; 16], replies_of: "workers".into(), ..Default::default() });
    let elsewhere = wire::Publish { sequence: 1, lite: "session/42".into(), ..Default::default() };
    let begin = Frame::Upload(wire::Upload { message: Some(elsewhere.clone()), body_bytes: 1 << 20 }, ());
    let said = [
        refused(of_group("nobody"), None).await?,
        refused(of_group("no group"), None).await?,
        refused(to("agents"), None).await?,
        refused(upload, Some(begin)).await?,
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    unknown_group: group `nobody` does not exist
    invalid_argument: group name has ' ' at byte 2, allowed are A-Z a-z 0-9 `.` `_` `-`
    permission_denied: replies of group `workers` go to topic `agents.replies` only
    permission_denied: replies of group `workers` go to lite topics whose names begin with `reply/`
    ");
    let (mut stream, welcome) = RawStream::hello(&world.broker, to("agents.replies")).await?;
    assert_eq!(welcome.replies, "agents.replies");
    stream.send_frame(&Frame::Publish(elsewhere, Bytes::from_static(b"x"))).await?;
    let (code, message) = stream.refusal().await?;
    assert_eq!(
        format!("{code}: {message}"),
        "permission_denied: replies of group `workers` go to lite topics whose names begin with `reply/`"
    );
    assert_eq!(world.admin.topic(&topic("agents.replies")).await?.messages, 0);
    Ok(())
}
