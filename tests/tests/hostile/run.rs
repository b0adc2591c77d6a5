//! Each case in turn beside a bystander, and the table of what it cost.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sluicegate_client::GroupName;
use sluicegate_client::admin::{ActivatePolicy, Admin, GroupStats};
use sluicegate_tests::openmetrics::Page;
use sluicegate_tests::traffic::{Rate, Seen, Traffic, percentile};
use sluicegate_tests::{Broker, PATIENCE, policy};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::ALONE;
use crate::cases::{CASES, Case, Expected, HARMLESS, LONG_CASES};

/// How long a case lasts, unless the environment says otherwise.
const WINDOW: Duration = Duration::from_millis(250);
/// A policy that was taken away is activated again so soon: it does harm for as long as its case lasts.
const INSIST_EVERY: Duration = Duration::from_millis(50);
/// What a case may add to the broker's memory at its peak: many instances of 16 MiB, for a moment.
const PEAK_BYTES_MAX: u64 = 160 << 20;
/// What all cases together may leave.
const LEFT_BYTES_MAX: u64 = 160 << 20;

/// A stretch of time.
#[derive(Debug, Clone, Copy)]
struct Stretch(Instant, Instant);

/// What is known of a case when it is over.
struct Outcome {
    name: &'static str,
    strikes: u64,
    cause: String,
    without: Stretch,
    with: Stretch,
    memory_before: u64,
    memory_peak: u64,
}

