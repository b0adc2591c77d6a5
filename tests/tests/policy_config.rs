//! Configurations of policies: held against the policy's schema, tried before, changed while traffic flows.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluicegate_client::admin::{ActivatePolicy, Admin, AdminError, ErrorBody, GroupSettings, TopicSettings};
use sluicegate_client::{GroupName, Message};
use sluicegate_protocol::ErrorCode;
use sluicegate_tests::component::replaced;
use sluicegate_tests::{Broker, PATIENCE, policy};

fn refusal<T: std::fmt::Debug>(answer: Result<T, AdminError>) -> Result<ErrorBody> {
    match answer {
        Err(AdminError::Refused(body)) => Ok(body),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

async fn activate(admin: &Admin, group: &GroupName, config: &str) -> Result<(), AdminError> {
    let digest = admin.push_policy(policy("token-bucket")).await?.digest;
    admin.activate_policy(group, &ActivatePolicy { digest, config: config.into() }).await.map(drop)
}

fn json(broker: &Broker, arguments: &[&str]) -> Result<Value> {
    let out = tokio::task::block_in_place(|| broker.sluice(&[arguments, &["-o", "json"]].concat()))?;
    ensure!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).with_context(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_breaks_the_schema_is_refused_with_the_place_and_the_rule() -> Result<()> {
    let broker = Broker::start()?;
    let (_, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let refused =
        refusal(activate(&admin, &group, r#"{"overrides":[{"tenant":"a","rate_per_second":"fast"}]}"#).await)?;
    assert_eq!(refused.code, ErrorCode::PolicyRejected);
    ensure!(
        refused.message.starts_with("config at /overrides/0/rate_per_second: \"fast\" is not of type"),
        "{refused:?}"
    );
    assert_eq!(refused.detail["path"], "/overrides/0/rate_per_second");
    ensure!(refused.detail["expected"].starts_with("type: "), "{refused:?}");

    let refused = refusal(activate(&admin, &group, "{rate_per_second: 5}").await)?;
    ensure!(refused.message.starts_with("config: it is not JSON: "), "{refused:?}");
    assert_eq!(admin.policy_history(&group).await?, []);

    // A policy without a schema checks for itself, as each does what no schema can say.
    let digest = admin.push_policy(policy("hostile")).await?.digest;
    let refused =
        refusal(admin.activate_policy(&group, &ActivatePolicy { digest, config: r#"{"misbehave":7}"#.into() }).await)?;
    assert_eq!((refused.code, refused.message.starts_with("config: ")), (ErrorCode::PolicyRejected, true));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_whose_schema_is_none_or_refers_elsewhere_is_refused() -> Result<()> {
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let refused = refusal(
        admin.push_policy(replaced(&policy("token-bucket"), r#""type": "object""#, r#""type": "tensor""#)?).await,
    )?;
    assert_eq!(refused.code, ErrorCode::PolicyRejected);
    ensure!(refused.message.starts_with("the policy's config-schema is refused: at "), "{refused:?}");
    let elsewhere = replaced(&policy("token-bucket"), r#""type": "object""#, r#""$ref": "http:a""#)?;
    let refused = refusal(admin.push_policy(elsewhere).await)?;
    ensure!(refused.message.contains("nothing else is looked up"), "{refused:?}");
    // One that refers to itself is held against a configuration as any other is.
    let of_itself = replaced(&policy("token-bucket"), r#""type": "object""#, r##""$ref":"#"      "##)?;
    let (_, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let digest = admin.push_policy(of_itself).await?.digest;
    let given = |config: &str| ActivatePolicy { digest: digest.clone(), config: config.into() };
    let refused = refusal(admin.activate_policy(&group, &given(r#"{"rate_per_second":"x"}"#)).await)?;
    assert_eq!((refused.code, &refused.detail["path"][..]), (ErrorCode::PolicyRejected, "/rate_per_second"));
    admin.activate_policy(&group, &given(r#"{"rate_per_second":1}"#)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn validation_finds_what_a_push_and_an_activation_would_and_stores_nothing() -> Result<()> {
    let broker = Broker::start()?;
    let (_, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let wasm = policy("token-bucket");
    let valid = admin.validate_policy(&wasm, r#"{"rate_per_second":5}"#, Some(&group)).await?;
    assert_eq!(
        (valid.name.as_str(), valid.description.contract.as_str(), valid.bytes),
        ("token-bucket", "0.1.0", wasm.len() as u64)
    );

    assert_eq!(refusal(admin.validate_policy(b"nonsense", "", None).await)?.code, ErrorCode::PolicyRejected);
    let refused = refusal(admin.validate_policy(&wasm, r#"{"rate_per_second":-5}"#, None).await)?;
    assert_eq!(refused.detail["path"], "/rate_per_second");
    let hostile = policy("hostile");
    let refused = refusal(admin.validate_policy(&hostile, r#"{"misbehave":"refuse-to-start"}"#, None).await)?;
    assert_eq!(refused.message, "config: misbehave is `refuse-to-start`");
    let refused = refusal(admin.validate_policy(&hostile, r#"{"misbehave":"spin-in-init"}"#, None).await)?;
    ensure!(refused.message.contains("fuel"), "{refused:?}");
    let nobody = GroupName::parse("nobody")?;
    assert_eq!(refusal(admin.validate_policy(&wasm, "", Some(&nobody)).await)?.code, ErrorCode::UnknownGroup);

    assert_eq!(admin.policies().await?, []);
    assert_eq!(admin.policy_history(&group).await?, []);
    assert_eq!(refusal(admin.policy(&valid.digest).await)?.code, ErrorCode::UnknownPolicy);
    assert_eq!(admin.push_policy(wasm).await?.digest, valid.digest);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_configuration_keeps_the_policy_and_its_state() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let refused = refusal(admin.configure_policy(&group, "{}").await)?;
    assert_eq!(refused.code, ErrorCode::InvalidArgument);
    activate(&admin, &group, r#"{"rate_per_second":1000}"#).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(1).connect().await?;
    producer.send(Message::to("session")?).await?;
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await?.context("the consumer ended")??;
    delivery.ack().await?;

    let config = r#"{"rate_per_second":2000}"#;
    let configured = admin.configure_policy(&group, config).await?;
    let bound = configured.policy.context("a policy decides")?;
    assert_eq!((bound.config.as_str(), configured.state_carried), (config, true));
    let refused = refusal(admin.configure_policy(&group, r#"{"rate_per_second":"x"}"#).await)?;
    assert_eq!(refused.detail["path"], "/rate_per_second");
    let history = admin.policy_history(&group).await?;
    let told: Vec<_> = history.iter().map(|change| (change.by.as_str(), change.config.as_str())).collect();
    assert_eq!(told, [("127.0.0.1", config), ("127.0.0.1", r#"{"rate_per_second":1000}"#)]);
    assert_eq!(history[0].digest, history[1].digest);
    let back = admin.roll_back_policy(&group).await?.policy.context("a policy decides")?;
    assert_eq!(back.config, r#"{"rate_per_second":1000}"#);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_validates_configures_and_shows() -> Result<()> {
    let broker = Broker::start()?;
    broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("token-bucket.wasm");
    std::fs::write(&file, policy("token-bucket"))?;
    let file = file.to_str().context("temporary paths are UTF-8")?;
    let config = r#"{"rate_per_second":7}"#;
    let valid = json(&broker, &["policy", "validate", file, "--config", config, "--group", "g"])?;
    assert_eq!((&valid["name"], &valid["contract"]), (&"token-bucket".into(), &"0.1.0".into()));
    let pushed = json(&broker, &["policy", "push", file])?;
    assert_eq!(pushed["digest"], valid["digest"]);
    let digest = pushed["digest"].as_str().context("a digest")?;
    json(&broker, &["policy", "activate", "g", digest])?;
    let configured = json(&broker, &["policy", "configure", "g", "--config", config])?;
    assert_eq!(configured["policy"]["config"], config);

    let shown = json(&broker, &["policy", "show", &digest[..12]])?;
    assert_eq!((&shown["digest"], &shown["active_in"]), (&pushed["digest"], &serde_json::json!(["g"])));
    assert_eq!((&shown["limits"]["memory_bytes"], &shown["reasons"][1]), (&(16 << 20).into(), &"over rate".into()));
    let schema: Value = serde_json::from_str(shown["config_schema"].as_str().context("a schema")?)?;
    assert_eq!(schema["type"], "object");
    let uploaded = &shown["history"][0];
    assert_eq!((&uploaded["act"], &uploaded["by"]), (&"upload".into(), &"127.0.0.1".into()));
    let text = tokio::task::block_in_place(|| broker.sluice(&["policy", "show", digest]))?;
    ensure!(String::from_utf8_lossy(&text.stdout).contains("contract       0.1.0"), "{text:?}");

    let refused = tokio::task::block_in_place(|| {
        broker.sluice(&["policy", "configure", "g", "--config", r#"{"rate_per_second":"x"}"#])
    })?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("config at /rate_per_second") && refused.status.code() == Some(4), "{said}");
    Ok(())
}
