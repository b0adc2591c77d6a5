//! What is wrong gets one clear line and a typed error, and the broker serves on.

use std::io::Write;

use anyhow::{Context, Result};
use sluicegate_client::admin::{ActivatePolicy, AdminError, GroupSettings, TopicSettings};
use sluicegate_client::{ConnectError, ErrorCode, GroupName, Message, PublishError, TopicName};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire;
use sluicegate_tests::raw::RawStream;
use sluicegate_tests::{Broker, policy, serve_to_end};

/// A message still goes the whole way.
async fn serves_on(broker: &Broker) -> Result<()> {
    let topic = TopicName::parse("still")?;
    let receipt = broker.client().producer(topic).connect().await?.send(Message::to("x")?.body("m")).await?;
    anyhow::ensure!(receipt.offset.0 < 1_000, "an offset");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_end_their_stream_and_nothing_else() -> Result<()> {
    let broker = Broker::start()?;
    let mut refusals = Vec::new();
    let cases: [&[u8]; 4] = [
        &[0xff, 0xff, 0xff, 0xff],          // oversized
        &[0, 0, 0, 9, 200, 0, 0, 0, 0],     // unknown type
        &[0, 0, 0, 9, 2, 0xff, 0, 0, 0],    // header longer than its frame
        &[0, 0, 0, 6, 2, 0, 0, 0, 1, 0xff], // header that is no protobuf
    ];
    for bytes in cases {
        let mut stream = RawStream::producer(&broker).await?;
        stream.send_bytes(bytes).await?;
        refusals.push(stream.refusal().await?);
        assert!(stream.next().await?.is_none(), "the stream goes on");
    }
    let mut truncated = RawStream::producer(&broker).await?;
    truncated.send_bytes(&[0, 0, 0, 200, 2, 0, 0]).await?;
    truncated.finish()?;
    refusals.push(truncated.refusal().await?);
    let mut misplaced = RawStream::producer(&broker).await?;
    misplaced.send_frame(&Frame::Credit(wire::Credit { messages: 1, load_ppm: None }, ())).await?;
    refusals.push(misplaced.refusal().await?);
    let mut no_hello = RawStream::open(&broker).await?;
    no_hello.send_frame(&Frame::Close(wire::Close {}, ())).await?;
    refusals.push(no_hello.refusal().await?);
    let mut future = RawStream::open(&broker).await?;
    let hello = wire::Hello { version_min: 7, version_max: 9, ..Default::default() };
    future.send_frame(&Frame::Hello(hello, ())).await?;
    refusals.push(future.refusal().await?);
    insta::assert_snapshot!(refusals.iter().map(|(code, message)| format!("{code}: {message}")).collect::<Vec<_>>().join("\n"), @r"
    too_large: frame of 4294967295 bytes, at most 1048576 are allowed
    protocol_violation: unknown frame type 200
    protocol_violation: header of 4278190080 bytes in a frame of type 2, at most 4 fit
    protocol_violation: header of a Publish frame: failed to decode Protobuf message: invalid varint
    protocol_violation: stream ended inside a frame, after 7 of its bytes
    protocol_violation: Credit has no place on this stream
    protocol_violation: a stream begins with Hello, not with Close
    version_unsupported: client speaks protocol versions 7 to 9, this broker speaks 1
    ");
    serves_on(&broker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_is_refused_alone() -> Result<()> {
    let broker = Broker::start()?;
    let mut stream = RawStream::producer(&broker).await?;
    let publish = |sequence, lite: &str, priority| wire::Publish {
        sequence,
        lite: lite.into(),
        priority: Some(priority),
        ..Default::default()
    };
    let bodies = [
        (publish(1, "", 4), 10),
        (publish(2, "ok", 12), 10),
        (publish(3, "ok", 4), 262_145),
        (publish(4, "line\nbreak", 4), 10),
        (publish(0, "ok", 4), 10),
        (publish(5, "ok", 4), 10),
    ];
    for (header, bytes) in bodies {
        stream.send_frame(&Frame::Publish(header, vec![b'x'; bytes].into())).await?;
    }
    let (mut refusals, mut published) = (Vec::new(), Vec::new());
    while refusals.len() + published.len() < 6 {
        match stream.next().await?.context("the stream goes on")? {
            Frame::Error(error, ()) => {
                refusals.push(format!("{:?} {}", error.sequence.unwrap_or(u64::MAX), error.message));
            }
            Frame::Published(replies, ()) => published.extend(replies.receipts.iter().map(|receipt| receipt.sequence)),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }
    insta::assert_snapshot!(refusals.join("\n"), @r"
    1 lite topic name is empty
    2 priority is 12, allowed are 0 to 9
    3 body bytes in a Publish frame: 262145, at most 262144 are allowed
    4 lite topic name has '\n' at byte 4, allowed are any UTF-8 but control characters
    0 sequences count from 1
    ");
    assert_eq!(published, [5]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_checked_on_the_wire_and_over_http() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sluice.toml");
    let sha256 = |token: &str| {
        use sha2::Digest;
        format!("{:x}", sha2::Sha256::digest(token.as_bytes()))
    };
    std::fs::write(
        &config,
        format!(
            "[[tokens]]\nname = 'p'\nsha256 = '{}'\nrights = ['publish']\n[[tokens]]\nname = 'b'\nsha256 = '{}'\nrights = ['admin']\n",
            sha256("publisher"),
            sha256("boss")
        ),
    )?;
    let broker = Broker::start_with(&["--dev", "--config", config.to_str().context("temporary paths are UTF-8")?])?;
    let code = |error: &AdminError| match error {
        AdminError::Refused(body) => body.code,
        other => panic!("{other}"),
    };
    assert_eq!(code(&broker.admin(Some("wrong"))?.topics().await.unwrap_err()), ErrorCode::Unauthenticated);
    assert_eq!(code(&broker.admin(Some("publisher"))?.topics().await.unwrap_err()), ErrorCode::PermissionDenied);
    assert!(broker.admin(Some("boss"))?.topics().await.is_ok());

    let topic = TopicName::parse("t")?;
    let refused = broker.client_with("boss").producer(topic.clone()).connect().await.unwrap_err();
    assert!(
        matches!(&refused, ConnectError::Refused(refusal) if refusal.code == ErrorCode::PermissionDenied),
        "{refused}"
    );
    let refused = broker.client_with("wrong").producer(topic.clone()).connect().await.unwrap_err();
    assert!(
        matches!(&refused, ConnectError::Refused(refusal) if refusal.code == ErrorCode::Unauthenticated),
        "{refused}"
    );
    broker.client_with("publisher").producer(topic).connect().await?.send(Message::to("x")?).await?;

    let out = broker.sluice(&["topic", "list", "--token", "wrong"])?;
    assert_eq!(
        (out.status.code(), String::from_utf8_lossy(&out.stderr).trim()),
        (Some(4), "sluice: unauthenticated: the token is not known")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_things_are_named() -> Result<()> {
    let broker = Broker::start()?;
    let refused = broker.client().consumer(GroupName::parse("nobody")?).connect().await.unwrap_err();
    assert_eq!(refused.to_string(), "broker refused: unknown_group: group `nobody` does not exist");
    let out = broker.sluice(&["group", "show", "nobody"])?;
    assert_eq!(
        (out.status.code(), String::from_utf8_lossy(&out.stderr).trim()),
        (Some(4), "sluice: unknown_group: group `nobody` does not exist")
    );
    let out = broker.sluice(&["topic", "show", "nowhere"])?;
    assert_eq!(String::from_utf8_lossy(&out.stderr).trim(), "sluice: unknown_topic: topic `nowhere` does not exist");
    let out = broker.sluice(&["topic", "create", "a/b"])?;
    assert_eq!(out.status.code(), Some(2));
    serves_on(&broker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_none_is_refused_with_the_reason() -> Result<()> {
    let broker = Broker::start()?;
    let (_, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let refusal = |result: Result<_, AdminError>| match result {
        Err(AdminError::Refused(body)) => Ok(format!("{}: {}", body.code, body.message)),
        other => Err(anyhow::anyhow!("not refused: {other:?}")),
    };
    let not_wasm = refusal(admin.push_policy(b"hello".to_vec()).await)?;
    assert!(not_wasm.starts_with("policy_rejected: "), "{not_wasm}");
    let core_module = refusal(admin.push_policy(b"\0asm\x01\0\0\0".to_vec()).await)?;
    assert!(core_module.contains("sluice policy build"), "{core_module}");
    let too_large = refusal(admin.push_policy(vec![0; (1 << 20) + 1]).await)?;
    assert_eq!(too_large, "too_large: a policy has at most 1048576 bytes");

    let pushed = admin.push_policy(policy("token-bucket")).await?;
    let bad_config = ActivatePolicy { digest: pushed.digest, config: r#"{"unit":"apples"}"#.into() };
    let refused = match admin.activate_policy(&group, &bad_config).await {
        Err(AdminError::Refused(body)) => body,
        other => anyhow::bail!("not refused: {other:?}"),
    };
    assert_eq!(refused.code, ErrorCode::PolicyRejected);
    assert!(refused.message.contains("unit") || refused.message.contains("apples"), "{}", refused.message);
    assert!(admin.group(&group).await?.policy.is_none(), "a refused policy is not bound");
    serves_on(&broker).await
}

#[test]
fn a_broker_that_cannot_start_says_why_in_one_line() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path =
        |name: &str| directory.path().join(name).to_str().context("temporary paths are UTF-8").map(str::to_owned);
    let broker = Broker::start()?;
    let addresses =
        ["--dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];

    let in_use = broker.data_dir().to_str().context("temporary paths are UTF-8")?.to_owned();
    let (code, text) = serve_to_end(&[&addresses[..], &["--data-dir", &in_use]].concat())?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.trim_end().ends_with("is in use by another broker"), "{text}");

    let fresh = path("fresh")?;
    let taken = [
        "--dev",
        "--listen",
        broker.address(),
        "--admin-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
        "--data-dir",
        &fresh,
    ];
    let (code, text) = serve_to_end(&taken)?;
    assert!(code == Some(1) && text.contains("QUIC cannot listen on 127.0.0.1:"), "{text}");

    let file = path("file")?;
    std::fs::File::create(&file)?.write_all(b"not a directory")?;
    let below = format!("{file}/data");
    let (code, text) = serve_to_end(&[&addresses[..], &["--data-dir", &below]].concat())?;
    assert!(code == Some(1) && text.contains("is not writable"), "{text}");

    let (code, text) = serve_to_end(&["--data-dir", &fresh])?;
    assert!(code == Some(2) && text.contains("tls.certificate"), "{text}");

    let config = path("sluice.toml")?;
    std::fs::write(&config, "data_dri = \"x\"\n")?;
    let (code, text) = serve_to_end(&["--dev", "--config", &config])?;
    assert!(code == Some(2) && text.contains("data_dri"), "{text}");
    Ok(())
}

#[test]
fn a_bad_trace_names_file_line_and_what_was_expected() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("bad.csv");
    let path = path.to_str().context("temporary paths are UTF-8")?;
    let run = |text: &str| -> Result<(Option<i32>, String)> {
        std::fs::write(path, text)?;
        let out = std::process::Command::new(sluicegate_tests::sluice()).args(["demo", "--trace", path]).output()?;
        Ok((out.status.code(), String::from_utf8_lossy(&out.stderr).trim().replace(path, "bad.csv")))
    };
    let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    let (code, text) = run(&format!("{header}2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0,many,8\n"))?;
    assert!(
        code == Some(2) && text.contains("bad.csv") && text.contains('3') && text.contains("ContextTokens"),
        "{text}"
    );
    let (code, text) = run(&format!("{header}2023-11-16 18:17:05.0,1,10\n2023-11-16 18:17:04.0,1,8\n"))?;
    assert!(code == Some(2) && text.contains('2') && text.contains('3'), "{text}");
    let (code, text) = run("")?;
    assert!(code == Some(2) && text.contains("bad.csv"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_learns_of_its_own_bad_message_and_goes_on() -> Result<()> {
    let broker = Broker::start()?;
    let producer = broker.client().producer(TopicName::parse("t")?).connect().await?;
    let large = bytes::Bytes::from(vec![0; (256 << 20) + 1]);
    let refused = producer.send(Message::to("x")?.body(large)).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Refused(refusal) if refusal.code == ErrorCode::TooLarge), "{refused}");
    assert_eq!(producer.send(Message::to("x")?.body("fine")).await?.offset.0, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_sequence_is_a_sequence_like_any_other() -> Result<()> {
    let broker = Broker::start()?;
    let mut stream = RawStream::producer(&broker).await?;
    let publish = |sequence| {
        let header = wire::Publish { sequence, lite: "x".into(), ..Default::default() };
        Frame::Publish(header, bytes::Bytes::new())
    };
    for duplicate in [false, true] {
        stream.send_frame(&publish(u64::MAX)).await?;
        let Some(Frame::Published(published, ())) = stream.next().await? else { anyhow::bail!("no receipt") };
        assert_eq!((published.receipts[0].sequence, published.receipts[0].duplicate), (u64::MAX, duplicate));
    }
    stream.send_frame(&publish(7)).await?;
    let (code, message) = stream.refusal().await?;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("idempotency_conflict", "sequence 7 is older than any that this producer may resend")
    );
    Ok(())
}
