//! Every bundled policy passes `sluice policy check`, configured in each way that makes it decide otherwise: hostile frames, determinism,
//! snapshots, limits, and the decisions of its native build.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, available_parallelism};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluicegate_tests::stock_rust::command;
use sluicegate_tests::{policy_file, sluice};

const CLAIM: &str = "its native build decides the same";

/// Policies and configurations. What is drawn has tenants `org/team/N` and `user-N`, tiers `gold`, `vip`, `free`, `trial`, and batch work.
const CASES: [(&str, &str); 13] = [
    ("calm", ""),
    ("token-bucket", r#"{"rate_per_second":30,"burst":60,"overrides":[{"tenant":"org/*","rate_per_second":2.5}]}"#),
    ("token-bucket", r#"{"rate_per_second":3,"burst":9,"unit":"messages"}"#),
    (
        "fair-share",
        r#"{"half_life_seconds":60,"tiers":[{"name":"gold","weight":9},{"name":"org","weight":3,"tenants":["org/*"]}]}"#,
    ),
    ("busy-idle", r#"{"busy_above":0.5,"idle_below":0.3}"#),
    ("busy-idle", r#"{"property_at_least":2,"priority_at_most":3,"windows":["22:14-23:00"]}"#),
    ("deadline", ""),
    ("deadline", r#"{"late":"drop","service_default_ms":900,"no_deadline_band":null}"#),
    ("adaptive", r#"{"retry_after":"tenant","window_ms":100}"#),
    ("adaptive", r#"{"measure":"per_cost","baseline_seconds":10}"#),
    ("strict-tiers", ""),
    (
        "strict-tiers",
        r#"{"tiers":[{"name":"vip"},{"name":"free","floor_percent":30},{"name":"rest","tenants":["org/*"],"floor_percent":20}]}"#,
    ),
    ("strict-tiers", r#"{"tiers":[{"name":"gold"},{"name":"rest"}],"window_deliveries":100}"#),
];

/// What `policy check` says of a component: of all of it, and what it found beside a native build.
fn checked(component: &str, native: &str, config: &str) -> Result<(bool, String)> {
    let folder = tempfile::tempdir()?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(native);
    let mut check = command(sluice(), folder.path());
    check.args(["policy", "check", "--frames", "50", "--config", config, "-o", "json", "--native"]).arg(sources);
    let output = check.arg(policy_file(component)).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    // With code 5 one of its claims does not hold; which of them is in its answer.
    ensure!(matches!(output.status.code(), Some(0 | 5)), "{component} {config}: {}: {text}", output.status);
    let checked: Value = serde_json::from_slice(&output.stdout)?;
    let claims = checked["claims"].as_array().context("claims")?;
    let claim = claims.iter().find(|claim| claim["claim"] == CLAIM).context("it was held against no native build")?;
    let holds = claims
        .iter()
        .filter(|claim| claim["holds"] == false)
        .inspect(|claim| println!("{component} {config}: {claim}"));
    Ok((holds.count() == 0, claim["found"].as_str().context("what was found")?.to_owned()))
}

fn passes((policy, config): (&str, &str)) -> Result<()> {
    let (holds, found) = checked(policy, policy, config)?;
    ensure!(holds && found.starts_with("12 groups"), "{policy} {config}: {found}");
    ensure!(!found.contains(" 0 plans other"), "{policy} {config} decides nothing: {found}");
    println!("{policy} {config}: {found}");
    Ok(())
}

/// The cases that no other thread has taken yet.
fn pass_some(next: &AtomicUsize) -> Result<()> {
    std::iter::from_fn(|| CASES.get(next.fetch_add(1, Ordering::Relaxed))).try_for_each(|case| passes(*case))
}

#[test]
fn each_policy_passes_its_check_and_decides_the_same_natively() -> Result<()> {
    let (next, threads) = (AtomicUsize::new(0), available_parallelism()?.get());
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| pass_some(&next))).collect();
        running.into_iter().try_for_each(|thread| thread.join().expect("a check does not panic"))
    })
}

#[test]
fn a_native_build_that_decides_otherwise_is_found() -> Result<()> {
    let (holds, found) = checked("token-bucket", "calm", "")?;
    ensure!(!holds && found.starts_with("other decisions with seed 1"), "{found}");
    Ok(())
}
