//! `sluice policy check`: whether a component stands what it may meet, and decides the same each time.
//!
//! Everything that is drawn is drawn from a seed that is printed. What is checked runs in the broker's own sandbox, with its limits.

mod frames;
mod native;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use sluicegate_broker::policy_lab::{LoadedPolicy, PolicyFault, PolicyLab, Trial};
use sluicegate_scheduler::simulation::{Decider, Drawn, Draws, Facts, Simulation};
use sluicegate_scheduler::{Answer, Ask, Plan, Verdict};

use self::frames::{Asks, Kind};
use super::sample::Numbered;
use super::sandbox;
use crate::clock::Clock;
use crate::exit::Violation;
use crate::output::{self, Format};

/// Restores that are tried.
const RESTORES: u64 = 24;
/// Asks after each restore whose answers must be the same.
const ASKS_AFTER_RESTORE: usize = 6;
/// Groups in virtual time that the native build and the component decide for.
const DRAWS: u64 = 12;
/// Largest asks whose time is measured.
const TIMED_ASKS: usize = 200;
/// The group's name that the simulation of the SDK tells, too.
const GROUP: &str = "simulation";

/// Tries a component with hostile frames, twice and against its native build, restores it, and measures it against the broker's limits.
///
/// Ends with code 5 if something does not hold. The seed that is printed repeats what was drawn.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The component, as `sluice policy build` wrote it.
    component: PathBuf,
    /// Its configuration: JSON, or the name of a file.
    #[arg(long, value_name = "CONFIG", default_value = "")]
    config: String,
    /// Folder of its crate: builds it natively and holds its decisions against the component's.
    #[arg(long, value_name = "DIR")]
    native: Option<PathBuf>,
    /// Decides what is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Hostile frames.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    frames: u64,
}

/// What was checked.
#[derive(Debug, Serialize)]
struct Checked {
    component: PathBuf,
    name: String,
    version: String,
    digest: String,
    seed: u64,
    holds: bool,
    claims: Vec<Claim>,
    limits: Option<Limits>,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the printed JSON")]
struct Claim {
    claim: &'static str,
    holds: bool,
    /// What was found.
    found: String,
}

/// What the largest ask took, of what it may take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Limits {
    rows: usize,
    feedback: usize,
    fuel: u64,
    fuel_max: u64,
    memory_bytes: usize,
    memory_bytes_max: usize,
    state_bytes: usize,
    state_bytes_max: usize,
    /// Of the largest asks, by row, on this machine.
    ns_per_row: Nanoseconds,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Nanoseconds {
    p50: u64,
    p99: u64,
}

impl Check {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<()> {
        let config = sandbox::config(&self.config)?;
        let policy = sandbox::load(&PolicyLab::open()?, &self.component)?;
        let subject = Subject { policy, config, seed: self.seed };
        // It starts with this configuration, or there is nothing to check.
        subject.start()?;
        let mut claims = vec![subject.stands_hostile_frames(self.frames)?, subject.is_deterministic(self.frames)?];
        claims.extend(subject.goes_on_from_its_state()?);
        if let Some(dir) = &self.native {
            claims.push(subject.decides_as_natively(dir)?);
        }
        let (claim, limits) = subject.keeps_to_limits()?;
        claims.push(claim);
        let descriptor = subject.policy.descriptor();
        let checked = Checked {
            component: self.component,
            name: descriptor.name.clone(),
            version: descriptor.version.clone(),
            digest: subject.policy.digest().to_owned(),
            seed: self.seed,
            holds: claims.iter().all(|claim| claim.holds),
            claims,
            limits,
        };
        output::print(format, &checked, Checked::to_string)?;
        match checked.claims.iter().find(|claim| !claim.holds) {
            Some(Claim { claim, found, .. }) => Err(Violation(format!("does not hold: {claim}: {found}")).into()),
            None => Ok(()),
        }
    }
}

/// A policy that is checked.
struct Subject {
    policy: LoadedPolicy,
    config: String,
    seed: u64,
}

impl Subject {
    fn start(&self) -> anyhow::Result<Trial> {
        sandbox::start(&self.policy, GROUP, self.seed, &self.config)
    }

    /// A fault is what must not be. After one a new instance goes on, so that others are found, too.
    fn stands_hostile_frames(&self, frames: u64) -> anyhow::Result<Claim> {
        let claim = "it answers hostile frames";
        let (mut asks, mut trial) = (Asks::new(self.seed), self.start()?);
        let mut faults: Vec<(u64, Kind, PolicyFault)> = Vec::new();
        for nth in 1..=frames {
            let (kind, ask) = asks.next();
            if let Err(fault) = trial.ask(&ask, &mut Numbered) {
                faults.push((nth, kind, fault));
                trial = self.start()?;
            }
        }
        let found = match faults.first() {
            None => format!("{frames} frames: random, extreme, empty, of strangers, largest"),
            Some((nth, kind, fault)) => {
                format!("{} of {frames} failed, the first is frame {nth} ({kind:?}): {fault}", faults.len())
            }
        };
        Ok(Claim { claim, holds: faults.is_empty(), found })
    }

