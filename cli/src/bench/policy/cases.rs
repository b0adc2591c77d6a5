//! Who is asked, and how.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use sluicegate_broker::policy_lab::{LoadedPolicy, PolicyLab, StateBlob, Trial};
use sluicegate_scheduler::{Answer, Ask, Plan, Verdict};

use super::super::measure::now;
use super::traffic::{START, Traffic};
use crate::exit::WrongInput;

/// A policy, as it is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// As the report has it.
    pub(super) name: &'static str,
    /// Name of the component, without `.wasm`.
    file: &'static str,
    /// Has it do all that it can.
    pub(super) config: &'static str,
    /// Has it decide and hold nobody back, so that throughput with it says what it takes and not what it decides.
    pub(super) lenient_config: &'static str,
}

/// The report's name of one that serves all and is no Wasm.
pub(super) const NATIVE: &str = "native-no-op";

/// One that serves all and keeps nothing.
pub(super) const WASM: Policy = Policy { file: "serve-all", ..bundled("wasm-no-op", "", "") };

/// The bundled ones.
pub(super) const BUNDLED: [Policy; 6] = [
    bundled(
        "token-bucket",
        r#"{"rate_per_second": 1000, "burst": 2000, "overrides": [{"tenant": "trial/*", "rate_per_second": 20}]}"#,
        r#"{"rate_per_second": 1000000}"#,
    ),
    bundled(
        "fair-share",
        r#"{"tiers": [{"name": "gold", "weight": 10}, {"name": "trial", "weight": 1, "tenants": ["trial/*"]}]}"#,
        "",
    ),
    bundled("busy-idle", r#"{"property_at_least": 1, "busy_above": 0.7, "idle_below": 0.5}"#, ""),
    bundled("deadline", "", ""),
    bundled("adaptive", r#"{"retry_after": "tenant"}"#, r#"{"initial": 4096, "min": 4096, "max": 4096}"#),
    bundled(
        "strict-tiers",
        r#"{"default_tier": "standard", "tiers": [{"name": "gold"}, {"name": "standard", "floor_percent": 10},
            {"name": "trial", "tenants": ["trial/*"], "floor_percent": 2}]}"#,
        "",
    ),
];

const fn bundled(name: &'static str, config: &'static str, lenient_config: &'static str) -> Policy {
    Policy { name, file: name, config, lenient_config }
}

/// Loads a policy's component.
pub(super) fn load(lab: &PolicyLab, directory: &Path, policy: Policy) -> anyhow::Result<LoadedPolicy> {
    let component = read(directory, policy)?;
    lab.load(&component).with_context(|| policy.name)
}

pub(super) fn read(directory: &Path, policy: Policy) -> anyhow::Result<Vec<u8>> {
    let path = directory.join(policy.file).with_extension("wasm");
    let help = "build the policies by `cargo xtask policies`, or name their folder by --policies";
    std::fs::read(&path).map_err(|error| WrongInput(format!("{}: {error}: {help}", path.display())).into())
}

/// One of them with what it is asked, and what came of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    who: Who,
    traffic: Traffic,
    rows: usize,
    pub(super) turns: Vec<Turn>,
}

enum Who {
    Native,
    Wasm(Box<Trial>),
}

/// What a turn took, of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) ns: f64,
    /// 0 for the native one.
    pub(super) fuel: f64,
}

impl Case {
    pub(super) fn native(rows: usize) -> Self {
        Self { name: NATIVE, who: Who::Native, traffic: Traffic::new(), rows, turns: Vec::new() }
    }

    /// One that has seen every tenant and lite topic once.
    pub(super) fn wasm(policy: Policy, lab: &PolicyLab, directory: &Path, rows: usize) -> anyhow::Result<Self> {
        let trial = load(lab, directory, policy)?.start("bench", 1, START, policy.config)?;
        let (who, traffic) = (Who::Wasm(Box::new(trial)), Traffic::new());
        let mut case = Self { name: policy.name, who, traffic, rows, turns: Vec::new() };
        while let Some(ask) = case.traffic.introduction() {
            case.ask(&ask)?;
        }
        Ok(case)
    }

    /// So many frames.
    pub(super) fn turn(&mut self, frames: usize) -> anyhow::Result<Turn> {
        let (mut taken, mut fuel) = (Duration::ZERO, 0);
        for _ in 0..frames {
            let ask = self.traffic.next(self.rows);
            let start = now();
            let plan = self.ask(&ask)?;
            taken += start.elapsed();
            fuel += self.fuel();
            self.traffic.answered(&ask, &plan);
        }
        let rows = (frames * self.rows) as f64;
        Ok(Turn { ns: taken.as_nanos() as f64 / rows, fuel: fuel as f64 / rows })
    }

    pub(super) fn snapshot(&mut self) -> anyhow::Result<Option<StateBlob>> {
        match &mut self.who {
            Who::Native => Ok(None),
            Who::Wasm(trial) => Ok(trial.snapshot()?),
        }
    }

    fn ask(&mut self, ask: &Ask) -> anyhow::Result<Plan> {
        match &mut self.who {
            Who::Native => Ok(serve_all(ask)),
            Who::Wasm(trial) => trial.ask(ask, &mut self.traffic.names).context(self.name),
        }
    }

    fn fuel(&self) -> u64 {
        match &self.who {
            Who::Native => 0,
            Who::Wasm(trial) => trial.fuel_used(),
        }
    }
}

/// The same as the Wasm one answers.
fn serve_all(ask: &Ask) -> Plan {
    let verdict = Verdict::Serve { band: None, max_messages: u32::MAX };
    let answer = Answer { verdict, valid_for: Duration::from_secs(10), reason: 0, memo: 0 };
    Plan { lites: std::hint::black_box(ask).frame.lites.iter().map(|_| answer).collect(), ..Plan::default() }
}
