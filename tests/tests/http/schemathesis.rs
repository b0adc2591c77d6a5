//! What the OpenAPI document says, held against the running server by schemathesis.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sluicegate_client::GroupName;
use sluicegate_client::TopicName;
use sluicegate_client::admin::{CreateGroup, CreateTopic, GroupSettings, TopicSettings};
use sluicegate_tests::{Broker, python};

use super::log;

/// Requests of each route that are drawn.
const DRAWN: &str = "20";

/// A broker that lets nobody in without a token, by the certificate that a development broker made.
fn strict() -> Result<(tempfile::TempDir, Broker)> {
    let folder = tempfile::tempdir()?;
    let development = Broker::start()?;
    for file in ["dev-cert.pem", "dev-key.pem"] {
        std::fs::copy(development.data_dir().join(file), folder.path().join(file))?;
    }
    let digest = <sha2::Sha256 as sha2::Digest>::digest("all");
    let path = folder.path();
    let config = format!(
        "[tls]\ncertificate = '{}'\nkey = '{}'\n[[tokens]]\nname = \"all\"\nsha256 = \"{digest:x}\"\n\
         rights = [\"publish\", \"consume\", \"read\", \"admin\"]\n",
        path.join("dev-cert.pem").display(),
        path.join("dev-key.pem").display(),
    );
    std::fs::write(path.join("sluice.toml"), config)?;
    let config = path.join("sluice.toml");
    let broker = Broker::start_with(&["--config", config.to_str().context("temporary paths are UTF-8")?])?;
    Ok((folder, broker))
}

#[tokio::test]
async fn schemathesis_finds_nothing_that_is_otherwise_than_described() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let (folder, broker) = strict()?;
    let (admin, name) = (broker.admin(Some("all"))?, TopicName::parse("t")?);
    let replies = TopicName::parse("r")?;
    admin.create_topic(&CreateTopic { name: replies.clone(), settings: log(None) }).await?;
    let settings = TopicSettings { replies: Some(replies), ..log(None) };
    admin.create_topic(&CreateTopic { name: name.clone(), settings }).await?;
    admin.create_group(&CreateGroup::new(GroupName::parse("g")?, name, GroupSettings::default())).await?;
    let mut run = Command::new(python.with_file_name("schemathesis"));
    run.args(["run", "--phases", "coverage,fuzzing", "--max-examples", DRAWN, "--seed", "1", "--no-color"]);
    run.args(["--generation-database", "none", "--request-timeout", "30"]);
    // A stream of events waits for what is to come, and has tests of its own.
    run.args(["--exclude-path-regex", "/stream$"]);
    // The document does not have every rule of names, ids and what excludes what: a request that it allows may be refused.
    run.args(["--exclude-checks", "positive_data_acceptance"]);
    run.args(["-H", "Authorization: Bearer all", "--tls-verify"]).arg(folder.path().join("dev-cert.pem"));
    run.arg(format!("{}/v1/openapi.json", broker.http_url()));
    run.current_dir(folder.path()).stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || run.output()).await??;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    ensure!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    // All but the stream, and none that was only skipped.
    ensure!(said.contains("Tested: 13"), "{said}");
    eprintln!("{}", said.lines().rfind(|line| line.contains("generated")).unwrap_or_default().trim());
    Ok(())
}