fn window() -> Result<Duration> {
    match std::env::var("SLUICE_HOSTILE_SECONDS") {
        Ok(seconds) => Ok(Duration::from_secs_f64(seconds.parse()?)),
        Err(_) => Ok(WINDOW),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_policy_does_its_group_is_served_and_others_do_not_notice() -> Result<()> {
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let broker = Broker::start_with_log(&log)?;
    let admin = broker.admin(None)?;
    let digest = admin.push_policy(policy("hostile")).await?.digest;
    let mut bystander = Traffic::new(&broker, "bystander", Rate::CALM).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let bystanding: JoinHandle<Result<Traffic>> = tokio::spawn(async move {
        let stopped = async {
            // It is dropped unused when the last case is over.
            drop(stopped.await);
            Ok(())
        };
        bystander.go_on(Duration::ZERO, stopped).await?;
        bystander.drain().await?;
        Ok(bystander)
    });
    let before = broker.memory_bytes("VmRSS")?;
    let world = World { broker: &broker, admin: &admin, digest: &digest, log: &log, window: window()? };
    let mut outcomes = Vec::new();
    let long_cases = LONG_CASES.iter().filter(|_| world.window > WINDOW);
    for (number, case) in CASES.iter().chain(long_cases).enumerate() {
        let outcome = world.run(case, number).await;
        outcomes.push(outcome.with_context(|| case.name)?);
    }
    drop(stop);
    let bystander = bystanding.await?.context("the bystander")?;
    let after = broker.memory_bytes("VmRSS")?;
    println!("{}", table(&outcomes, bystander.seen()));
    println!("memory: {} MiB before, {} MiB after all cases", before >> 20, after >> 20);
    for outcome in &outcomes {
        let grown = outcome.memory_peak.saturating_sub(outcome.memory_before);
        ensure!(grown < PEAK_BYTES_MAX, "{}: the broker's memory rose by {} MiB", outcome.name, grown >> 20);
    }
    ensure!(after < before + LEFT_BYTES_MAX, "the broker's memory went from {before} to {after} bytes");
    Ok(())
}

struct World<'a> {
    broker: &'a Broker,
    admin: &'a Admin,
    /// Of the hostile policy.
    digest: &'a str,
    log: &'a Path,
    window: Duration,
}

impl World<'_> {
    async fn run(&self, case: &Case, number: usize) -> Result<Outcome> {
        let mut traffic = Traffic::new(self.broker, &format!("victim-{number}"), case.rate).await?;
        let begin = Instant::now();
        traffic.go_on(self.window, async { Ok(()) }).await?;
        let without = Stretch(begin, Instant::now());
        traffic.drain().await?;

        let starts_cold = matches!(case.expected, Expected::StartsCold(_));
        if starts_cold {
            let harmless = ActivatePolicy { digest: self.digest.into(), config: HARMLESS.into() };
            self.admin.activate_policy(traffic.group(), &harmless).await?;
            traffic.go_on(self.window, async { Ok(()) }).await?;
        }
        let memory_before = self.broker.memory_bytes("VmRSS")?;
        self.broker.forget_memory_peak()?;
        let logged = std::fs::metadata(self.log)?.len();
        let begin = Instant::now();
        let wanted = ActivatePolicy { digest: self.digest.into(), config: case.config.into() };
        let activated = self.admin.activate_policy(traffic.group(), &wanted).await;
        if let Expected::NotActivated(causes) = case.expected {
            let refused = activated.err().context("it was activated")?.to_string();
            names_one(&refused, causes)?;
            traffic.go_on(self.window, async { Ok(()) }).await?;
            traffic.drain().await?;
            ensure!(self.admin.group(traffic.group()).await?.policy.is_none(), "it is bound all the same");
            return self.outcome(case, 0, refused, without, Stretch(begin, Instant::now()), memory_before);
        }
        let activation = activated?;
        ensure!(!(starts_cold && activation.state_carried), "it has the state all the same");
        let group = traffic.group().clone();
        let (admin, insisting) = (self.admin.clone(), Insisting { wanted, group: group.clone() });
        let is_struck = matches!(case.expected, Expected::Struck(_));
        let (stop, stopped) = oneshot::channel();
        let insisting = tokio::spawn(async move { insisting.until(&admin, stopped).await });
        let struck = async {
            while is_struck && self.stats(&group).await?.policy_strikes == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        let patience = PATIENCE + 2 * self.window;
        tokio::time::timeout(patience, traffic.go_on(self.window, struck)).await.context("it was never struck")??;
        drop(stop);
        insisting.await??;
        let with = Stretch(begin, Instant::now());
        if matches!(case.expected, Expected::Held) {
            ensure!((traffic.seen().len() as u64) < traffic.sent(), "nothing was held");
            self.admin.deactivate_policy(&group).await?;
        }
        traffic.drain().await?;
        self.judge(case, &group, logged, without, with, memory_before).await
    }

    /// Holds what is told of the case against what was expected, and makes the policy free for the next.
    async fn judge(
        &self,
        case: &Case,
        group: &GroupName,
        logged: u64,
        without: Stretch,
        with: Stretch,
        memory_before: u64,
    ) -> Result<Outcome> {
        let strikes = self.stats(group).await?.policy_strikes;
        let metrics = Page::parse(&self.admin.metrics().await?)?;
        let counted = metrics.count("sluicegate_policy_strikes_total", &[("group", group.as_str())])?;
        ensure!(counted >= strikes, "{counted} strikes in the metrics, {strikes} in the group");
        let log = std::fs::read(self.log)?;
        let log = std::str::from_utf8(&log[usize::try_from(logged)?..])?;
        let is_forged = |line: &str| line.starts_with("2038") || line.chars().any(|c| c.is_control() && c != '\t');
        let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        let line_max = lines.iter().map(|line| line.len()).max().unwrap_or(0);
        if let Some(forged) = lines.iter().map(|line| uncoloured(line)).find(|line| is_forged(line)) {
            bail!("a policy wrote `{}` into the log", forged.escape_debug());
        }
        ensure!(line_max < 4 << 10, "a policy wrote a line of {line_max} bytes");
        let struck: Vec<_> = lines.iter().filter(|line| line.contains(group.as_str())).collect();
        let history = self.admin.policy_history(group).await?;
        let because = history.iter().find_map(|change| change.because.clone());
        let quarantined = self.admin.policies().await?.into_iter().find_map(|policy| policy.quarantine);
        let said = because.clone().or(quarantined.map(|quarantine| quarantine.cause));
        match case.expected {
            Expected::Struck(causes) => {
                ensure!(strikes > 0, "it was not struck");
                ensure!(
                    struck.iter().any(|line| names_one(line, causes).is_ok()),
                    "the log does not name the cause: {struck:?}"
                );
                if let Some(because) = &because {
                    names_one(because, causes)?;
                }
            }
            Expected::Served | Expected::Held => {
                ensure!(strikes == 0, "it was struck {strikes} times: {struck:?}");
            }
            Expected::StartsCold(causes) => {
                ensure!(strikes == 0, "it was struck {strikes} times: {struck:?}");
                let is_cold = |line: &&&str| line.contains("starts cold") && names_one(line, causes).is_ok();
                ensure!(struck.iter().any(is_cold), "the log does not name the cause: {struck:?}");
            }
            Expected::ServedOrStruck => {}
            Expected::NotActivated(_) => bail!("it was activated"),
        }
        // Back to nobody's, so that the next case may use it.
        self.admin.deactivate_policy(group).await?;
        release(self.admin, self.digest).await?;
        self.outcome(case, strikes, said.unwrap_or_default(), without, with, memory_before)
    }

    async fn stats(&self, group: &GroupName) -> Result<GroupStats> {
        Ok(self.admin.group(group).await?.stats)
    }

    fn outcome(
        &self,
        case: &Case,
        strikes: u64,
        said: String,
        without: Stretch,
        with: Stretch,
        memory_before: u64,
    ) -> Result<Outcome> {
        let memory_peak = self.broker.memory_bytes("VmHWM")?;
        Ok(Outcome { name: case.name, strikes, cause: said, without, with, memory_before, memory_peak })
    }
}

/// An operator who does not believe what the broker says of a policy.
struct Insisting {
    wanted: ActivatePolicy,
    group: GroupName,
}

impl Insisting {
    async fn until(self, admin: &Admin, mut stopped: oneshot::Receiver<()>) -> Result<()> {
        loop {
            let stop = tokio::time::timeout(INSIST_EVERY, &mut stopped).await;
            if stop.is_ok() {
                return Ok(());
            }
            let bound = admin.group(&self.group).await?.policy;
            let decides =
                bound.is_some_and(|bound| bound.digest == self.wanted.digest && bound.suspended_because.is_none());
            if !decides {
                release(admin, &self.wanted.digest).await?;
                // It may be in quarantine again by then, or fail as it starts.
                drop(admin.activate_policy(&self.group, &self.wanted).await);
            }
        }
    }
}

/// Takes the policy out of quarantine, if it is there.
async fn release(admin: &Admin, digest: &str) -> Result<()> {
    let policies = admin.policies().await?;
    if policies.iter().any(|policy| policy.digest == digest && policy.quarantine.is_some()) {
        admin.release_policy(digest).await?;
    }
    Ok(())
}

pub(crate) fn names_one(text: &str, causes: &[&str]) -> Result<()> {
    ensure!(causes.iter().any(|cause| text.contains(cause)), "`{text}` names none of {causes:?}");
    Ok(())
}

/// Without the colours that the broker itself writes.
fn uncoloured(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        text.push_str(digits.strip_prefix('m').unwrap_or(part));
        if !digits.starts_with('m') {
            text.insert(0, '\x1b');
        }
    }
    text
}

