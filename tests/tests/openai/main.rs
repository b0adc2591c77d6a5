//! The door of `examples/openai` against a real broker: what it checks itself, the unmodified `openai` package, and processes that are
//! killed in the middle of an answer.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluicegate_client::admin::Cause;
use sluicegate_client::{GroupName, TopicName};
use sluicegate_tests::{Broker, python, sluice};

/// A process that ends with this, and what it prints.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        Ok(Self { child, lines })
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().context("it ended")??)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin is piped")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    fn end_well(mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A part of the example in a process of its own.
fn part(broker: &Broker, arguments: &[&str]) -> Result<Running> {
    let mut command = Command::new(sluice().with_file_name("sluicegate-example-openai"));
    command.args(arguments).env("SLUICE_BROKER", broker.address()).env("SLUICE_ADMIN", broker.admin_url());
    command.env("SLUICE_CERTIFICATE", broker.data_dir().join("dev-cert.pem"));
    Running::start(&mut command)
}

/// A door that lets two callers in, who may have two requests each, and where it is.
fn door(broker: &Broker, patience: &str) -> Result<(Running, String)> {
    let options =
        ["--listen", "127.0.0.1:0", "--queue", "2", "--key", "anna", "--key", "berta", "--patience", patience];
    let mut door = part(broker, &[&["door"][..], &options].concat())?;
    let line = door.line()?;
    let base = line.strip_prefix("the door is open: ").context("it says where it is")?.to_owned();
    Ok((door, base))
}

/// The package in a process of its own, which does this.
fn caller(python: &Path, what: &str, doors: &[&str]) -> Result<Running> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/openai_door.py");
    Running::start(Command::new(python).arg(script).arg(what).args(doors))
}

#[test]
fn the_tour_holds_what_it_promises() -> Result<()> {
    let broker = Broker::start()?;
    let told = broker.example("openai", &[])?;
    for seen in ["the same \"chatcmpl-", "with Last-Event-ID: ", "58 59 60", "429, Retry-After: ", "16 were taken"] {
        ensure!(told.contains(seen), "no `{seen}` in:\n{told}");
    }
    Ok(())
}

#[test]
fn the_package_has_answers_streams_and_errors_and_goes_on_after_cuts() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let broker = Broker::start()?;
    let ((_door, base), (_other, other)) = (door(&broker, "60")?, door(&broker, "60")?);
    let _worker = part(&broker, &["worker", "--pace", "1"])?;
    for what in ["whole", "stream", "bad", "resume"] {
        caller(&python, what, &[&base, &other])?.end_well().context(what)?;
    }
    Ok(())
}

#[test]
fn one_that_nobody_answers_is_told_once_and_may_come_back() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let broker = Broker::start()?;
    let (_door, base) = door(&broker, "1")?;
    caller(&python, "late", &[&base])?.end_well()
}

#[tokio::test]
async fn a_full_queue_is_429_with_the_time_that_the_broker_explains() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let broker = Broker::start()?;
    let (_door, base) = door(&broker, "60")?;
    let (admin, topic, group) =
        (broker.admin(None)?, TopicName::parse("completions")?, GroupName::parse("completions.workers")?);
    let mut caller = caller(&python, "fill", &[&base])?;
    ensure!(caller.line()? == "full");
    let page = admin.lite_topics(&topic, &sluicegate_client::admin::Page::default()).await?;
    let lite = &page.lite_topics.first().context("the caller's lite topic")?.name;
    admin.suspend_lite(&group, lite, Duration::from_mins(5)).await?;
    let _worker = part(&broker, &["worker", "--pace", "1"])?;
    // Once a worker is there, nothing but the suspension keeps it back.
    let explained = async {
        loop {
            let explained = admin.explain(&group, lite).await?;
            match &explained.blockers[..] {
                [only] if matches!(only.cause, Cause::Suspended { .. }) => return anyhow::Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(sluicegate_tests::PATIENCE, explained).await??;
    caller.say("go on")?;
    let seconds: u64 = caller.line()?.parse()?;
    ensure!((100..=300).contains(&seconds), "Retry-After: {seconds}, and it is suspended for 300");
    caller.end_well()
}

#[test]
fn an_answer_goes_on_over_the_death_of_its_broker_and_of_its_worker() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let mut broker = Broker::start()?;
    let (_door, base) = door(&broker, "60")?;
    let worker = part(&broker, &["worker", "--pace", "10"])?;
    let mut caller = caller(&python, "long", &[&base])?;
    for number in 1..=300 {
        ensure!(caller.line()? == number.to_string(), "{number} is missing");
        if number == 50 {
            broker.crash_and_restart()?;
        }
        if number == 100 {
            break;
        }
    }
    // The next one has the lease when the broker has given the first one up.
    drop(worker);
    let _next = part(&broker, &["worker", "--pace", "1"])?;
    for number in 101..=300 {
        ensure!(caller.line()? == number.to_string(), "{number} is missing");
    }
    ensure!(caller.line()? == "done");
    caller.end_well()
}
