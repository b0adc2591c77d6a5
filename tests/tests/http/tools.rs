//! Tools that people have.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use sluicegate_tests::Broker;

use super::{World, log};

fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs curl with these arguments against this broker; none where there is no curl, which is said.
pub(crate) fn curl(broker: &Broker) -> Option<impl Fn(&[&str]) -> Result<String>> {
    if !is_there("curl") {
        eprintln!("skipped: curl is not installed");
        return None;
    }
    let certificate = broker.data_dir().join("dev-cert.pem");
    Some(move |arguments: &[&str]| {
        run(Command::new("curl").args(["-sS", "--fail", "--cacert"]).arg(&certificate).args(arguments))
    })
}

#[tokio::test]
async fn curl_publishes_and_reads_a_stream() -> Result<()> {
    let world = World::start(log(None)).await?;
    let Some(curl) = curl(&world.broker) else { return Ok(()) };
    curl(&["-d", "Once upon", &world.url("messages?lite=chat/1")])?;
    curl(&["-d", "a time", &world.url("messages?lite=chat/1&end=1")])?;
    let told = curl(&["-N", &world.url("stream?lite=chat/1")])?;
    let data: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data[..2], ["Once upon", "a time"], "{told}");
    assert!(told.contains("event: end\nid: over\n"), "{told}");
    Ok(())
}

/// An EventSource of a few lines, by what Python has.
const PYTHON: &str = r#"
import ssl, sys, urllib.request
trust, url = ssl.create_default_context(cafile=sys.argv[1]), sys.argv[2]
last, texts = "", []
while True:
    request = urllib.request.Request(url, headers={"Accept": "text/event-stream", "Last-Event-ID": last})
    answer = urllib.request.urlopen(request, context=trust, timeout=30)
    if answer.status == 204:
        break
    name, data = "message", []
    for line in answer:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "id": last = value
        if field == "event": name = value
        if field == "data": data.append(value)
        if field == "" and data:
            if name == "message":
                texts.append("\n".join(data))
                if len(texts) == 2: break   # a connection that is lost
            name, data = "message", []
print("|".join(texts))
"#;

#[tokio::test]
async fn an_event_source_in_python_goes_on_and_comes_to_its_end() -> Result<()> {
    if !is_there("python3") {
        eprintln!("skipped: python3 is not installed");
        return Ok(());
    }
    let world = World::start(log(None)).await?;
    for text in ["one", "two", "three"] {
        world.publish("lite=a", text).await?;
    }
    world.publish("lite=a&end=1", "four").await?;
    let mut python = Command::new("python3");
    python.args(["-c", PYTHON]).arg(world.broker.data_dir().join("dev-cert.pem")).arg(world.url("stream?lite=a"));
    let seen = tokio::task::spawn_blocking(move || run(&mut python)).await??;
    assert_eq!(seen.trim(), "one|two|three|four");
    Ok(())
}
