//! What somebody uploads as a policy is compiled beside the broker: whatever it does to the compiler, all else goes on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_client::admin::{
    ActivatePolicy, Admin, AdminError, CreateTopic, ErrorBody, GroupSettings, Policy, TopicSettings,
};
use sluicegate_client::{Consumer, Message, TopicName};
use sluicegate_protocol::ErrorCode;
use sluicegate_tests::component::{EMPTY, with_instances};
use sluicegate_tests::{Broker, PATIENCE, bombs, policy};

/// Makes a compiler work for as long as it is let.
fn endless() -> Result<Vec<u8>> {
    endless_of_its_own(0)
}

/// The same with another digest each.
fn endless_of_its_own(n: u32) -> Result<Vec<u8>> {
    with_instances(EMPTY, &bombs::locals(10_000 + n, 50_000), 1)
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, AdminError>) -> Result<ErrorBody> {
    match answer {
        Err(AdminError::Refused(body)) => Ok(body),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

/// Waits until the broker compiles something, or nothing.
async fn workers_become(broker: &Broker, workers: usize) -> Result<()> {
    let looked = async {
        while broker.children()?.len() != workers {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, looked).await.with_context(|| format!("there are never {workers} workers"))?
}

fn pushing(admin: &Admin, component: Vec<u8>) -> tokio::task::JoinHandle<Result<Policy, AdminError>> {
    let admin = admin.clone();
    tokio::spawn(async move { admin.push_policy(component).await })
}

async fn next(consumer: &mut Consumer) -> Result<()> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??.ack().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_components_are_refused_or_taken_and_hurt_nobody() -> Result<()> {
    const ROUNDS: u64 = 40;
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let whole = policy("calm");
    for seed in 0..ROUNDS {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..20) {
            let at = random.random_range(8..bytes.len());
            bytes[at] = random.random();
        }
        if random.random_bool(0.2) {
            bytes.truncate(random.random_range(8..whole.len()));
        }
        match admin.push_policy(bytes).await {
            Ok(_) => {}
            Err(AdminError::Refused(body)) => assert_eq!(body.code, ErrorCode::PolicyRejected, "seed {seed}: {body:?}"),
            Err(other) => anyhow::bail!("seed {seed}: {other}"),
        }
    }
    admin.push_policy(whole).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_which_limit_was_met() -> Result<()> {
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let time = refusal(admin.push_policy(endless()?).await)?;
    assert_eq!(
        time.message,
        "the component does not compile: it takes more than 10 s of processor time, or 40 s in all"
    );
    let memory = refusal(admin.push_policy(with_instances(EMPTY, &bombs::loops(20_000, 20_000), 1)?).await)?;
    assert_eq!(memory.message, "the component does not compile: it takes more than 1073741824 bytes of memory");
    let memories = refusal(admin.push_policy(with_instances(EMPTY, &bombs::memory(1), 2)?).await)?;
    assert_eq!(memories.message, "the component has 2 memories, at most 1 are allowed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_waits_for_a_compile_least_of_all_the_kill_switch() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let [calm, hostile] = [admin.push_policy(policy("calm")).await?, admin.push_policy(policy("hostile")).await?];
    // Each frame of it uses all the fuel that it may.
    let greedy = ActivatePolicy { digest: hostile.digest, config: r#"{"misbehave":"spin","always":true}"#.into() };
    admin.activate_policy(&group, &greedy).await?;
    let push = pushing(&admin, endless()?);
    workers_become(&broker, 1).await?;

    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("session")?).await?;
    assert_eq!(admin.deactivate_policy(&group).await?.policy, None);
    admin.create_topic(&CreateTopic { name: TopicName::parse("more")?, settings: TopicSettings::default() }).await?;
    admin.pause_group(&group).await?;
    // One that is compiled already is activated, too.
    let calm = ActivatePolicy { digest: calm.digest, config: String::new() };
    assert!(admin.activate_policy(&group, &calm).await?.policy.is_some());
    let out = tokio::task::block_in_place(|| broker.sluice(&["policy", "deactivate", "g"]))?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!push.is_finished(), "the compile ended before the changes");
    assert_eq!(broker.children()?.len(), 1);

    push.abort();
    workers_become(&broker, 0).await?;
    let by: Vec<_> = admin.policy_history(&group).await?.into_iter().map(|change| change.digest.is_some()).collect();
    assert_eq!(by[..2], [false, true]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_uses_all_it_may_is_switched_off_under_load() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let digest = admin.push_policy(policy("hostile")).await?.digest;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    for round in 0..5 {
        let greedy = ActivatePolicy { digest: digest.clone(), config: r#"{"misbehave":"spin","always":true}"#.into() };
        // After three strikes in a minute it is in quarantine.
        while admin.activate_policy(&group, &greedy).await.is_err() {
            admin.release_policy(&digest).await?;
        }
        for lite in 0..2 {
            producer.send(Message::to(&format!("session-{round}-{lite}"))?).await?;
        }
        assert_eq!(admin.deactivate_policy(&group).await?.policy, None);
        for _ in 0..2 {
            next(&mut consumer).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_compiles_at_a_time_and_few_wait() -> Result<()> {
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let mut pushes: Vec<_> = (0..9).map(|n| Ok(pushing(&admin, endless_of_its_own(n)?))).collect::<Result<_>>()?;
    // None of them is compiled before the patience of this test ends, so one has no place to wait in.
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(at) = pushes.iter().position(tokio::task::JoinHandle::is_finished) {
                let body = refusal(pushes.swap_remove(at).await?)?;
                if body.code == ErrorCode::LimitReached {
                    return anyhow::Ok(body);
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let refused = refused.await.context("nobody is refused")??;
    assert_eq!((refused.detail["limit"].as_str(), refused.detail["max"].as_str()), ("policy uploads at once", "8"));
    assert!(refused.retry_after_ms.is_some());
    assert_eq!(broker.children()?.len(), 1);
    // Whoever hangs up wants nothing compiled any more.
    pushes.iter().for_each(tokio::task::JoinHandle::abort);
    workers_become(&broker, 0).await?;
    admin.push_policy(policy("calm")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_that_is_under_way_delays_no_shutdown() -> Result<()> {
    let mut broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let push = pushing(&admin, endless()?);
    workers_become(&broker, 1).await?;
    tokio::task::block_in_place(|| broker.stop())?;
    assert!(push.await?.is_err());
    Ok(())
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_compiles_nothing_unless_the_code_is_damaged() -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let mut broker = Broker::start()?;
    let (_, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let digest = admin.push_policy(policy("token-bucket")).await?.digest;
    admin.activate_policy(&group, &ActivatePolicy { digest: digest.clone(), config: String::new() }).await?;
    let cache = broker.data_dir().join("policy-cache");
    let files: Vec<_> =
        std::fs::read_dir(&cache)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    let [code] = &files[..] else { anyhow::bail!("one file is expected: {files:?}") };
    let name = code.file_name().context("it has a name")?.to_string_lossy().into_owned();
    ensure!(name.starts_with(&digest) && std::fs::metadata(code)?.permissions().mode().trailing_zeros() >= 6, "{name}");
    let (inode, bytes) = (std::fs::metadata(code)?.ino(), std::fs::read(code)?);

    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let is_bound = async |broker: &Broker| -> Result<bool> {
        let bound = broker.admin(None)?.group(&group).await?.policy.context("the policy is gone")?;
        Ok(bound.digest == digest && bound.suspended_because.is_none())
    };
    assert!(is_bound(&broker).await?);
    // What is compiled is written anew, under the same name.
    assert_eq!(std::fs::metadata(code)?.ino(), inode, "it was compiled again");

    let mut damaged = bytes.clone();
    *damaged.last_mut().context("it has bytes")? ^= 1;
    std::fs::write(code, &damaged)?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    assert!(is_bound(&broker).await?);
    assert_ne!(std::fs::metadata(code)?.ino(), inode, "damaged code was used");
    assert_ne!(std::fs::read(code)?, damaged);

    // Another broker's code is nobody's here.
    std::fs::remove_file(broker.data_dir().join("policy-cache.key"))?;
    let inode = std::fs::metadata(code)?.ino();
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    assert!(is_bound(&broker).await?);
    assert_ne!(std::fs::metadata(code)?.ino(), inode, "foreign code was used");
    Ok(())
}