    fn is_deterministic(&self, frames: u64) -> anyhow::Result<Claim> {
        let claim = "it decides the same twice, with the same fuel";
        let (mut one, mut other) = (self.start()?, self.start()?);
        let mut asks = Asks::new(self.seed ^ 1);
        for nth in 1..=frames {
            let (kind, ask) = asks.next();
            let answers = (one.ask(&ask, &mut Numbered), other.ask(&ask, &mut Numbered));
            let problem = match &answers {
                (Ok(a), Ok(b)) if a != b => Some("other plans"),
                // How far it came before the time was up depends on the machine.
                (Err(PolicyFault::Deadline { .. }), _) | (_, Err(PolicyFault::Deadline { .. })) => None,
                (Err(a), Err(b)) if a != b => Some("other faults"),
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => Some("one fault"),
                _ if one.fuel_used() != other.fuel_used() => Some("other fuel"),
                _ => None,
            };
            if let Some(problem) = problem {
                return Ok(Claim { claim, holds: false, found: format!("{problem} for frame {nth} ({kind:?})") });
            }
            if answers.0.is_err() || answers.1.is_err() {
                (one, other) = (self.start()?, self.start()?);
            }
        }
        Ok(Claim { claim, holds: true, found: format!("{frames} frames, two instances") })
    }

    /// Takes snapshots at moments that are drawn; the one that goes on and the one that is restored must answer alike.
    fn goes_on_from_its_state(&self) -> anyhow::Result<Option<Claim>> {
        let claim = "it goes on from its state as if nothing had happened";
        if self.policy.descriptor().state_schema == 0 {
            return Ok(None);
        }
        let mut draws = Draws::new(self.seed ^ 2);
        let (mut asks, mut before) = (Asks::new(self.seed ^ 3), self.start()?);
        let mut bytes = 0;
        for nth in 1..=RESTORES {
            for _ in 0..draws.up_to(40) {
                let ask = asks.of(if draws.up_to(3) == 0 { Kind::Extreme } else { Kind::Plain });
                if before.ask(&ask, &mut Numbered).is_err() {
                    before = self.start()?;
                }
            }
            let failed =
                |found: String| Ok(Some(Claim { claim, holds: false, found: format!("restore {nth}: {found}") }));
            let state = match before.snapshot() {
                Ok(Some(state)) => state,
                // It has nothing to keep at this moment.
                Ok(None) => continue,
                Err(fault) => return failed(format!("no snapshot: {fault}")),
            };
            bytes = state.data.len().max(bytes);
            let mut after = self.start()?;
            match after.restore(&state) {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => return failed(format!("it refuses its own state: {refusal}")),
                Err(fault) => return failed(fault.to_string()),
            }
            for nth_ask in 1..=ASKS_AFTER_RESTORE {
                let ask = asks.of(Kind::Plain);
                match (before.ask(&ask, &mut Numbered), after.ask(&ask, &mut Numbered)) {
                    (Ok(one), Ok(other)) if one == other => {}
                    (Ok(one), Ok(other)) => {
                        return failed(format!("ask {nth_ask} after it: {}", difference(&one, &other)));
                    }
                    (Err(fault), _) | (_, Err(fault)) => return failed(format!("ask {nth_ask} after it: {fault}")),
                }
            }
        }
        let found = format!("{RESTORES} restores, {ASKS_AFTER_RESTORE} asks after each, states up to {bytes} bytes");
        Ok(Some(Claim { claim, holds: true, found }))
    }

    fn decides_as_natively(&self, dir: &std::path::Path) -> anyhow::Result<Claim> {
        let claim = "its native build decides the same";
        let native = native::digests(dir, &self.config, self.seed, DRAWS)?;
        let (mut asked, mut decided) = (0, 0);
        for (seed, digest) in (self.seed..).zip(&native) {
            let drawn = Drawn::new(seed, &self.policy.descriptor().wants);
            let workload = drawn.workload();
            let mut trial = sandbox::start(&self.policy, GROUP, seed, &self.config)?;
            let mut decide = |ask: &Ask, facts: &Facts<'_>| {
                let plan = trial.ask(ask, &mut { facts }).map_err(|fault| fault.to_string())?;
                decided += u64::from(says_something(ask, &plan));
                Ok(plan)
            };
            let simulation = Simulation::new(drawn.group.clone());
            let report = simulation.run(workload.names(), workload.jobs(), Decider::Policy(&mut decide), Drawn::SPAN);
            if let Some(fault) = report.first_fault {
                return Ok(Claim { claim, holds: false, found: format!("a fault with seed {seed}: {fault}") });
            }
            if report.digest.to_string() != *digest {
                let found = format!("other decisions with seed {seed}: {} and natively {digest}", report.digest);
                return Ok(Claim { claim, holds: false, found });
            }
            asked += report.asks;
        }
        let holds = native.len() as u64 == DRAWS;
        let found = format!(
            "{} groups in virtual time, seeds from {}, {asked} frames, {decided} plans other than fair scheduling's",
            native.len(),
            self.seed
        );
        Ok(Claim { claim, holds, found })
    }

