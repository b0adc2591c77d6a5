//! Every bundled policy passes `sluice policy check`, configured in each way that makes it decide otherwise: hostile frames, determinism,
//! snapshots, limits, and the decisions of its native build.

use std::path::Path;

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

/// Each configuration of one of them.
fn passes(policy: &str) -> Result<()> {
    let own: Vec<_> = CASES.iter().filter(|(name, _)| *name == policy).collect();
    ensure!(!own.is_empty(), "{policy} has no configuration here");
    for (name, config) in own {
        let (holds, found) = checked(name, name, config)?;
        ensure!(holds && found.starts_with("12 groups"), "{name} {config}: {found}");
        ensure!(!found.contains(" 0 plans other"), "{name} {config} decides nothing: {found}");
        println!("{name} {config}: {found}");
    }
    Ok(())
}

#[test]
fn calm_passes_its_check_and_decides_the_same_natively() -> Result<()> {
    passes("calm")
}

#[test]
fn token_bucket_passes_its_check_and_decides_the_same_natively() -> Result<()> {
    passes("token-bucket")
}

#[test]
fn fair_share_passes_its_check_and_decides_the_same_natively() -> Result<()> {
    passes("fair-share")
}

#[test]
fn busy_idle_passes_its_check_and_decides_the_same_natively() -> Result<()> {
    passes("busy-idle")
}

#[test]
fn deadline_passes_its_check_and_decides_the_same_natively() -> Result<()> {
    passes("deadline")
}

#[test]
fn adaptive_passes_its_check_and_decides_the_same_natively() -> Result<()> {
    passes("adaptive")
}

#[test]
fn strict_tiers_passes_its_check_and_decides_the_same_natively() -> Result<()> {
    passes("strict-tiers")
}

#[test]
fn a_native_build_that_decides_otherwise_is_found() -> Result<()> {
    let (holds, found) = checked("token-bucket", "calm", "")?;
    ensure!(!holds && found.starts_with("other decisions with seed 1"), "{found}");
    Ok(())
}
