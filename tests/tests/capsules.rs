//! A policy's faults leave capsules, which are listed, fetched, and had again without the broker's traffic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluicegate_client::Message;
use sluicegate_client::admin::{ActivatePolicy, Admin, Capsule, GroupSettings, TopicSettings};
use sluicegate_tests::{Broker, PATIENCE, policy};

/// Capsules are written beside everything else: they are there soon.
async fn capsules(admin: &Admin, number: usize) -> Result<Vec<Capsule>> {
    let there = async {
        loop {
            let capsules = admin.capsules(None).await?;
            if capsules.len() >= number {
                return anyhow::Ok(capsules);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.context("the capsules did not come")?
}

fn json(broker: &Broker, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let out = broker.sluice(&[arguments, &["-o", "json"]].concat())?;
    let value = serde_json::from_slice(&out.stdout);
    let value = value.with_context(|| format!("{arguments:?}: {}", String::from_utf8_lossy(&out.stderr)))?;
    Ok((out.status.code(), value))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_leaves_capsules_that_reproduce_its_faults() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let digest = admin.push_policy(policy("hostile")).await?.digest;
    // From the fourth frame on.
    let config = r#"{"misbehave":"panic","after":3}"#.to_owned();
    admin.activate_policy(&group, &ActivatePolicy { digest: digest.clone(), config }).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let until_quarantine = async {
        for nth in 0.. {
            producer.send(Message::to(&format!("session-{nth}"))?.cost(nth)).await?;
            let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await?.context("a delivery")??;
            delivery.ack().await?;
            if admin.policies().await?[0].quarantine.is_some() {
                break;
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, until_quarantine).await.context("it goes on and on")??;

    // Three strikes: three capsules, named by the group and in its history.
    let kept = capsules(&admin, 3).await?;
    let shown = admin.group(&group).await?.last_strike.context("the group names the last fault")?;
    assert_eq!((&shown.capsule, &shown.digest), (&kept[0].header.id, &digest));
    assert!(kept.iter().all(|capsule| capsule.header.fault.contains("deliberate")), "{kept:?}");
    let changes = admin.policy_history(&group).await?;
    assert_eq!(changes[0].capsule.as_ref(), Some(&kept[0].header.id));
    let other = sluicegate_client::GroupName::parse("nobody")?;
    assert_eq!((admin.capsules(Some(&group)).await?, admin.capsules(Some(&other)).await?), (kept.clone(), vec![]));

    // Each fault happens again, with the component that the broker has.
    for capsule in &kept {
        let (code, report) = json(&broker, &["policy", "replay", &capsule.header.id])?;
        assert_eq!((code, &report["replayed"]["verdict"]), (Some(0), &"reproduced".into()), "{report}");
        let answered = &report["replayed"]["answered"];
        assert_eq!(answered, &report["replayed"]["same"]);
        assert_eq!(answered.as_u64(), Some(capsule.header.questions));
    }
    assert_eq!(kept[2].header.questions, 3, "the first instance answered three");

    // The same from files, without a broker; and what a mended one says to it.
    let folder = tempfile::tempdir()?;
    let (file, component) = (folder.path().join("fault.jsonl"), folder.path().join("hostile.wasm"));
    let (file, component) = (file.to_str().context("a path")?, component.to_str().context("a path")?);
    let (code, _) = json(&broker, &["policy", "capsule", &kept[2].header.id, "--out", file])?;
    assert_eq!(code, Some(0));
    std::fs::write(component, admin.policy_component(&digest).await?)?;
    assert_eq!(std::fs::read(component)?, policy("hostile"));
    let calm = folder.path().join("calm.wasm");
    std::fs::write(&calm, policy("calm"))?;
    let calm = calm.to_str().context("a path")?;
    let (code, report) = json(&broker, &["policy", "replay", file, "--policy", component, "--against", calm])?;
    assert_eq!((code, &report["replayed"]["verdict"]), (Some(5), &"reproduced".into()), "{report}");
    let fault = report["against"]["fault"].as_str().unwrap_or_default();
    ensure!(fault.starts_with("config"), "calm knows nothing of misbehaviour: {report}");

    let out = broker.sluice(&["policy", "replay", "no-such-capsule"])?;
    let problem = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(problem.contains("unknown_capsule") && out.status.code() == Some(4), "{problem}");
    let out = broker.sluice(&["policy", "replay", component])?;
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_was_never_uploaded_is_refused_by_its_digest() -> Result<()> {
    let broker = Broker::start()?;
    let refused = broker.admin(None)?.policy_component(&"0".repeat(64)).await;
    assert!(refused.is_err_and(|error| error.to_string().starts_with("unknown_policy: ")));
    Ok(())
}
