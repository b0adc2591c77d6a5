//! The command line as a newcomer uses it, against a real broker.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluicegate_tests::{Broker, sluice};

fn json(broker: &Broker, arguments: &[&str]) -> Result<Value> {
    let out = broker.sluice(&[arguments, &["-o", "json"]].concat())?;
    ensure!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).with_context(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn topic_group_produce_and_consume_by_hand() -> Result<()> {
    let broker = Broker::start()?;
    json(&broker, &["topic", "create", "chat", "--tenant", "prefix"])?;
    let group = json(
        &broker,
        &["group", "create", "workers", "--topic", "chat", "--cost", "90000/min", "--messages", "100/s burst 20"],
    )?;
    assert_eq!(
        (&group["settings"]["quotas"]["cost"], &group["settings"]["quotas"]["messages"]),
        (&"90000/min".into(), &"100/s burst 20".into())
    );
    let published =
        json(&broker, &["produce", "chat", "ann/1", "--body", "hello", "--priority", "9", "--property", "k=v"])?;
    assert_eq!((&published["offset"], &published["created"]), (&0.into(), &true.into()));
    let consumed = json(&broker, &["consume", "workers", "-n", "1"])?;
    assert_eq!(
        [&consumed["lite"], &consumed["body"], &consumed["priority"], &consumed["properties"]["k"]],
        [&Value::from("ann/1"), &"hello".into(), &9.into(), &"v".into()]
    );
    let shown = json(&broker, &["group", "show", "workers"])?;
    assert_eq!((&shown["stats"]["acked"], &shown["topic"]), (&1.into(), &"chat".into()));
    let topics = json(&broker, &["topic", "list"])?;
    assert_eq!(topics.as_array().context("a list")?.len(), 2, "the topic and its dead-letter topic");
    let changed = json(&broker, &["group", "quota", "workers", "--cost", "5/s"])?;
    assert_eq!(
        (&changed["settings"]["quotas"]["cost"], &changed["settings"]["quotas"]["messages"]),
        (&"5/s".into(), &Value::Null)
    );
    Ok(())
}

#[test]
fn making_the_same_again_is_fine_and_something_else_is_refused() -> Result<()> {
    let broker = Broker::start()?;
    json(&broker, &["topic", "create", "chat"])?;
    json(&broker, &["topic", "create", "chat"])?;
    let out = broker.sluice(&["topic", "create", "chat", "--durability", "os"])?;
    assert_eq!(
        String::from_utf8_lossy(&out.stderr).trim(),
        "sluice: already_exists: topic `chat` exists with other settings"
    );
    assert_eq!(out.status.code(), Some(4));
    Ok(())
}

#[test]
fn a_broker_that_is_not_there_has_an_exit_code_of_its_own() -> Result<()> {
    let mut broker = Broker::start()?;
    broker.stop()?;
    let out = broker.sluice(&["topic", "list"])?;
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

#[test]
fn help_teaches() -> Result<()> {
    let out = std::process::Command::new(sluice()).arg("--help").output()?;
    let text = String::from_utf8(out.stdout)?;
    for word in ["sluice serve --dev", "Exit codes", "SLUICE_TOKEN", "policy", "demo"] {
        assert!(text.contains(word), "--help lacks {word}");
    }
    Ok(())
}

#[test]
fn the_environment_overrides_the_config_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sluice.toml");
    std::fs::write(&config, "drain_seconds = 3\nlisten = \"127.0.0.1:1\"\n")?;
    let out = std::process::Command::new(sluice())
        .args(["serve", "--dev", "--print-config", "--config"])
        .arg(&config)
        .env("SLUICE_SERVE_LISTEN", "127.0.0.1:2")
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    for line in ["drain_seconds = 3", "listen = \"127.0.0.1:2\"", "dev = true", "shards = 16"] {
        assert!(text.lines().any(|printed| printed == line), "{line} is not in:\n{text}");
    }
    Ok(())
}

#[test]
fn the_scheduler_bench_prints_a_row_for_each_number_of_lite_topics() -> Result<()> {
    let arguments =
        ["bench", "scheduler", "--lite-topics", "1k,2k", "--tenants", "each", "--blocks", "100", "-o", "json"];
    let out = std::process::Command::new(sluice()).args(arguments).output()?;
    let text = String::from_utf8(out.stdout)?;
    let first = "[{\"lite_topics\":1000,\"decisions_per_s\":";
    ensure!(text.starts_with(first), "{text}{}", String::from_utf8_lossy(&out.stderr));
    let rows: Value = serde_json::from_str(&text)?;
    let fields = "decisions_per_s ns_p50 ns_p99 bytes_per_ready bytes_per_held bytes_per_idle max_service_gap jain";
    for row in rows.as_array().context("an array")? {
        for field in fields.split(' ') {
            let unsupported = field.starts_with("bytes") && !cfg!(target_os = "linux");
            assert_eq!(row[field].is_number(), !unsupported, "{field} of {row}");
        }
    }
    assert_eq!((&rows[1]["lite_topics"], &rows[2]), (&2_000.into(), &Value::Null));
    Ok(())
}

#[test]
fn a_reader_that_wants_no_more_is_no_failure() -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = std::process::Command::new(sluice());
    let out = command.args(["serve", "--dev", "--print-config"]).stdout(writer).stderr(std::process::Stdio::piped());
    let out = out.spawn()?.wait_with_output()?;
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
    Ok(())
}
