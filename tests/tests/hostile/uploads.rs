//! What is refused when it is uploaded, while a group is served.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluicegate_client::admin::{ActivatePolicy, Admin};
use sluicegate_protocol::limits::POLICY_BYTES_MAX;
use sluicegate_tests::component::replaced;
use sluicegate_tests::traffic::{Rate, Traffic};
use sluicegate_tests::{Broker, policy};
use tokio::time::Instant;

use crate::bombs::Fate;
use crate::cases::DESCRIPTIONS;
use crate::run::names_one;
use crate::{ALONE, bombs};

/// As the guest has it.
const AS_USUAL: &str = "describe=as-usual...............";
/// What a refusal says is for people to read.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// What all uploads together may leave, and what one may take at its peak: of a compiler's gibibyte the broker has nothing.
const LEFT_BYTES_MAX: u64 = 96 << 20;
const PEAK_BYTES_MAX: u64 = 128 << 20;

async fn refusal(admin: &Admin, component: Vec<u8>) -> Result<String> {
    let refused = admin.push_policy(component).await.err().context("it was taken")?.to_string();
    ensure!(refused.len() < REFUSAL_BYTES_MAX, "a refusal of {} bytes", refused.len());
    Ok(refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_misbehaves_as_it_describes_itself_is_refused_with_the_cause() -> Result<()> {
    let _alone = ALONE.lock().await;
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let hostile = policy("hostile");
    for (how, causes) in DESCRIPTIONS {
        let patch = format!("{:.<width$}", format!("describe={how}"), width = AS_USUAL.len());
        let refused =
            refusal(&admin, replaced(&hostile, AS_USUAL, &patch)?).await.with_context(|| (*how).to_owned())?;
        names_one(&refused, causes)?;
    }
    ensure!(admin.policies().await?.is_empty(), "something was taken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_and_chance_are_refused_when_they_are_uploaded() -> Result<()> {
    let _alone = ALONE.lock().await;
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    for import in ["wasi:clocks/wall-clock@0.2.0", "wasi:random/insecure@0.2.0-a"] {
        let component = replaced(&policy("hostile"), "sluicegate:policy/host@0.1.0", import)?;
        let refused = refusal(&admin, component).await.with_context(|| import.to_owned())?;
        ensure!(refused.contains(&format!("imports `{import}`")), "{refused}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn small_uploads_that_are_large_to_compile_cost_nobody_else() -> Result<()> {
    let _alone = ALONE.lock().await;
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let hostile = policy("hostile");
    let good = admin.push_policy(hostile.clone()).await?.digest;
    let mut traffic = Traffic::new(&broker, "served", Rate::CALM).await?;
    admin.activate_policy(traffic.group(), &ActivatePolicy { digest: good, config: String::new() }).await?;
    traffic.go_on(Duration::from_millis(200), async { Ok(()) }).await?;
    let before = broker.memory_bytes("VmRSS")?;
    println!("\nbomb                                    upload      taken     peak      wait max  answer");
    for (name, bomb, fate) in bombs::all(&hostile)? {
        let bytes = bomb.len();
        ensure!(bytes <= POLICY_BYTES_MAX, "{name}: {bytes} bytes are refused for their number");
        broker.forget_memory_peak()?;
        let at_first = broker.memory_bytes("VmRSS")?;
        let (begin, sent_before) = (Instant::now(), traffic.seen().len());
        let answer = traffic.go_on(Duration::ZERO, async { Ok(admin.push_policy(bomb).await) });
        let answer = answer.await.with_context(|| name.to_owned())?;
        let took = begin.elapsed();
        let grown = broker.memory_bytes("VmHWM")?.saturating_sub(at_first);
        ensure!(answer.is_err() || fate == Fate::Either, "{name}: it was taken");
        let answer = answer.map_or_else(|refused| refused.to_string(), |policy| format!("taken: {}", policy.name));
        ensure!(answer.starts_with("taken: ") || answer.starts_with("policy_rejected: "), "{name}: {answer}");
        ensure!(answer.len() < REFUSAL_BYTES_MAX, "{name}: a refusal of {} bytes", answer.len());
        let longest = traffic.seen()[sent_before..].iter().map(|seen| seen.end_to_end).max().unwrap_or_default();
        let answer: String = answer.chars().take(110).collect();
        println!("{name:36} {:7} kB {:8.0?} {:6} MiB {:10.1?}  {answer}", bytes / 1_000, took, grown >> 20, longest);
        ensure!(grown < PEAK_BYTES_MAX, "{name}: the broker's memory rose by {} MiB", grown >> 20);
    }
    traffic.drain().await?;
    let after = broker.memory_bytes("VmRSS")?;
    println!("memory: {} MiB before, {} MiB after all uploads", before >> 20, after >> 20);
    ensure!(after < before + LEFT_BYTES_MAX, "the broker's memory went from {before} to {after} bytes");
    let stats = admin.group(traffic.group()).await?.stats;
    ensure!(stats.policy_frames > 0 && stats.policy_strikes == 0, "{stats:?}");
    Ok(())
}