    /// What asks of the largest size take, when each of them brings names that the policy does not know.
    fn keeps_to_limits(&self) -> anyhow::Result<(Claim, Option<Limits>)> {
        let claim = "the largest frames keep to the limits";
        let (mut asks, mut trial, clock) = (Asks::new(self.seed ^ 4), self.start()?, Clock::start());
        let (mut fuel, mut times) = ((0, 1), Vec::new());
        for nth in 1..=TIMED_ASKS {
            let ask = asks.of(Kind::Largest);
            let begun = clock.now();
            if let Err(fault) = trial.ask(&ask, &mut Numbered) {
                let found = format!("largest frame {nth}: {fault}");
                return Ok((Claim { claim, holds: false, found }, None));
            }
            times.push(clock.now().since(begun));
            fuel = fuel.max((trial.fuel_used(), trial.fuel_max()));
        }
        let failed = |found: String| Ok((Claim { claim, holds: false, found }, None));
        let state = match trial.snapshot() {
            Ok(state) => state,
            Err(fault) => return failed(format!("the state: {fault}")),
        };
        if let Some(state) = &state
            && let Err(fault) = self.start()?.restore(state)
        {
            return failed(format!("going on from a state of {} bytes: {fault}", state.data.len()));
        }
        let state = state.map_or(0, |state| state.data.len());
        times.sort_unstable();
        let per_row = |place: usize| u64::try_from(times[place].as_nanos()).unwrap_or(u64::MAX) / Ask::LITES_MAX as u64;
        let limits = Limits {
            rows: Ask::LITES_MAX,
            feedback: Ask::FEEDBACK_MAX,
            fuel: fuel.0,
            fuel_max: fuel.1,
            memory_bytes: trial.memory_bytes(),
            memory_bytes_max: Trial::MEMORY_BYTES_MAX,
            state_bytes: state,
            state_bytes_max: Trial::STATE_BYTES_MAX,
            ns_per_row: Nanoseconds { p50: per_row(TIMED_ASKS / 2), p99: per_row(TIMED_ASKS * 99 / 100) },
        };
        let percent = |used: usize, max: usize| used * 100 / max;
        let found = format!(
            "{} % of the fuel, {} % of the memory, {} % of the state after {TIMED_ASKS} frames of {} rows",
            limits.fuel * 100 / limits.fuel_max,
            percent(limits.memory_bytes, limits.memory_bytes_max),
            percent(state, limits.state_bytes_max),
            limits.rows
        );
        Ok((Claim { claim, holds: true, found }, Some(limits)))
    }
}

/// Whether a plan is something else than to serve all as the scheduler does by itself, with the weights that it has.
fn says_something(ask: &Ask, plan: &Plan) -> bool {
    let serves = |answer: &Answer| matches!(answer.verdict, Verdict::Serve { band: None, .. });
    let weighs = plan.weights.iter().zip(&ask.frame.tenants).any(|(weight, tenant)| *weight != tenant.weight);
    plan.concurrency.is_some() || weighs || !plan.lites.iter().all(serves)
}

/// Where two plans differ first.
fn difference(one: &Plan, other: &Plan) -> String {
    let rows = one.lites.iter().zip(&other.lites).position(|(a, b)| a != b);
    let weights = one.weights.iter().zip(&other.weights).position(|(a, b)| a != b);
    match (rows, weights) {
        (Some(row), _) => format!("row {row} is {:?}, restored {:?}", one.lites[row], other.lites[row]),
        (None, Some(row)) => format!("weight {row} is {}, restored {}", one.weights[row], other.weights[row]),
        (None, None) => format!("concurrency is {:?}, restored {:?}", one.concurrency, other.concurrency),
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, digest, seed, component, .. } = self;
        writeln!(f, "{}: {name} {version}, digest {digest}, seed {seed}", component.display())?;
        for Claim { claim, holds, found } in &self.claims {
            write!(f, "\n  {}  {claim}: {found}", if *holds { "holds" } else { "FAILS" })?;
        }
        let Some(limits) = &self.limits else { return Ok(()) };
        let mut table = output::table(&["LARGEST FRAME", "USED", "OF"]);
        table.add_row(["fuel".to_owned(), limits.fuel.to_string(), limits.fuel_max.to_string()]);
        table.add_row([
            "memory, bytes".to_owned(),
            limits.memory_bytes.to_string(),
            limits.memory_bytes_max.to_string(),
        ]);
        table.add_row(["state, bytes".to_owned(), limits.state_bytes.to_string(), limits.state_bytes_max.to_string()]);
        let Nanoseconds { p50, p99 } = limits.ns_per_row;
        write!(f, "\n\n{table}\ntime of a row: p50 {p50} ns, p99 {p99} ns, feedback for four deliveries included")
    }
}
