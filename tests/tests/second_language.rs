//! A policy in C, `examples/policy-c`: clang builds it, and a broker takes it as it takes any other.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluicegate_client::admin::{ActivatePolicy, GroupSettings, TenantRule, TopicSettings};
use sluicegate_client::{Consumer, Delivery, LiteName, Message};
use sluicegate_tests::{Broker, PATIENCE, sluice};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

/// With this variable set, the bindings are written instead of compared.
const UPDATE: &str = "SLUICE_UPDATE_BINDINGS";
/// A rest that no test outlives.
const LONG: &str = r#"{"failures":2,"rest_ms":60000}"#;

fn repository() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("..")
}

/// The component, or none where there is no clang for Wasm.
fn built() -> Result<Option<Vec<u8>>> {
    let works = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !works("clang") || !works("wasm-ld") {
        eprintln!("skipped: clang or wasm-ld is missing (Debian: apt-get install clang lld)");
        return Ok(None);
    }
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("circuit-breaker.wasm");
    let mut build = Command::new("sh");
    build.arg(repository().join("examples/policy-c/build.sh")).arg(&out).env("SLUICE", sluice());
    let output = build.output()?;
    ensure!(output.status.success(), "build.sh failed: {}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout);
    let imports =
        told.lines().find_map(|line| line.trim().strip_prefix("imports ")).with_context(|| told.to_string())?;
    ensure!(imports.trim().split(", ").all(|import| import.starts_with("sluicegate:policy/")), "{told}");
    Ok(Some(std::fs::read(out)?))
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

#[test]
fn its_bindings_are_those_of_the_contract() -> Result<()> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(repository().join("wit"))?;
    let world = resolve.select_world(&[package], Some("policy"))?;
    let mut made = Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut made)?;
    assert_eq!(made.iter().count(), 3);
    for (name, bytes) in made.iter() {
        let path = repository().join("examples/policy-c/bindings").join(name);
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(&path, bytes)?;
        }
        let is_it = std::fs::read(&path)? == bytes;
        assert!(is_it, "{} is not what wit-bindgen makes of wit/: set {UPDATE} and run this again", path.display());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_in_c_decides_and_takes_its_state_along() -> Result<()> {
    let Some(component) = built()? else { return Ok(()) };
    let broker = Broker::start()?;
    let settings = TopicSettings { tenant: TenantRule::Prefix, ..TopicSettings::default() };
    let (topic, group) = broker.topic_and_group(settings, GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let policy = admin.push_policy(component).await?;
    assert_eq!(policy.name, "circuit-breaker");
    let activate = |config: &str| {
        let policy = ActivatePolicy { digest: policy.digest.clone(), config: config.into() };
        let (admin, group) = (&admin, &group);
        async move { admin.activate_policy(group, &policy).await }
    };
    for (wrong, why) in [(r#"{"failures":0}"#, "failures"), (r#"{"rest":1}"#, "rest"), ("[", "config")] {
        let refused = activate(wrong).await.err().with_context(|| format!("{wrong} was taken"))?;
        assert!(refused.to_string().contains(why), "{wrong}: {refused}");
    }
    activate(LONG).await?;

    // The tenant `bad` fails twice and rests; `good` goes on.
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    for lite in ["bad/1", "good/1"] {
        producer.send(Message::to(lite)?).await?;
    }
    for failures in 1..=2 {
        loop {
            let delivery = next(&mut consumer).await?;
            if delivery.lite() == "bad/1" {
                assert_eq!(delivery.attempt(), failures);
                delivery.retry(Some(Duration::ZERO)).await?;
                break;
            }
            delivery.ack().await?;
        }
    }
    let said_of = |lite: &'static str| {
        let (admin, group) = (&admin, &group);
        async move {
            let said = || async { admin.explain(group, &LiteName::parse(lite)?).await.map_err(anyhow::Error::from) };
            let asked = async {
                loop {
                    if let Some(word) = said().await?.policy.and_then(|policy| policy.said) {
                        return anyhow::Ok(word.reason);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, asked).await.context("the policy says nothing")?
        }
    };
    for lite in ["good/2", "good/3"] {
        producer.send(Message::to(lite)?).await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.lite(), lite);
        delivery.ack().await?;
    }
    assert_eq!(said_of("bad/1").await?, "rests after failures");

    // Another instance goes on from its state: a lite topic that it never saw waits with its tenant.
    assert!(activate(LONG).await?.state_carried);
    for lite in ["bad/2", "good/4"] {
        producer.send(Message::to(lite)?).await?;
    }
    let delivery = next(&mut consumer).await?;
    assert_eq!(delivery.lite(), "good/4");
    delivery.ack().await?;
    assert_eq!(said_of("bad/2").await?, "rests after failures");

    // Fair scheduling lets nobody rest.
    admin.deactivate_policy(&group).await?;
    let mut served = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut consumer).await?;
        served.push((delivery.lite().to_owned(), delivery.attempt()));
        delivery.ack().await?;
    }
    served.sort_unstable();
    assert_eq!(served, [("bad/1".into(), 3), ("bad/2".into(), 1)]);
    let stats = admin.group(&group).await?.stats;
    assert!(stats.policy_frames > 0 && stats.policy_strikes == 0, "{stats:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_rest_one_delivery_tries_and_a_success_ends_it() -> Result<()> {
    let Some(component) = built()? else { return Ok(()) };
    let broker = Broker::start()?;
    let settings = TopicSettings { tenant: TenantRule::Prefix, ..TopicSettings::default() };
    let (topic, group) = broker.topic_and_group(settings, GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let digest = admin.push_policy(component).await?.digest;
    let config = r#"{"failures":1,"rest_ms":50}"#.into();
    admin.activate_policy(&group, &ActivatePolicy { digest, config }).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(8).connect().await?;
    producer.send(Message::to("t/0")?).await?;
    next(&mut consumer).await?.retry(Some(Duration::ZERO)).await?;
    for n in 1..6 {
        producer.send(Message::to(&format!("t/{n}"))?).await?;
    }
    // Of six that wait, one comes; while it is open, no other.
    let tries = next(&mut consumer).await?;
    assert!(tokio::time::timeout(Duration::from_millis(300), consumer.next()).await.is_err(), "two try at once");
    tries.ack().await?;
    for _ in 0..5 {
        next(&mut consumer).await?.ack().await?;
    }
    let stats = admin.group(&group).await?.stats;
    assert!(stats.acked == 6 && stats.policy_strikes == 0, "{stats:?}");
    Ok(())
}