fn table(outcomes: &[Outcome], seen: &[Seen]) -> String {
    let mut text = String::from(
        "\nThe bystander's latency without and with each policy, the broker's memory, and what became of the policy:\n\
         policy                     dispatch p99     end to end p99   memory peak  strikes  cause\n",
    );
    let of = |stretch: Stretch, what: fn(&Seen) -> Duration| {
        let seen = seen.iter().filter(|seen| stretch.0 <= seen.sent && seen.sent < stretch.1);
        percentile(seen.map(what), 99).as_secs_f64() * 1e3
    };
    let mut rises = Vec::new();
    for outcome in outcomes {
        let dispatch = [outcome.without, outcome.with].map(|stretch| of(stretch, |seen| seen.dispatch));
        let end_to_end = [outcome.without, outcome.with].map(|stretch| of(stretch, |seen| seen.end_to_end));
        rises.push((dispatch[1] - dispatch[0], end_to_end[1] - end_to_end[0]));
        let grown = outcome.memory_peak.saturating_sub(outcome.memory_before) as f64 / f64::from(1 << 20);
        let cause: String = outcome.cause.chars().take(60).collect();
        let _ = writeln!(
            text,
            "{:26} {:6.2} {:6.2} ms {:7.2} {:7.2} ms {grown:8.1} MiB {:8}  {cause}",
            outcome.name, dispatch[0], dispatch[1], end_to_end[0], end_to_end[1], outcome.strikes,
        );
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let dispatch = median(rises.iter().map(|rise| rise.0).collect());
    let end_to_end = median(rises.iter().map(|rise| rise.1).collect());
    let _ = write!(
        text,
        "median rise of the p99: dispatch {dispatch:+.2} ms, end to end {end_to_end:+.2} ms (goal: at most +0.3 ms)"
    );
    text
}
