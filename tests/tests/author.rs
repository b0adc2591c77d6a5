//! A policy's author has the `sluice` binary and stock Rust: begins, tests, builds, checks, simulates and activates, outside of this
//! repository and without a network.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluicegate_client::Message;
use sluicegate_client::admin::{GroupSettings, TopicSettings};
use sluicegate_tests::stock_rust::{answer, command, ran};
use sluicegate_tests::{Broker, sluice};

const TEMPLATES: [&str; 5] = ["token-bucket", "fair-share", "busy-idle", "deadline", "adaptive"];

fn begin(folder: &Path, name: &str, template: &str) -> Result<PathBuf> {
    answer(folder, &["policy", "new", name, "--template", template])?;
    Ok(folder.join(name))
}

#[test]
fn every_template_is_tested_built_and_checked_by_stock_rust() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let shared = begin(folder.path(), "shared", TEMPLATES[0])?;
    for template in TEMPLATES {
        // One crate after the other in the same place: what they differ by is their code.
        let own = begin(folder.path(), template, template)?;
        std::fs::copy(own.join("src/lib.rs"), shared.join("src/lib.rs"))?;
        let tested = ran(command("cargo", &shared).args(["test", "--release"])).context(template)?;
        let text = String::from_utf8_lossy(&tested.stdout);
        ensure!(text.contains("test tests::") && !text.contains("warning"), "{template}: {text}");
        let built = answer(&shared, &["policy", "build", "."])?;
        let imports = built["imports"].as_array().context("imports")?;
        let own = |import: &Value| import.as_str().is_some_and(|name| name.starts_with("sluicegate:policy/"));
        ensure!(!imports.is_empty() && imports.iter().all(own) && built["contract"] == "0.1.0", "{built}");
        let fuel: Vec<u64> =
            built["fuel"].as_array().context("fuel")?.iter().filter_map(|row| row["per_lite_topic"].as_u64()).collect();
        ensure!(fuel.len() == 3 && fuel[2] < 4_000, "{template}: {fuel:?}");
        let checked = answer(&shared, &["policy", "check", "shared.wasm"]).context(template)?;
        ensure!(checked["holds"] == true, "{template}: {checked}");
    }
    Ok(())
}

#[test]
fn a_component_does_not_depend_on_where_it_was_built() -> Result<()> {
    let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut digests = Vec::new();
    for folder in [one.path().to_owned(), other.path().join("elsewhere").join("deep")] {
        std::fs::create_dir_all(&folder)?;
        let policy = begin(&folder, "mine", "deadline")?;
        let built = answer(&policy, &["policy", "build", ".", "--out", "x.wasm"])?;
        let wasm = std::fs::read(policy.join("x.wasm"))?;
        let place = folder.display().to_string();
        ensure!(!wasm.windows(place.len()).any(|window| window == place.as_bytes()), "it names {place}");
        digests.push(built["digest"].clone());
    }
    ensure!(digests[0] == digests[1], "{digests:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_empty_folder_to_a_group() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let policy = begin(folder.path(), "first-policy", "token-bucket")?;
    let built = answer(folder.path(), &["policy", "build", "first-policy"])?;
    let component = policy.join("first-policy.wasm");
    ensure!(component.is_file() && !policy.join("target").exists(), "{built}");

    let checked =
        answer(folder.path(), &["policy", "check", "first-policy/first-policy.wasm", "--native", "first-policy"])?;
    ensure!(checked["claims"].as_array().is_some_and(|claims| claims.len() == 5), "{checked}");

    let trace = folder.path().join("trace.csv");
    let lines = (0..240).map(|n| format!("2023-11-16 18:{:02}:{:02}.0000000,{},40\n", n / 60, n % 60, 500 + n));
    std::fs::write(&trace, format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{}", lines.collect::<String>()))?;
    let against = r#"first-policy/first-policy.wasm={"rate_per_second": 50, "burst": 600}"#;
    let simulate = ["policy", "simulate", "--trace", "trace.csv", "--against", "fair", "--against", against];
    let simulated = answer(folder.path(), &simulate)?;
    let (fair, own) = (&simulated["runs"][0], &simulated["runs"][1]);
    ensure!(own["throttled"].as_u64() > Some(0) && own["digest"] != fair["digest"], "{simulated}");
    ensure!(folder.path().join("sluicegate-simulation.html").is_file());
    ensure!(answer(folder.path(), &simulate)?["runs"] == simulated["runs"], "the same again is something else");

    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let component = component.to_str().context("temporary paths are UTF-8")?;
    let pushed: Value = serde_json::from_slice(&broker.sluice(&["policy", "push", component, "-o", "json"])?.stdout)?;
    ensure!(pushed["digest"] == built["digest"], "{pushed}");
    let digest = pushed["digest"].as_str().context("a digest")?;
    let activated = broker.sluice(&["policy", "activate", group.as_str(), digest])?;
    ensure!(activated.status.success(), "{}", String::from_utf8_lossy(&activated.stderr));
    broker.client().producer(topic).connect().await?.send(Message::to("ada")?.cost(10)).await?;
    let consumed = broker.sluice(&["consume", group.as_str(), "-n", "1"])?;
    ensure!(consumed.status.success(), "{}", String::from_utf8_lossy(&consumed.stderr));
    let stats = broker.admin(None)?.group(&group).await?.stats;
    ensure!(stats.policy_frames > 0 && stats.policy_strikes == 0, "{stats:?}");
    Ok(())
}

#[test]
fn wrong_input_says_what_was_expected_and_wcommand() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("bad.csv"), "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1\n")?;
    std::fs::write(folder.path().join("bad.wasm"), "nonsense")?;
    let refused = |arguments: &[&str], expected: &str| {
        let output = command(sluice(), folder.path()).args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(
            output.status.code() == Some(2) && text == format!("sluice: {expected}"),
            "{:?}: {text}",
            output.status
        );
        Ok(())
    };
    refused(
        &["policy", "simulate", "--trace", "bad.csv", "--against", "fair"],
        "bad.csv:2: expected 3 fields `TIMESTAMP,ContextTokens,GeneratedTokens`, found 2: `2023-11-16 18:17:03,1`",
    )?;
    refused(
        &["policy", "check", "bad.wasm"],
        "bad.wasm: this is not Wasm: upload the .wasm file that `sluice policy build` writes",
    )?;
    refused(
        &["policy", "check", "bad.wasm", "--config", "{\"a\":\n]"],
        "2:1: the configuration is no JSON: expected value at line 2 column 1",
    )?;
    refused(
        &["policy", "new", "My Policy"],
        "`My Policy` is no name of a policy: 1 to 64 of a-z 0-9 `-` `_`, beginning with a letter",
    )
}
