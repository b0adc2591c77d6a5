//! `sluice bench policy`: what it takes to ask a policy, in the broker's own sandbox, by lite topic; and what a swap takes.
//!
//! All policies are asked the same questions, in turns of a few milliseconds, one policy after the other, again and again: a change of the
//! machine's mood meets all of them. What another policy costs beside one that serves all is therefore said as the median over rounds, each
//! against that of the same round.

mod cases;
mod end_to_end;
mod report;
mod traffic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use sluicegate_broker::policy_lab::{PolicyLab, Trial};

use self::cases::{BUNDLED, Case, WASM};
use self::end_to_end::Ratio;
use self::report::{Cost, Figures, Swap};
use self::traffic::START;
use super::measure::now;
use crate::bundled;
use crate::exit::WrongInput;
use crate::output::{self, Format};

/// Rows of the frames that are measured.
const FRAMES: [usize; 3] = [1, 16, 256];
/// Rows that a policy is asked about in a turn.
const TURN_ROWS: usize = 16_384;
/// Rounds before the first that counts.
const WARM_UP_ROUNDS: u32 = 2;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Folder with the components of the bundled policies; where `cargo xtask policies` puts them without.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Turns of each policy with each size of frames; each takes milliseconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Measure throughput too, from publish to ack, with each policy against none, in turns. Takes minutes.
    #[arg(long)]
    end_to_end: bool,
    /// Seconds of each turn of that.
    #[arg(long, default_value_t = 3, requires = "end_to_end", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Turns of each policy in that, each beside one without a policy.
    #[arg(long, default_value_t = 4, requires = "end_to_end", value_parser = clap::value_parser!(u32).range(1..=100))]
    turns: u32,
    /// Where the data directory of that is made; it decides which disk is measured.
    #[arg(long, value_name = "DIR", requires = "end_to_end")]
    dir: Option<PathBuf>,
}

impl Settings {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<()> {
        let directory = self.policies.clone().map_or_else(bundled::directory, Ok)?;
        let rounds = self.rounds;
        let components = directory.clone();
        let measured = tokio::task::spawn_blocking(move || measure(&components, rounds)).await;
        let (policies, swap_us) = measured.context("the thread of the measurement")??;
        let end_to_end = match self.end_to_end {
            true => Some(self.throughput(&directory).await?),
            false => None,
        };
        output::print(format, &Figures { policies, swap_us, end_to_end }, report::text)
    }

    async fn throughput(&self, directory: &Path) -> anyhow::Result<Vec<Ratio>> {
        let length = Duration::from_secs(self.seconds);
        end_to_end::measure(directory, self.dir.as_deref(), self.turns, length).await
    }
}

fn measure(directory: &Path, rounds: u32) -> anyhow::Result<(Vec<Cost>, Swap)> {
    let lab = PolicyLab::open()?;
    let mut costs = Vec::new();
    for rows in FRAMES {
        let mut cases = vec![Case::native(rows), Case::wasm(WASM, &lab, directory, rows)?];
        for policy in BUNDLED {
            cases.push(Case::wasm(policy, &lab, directory, rows)?);
        }
        for round in 0..WARM_UP_ROUNDS + rounds {
            for case in &mut cases {
                let turn = case.turn(TURN_ROWS / rows)?;
                if round >= WARM_UP_ROUNDS {
                    case.turns.push(turn);
                }
            }
        }
        let beside = cases[1].turns.clone();
        costs.extend(cases.iter().map(|case| Cost::of(case, rows, &beside)));
    }
    Ok((costs, swaps(&lab, directory, rounds)?))
}

/// What it takes to make an instance that goes on from the state of one that has worked.
fn swaps(lab: &PolicyLab, directory: &Path, rounds: u32) -> anyhow::Result<Swap> {
    let mut taken = Vec::new();
    for policy in BUNDLED {
        let mut case = Case::wasm(policy, lab, directory, FRAMES[2])?;
        case.turn(TURN_ROWS / FRAMES[2])?;
        let Some(state) = case.snapshot()? else { continue };
        let loaded = cases::load(lab, directory, policy)?;
        let mut before: Option<Trial> = None;
        for _ in 0..rounds * 10 {
            let start = now();
            let mut next = loaded.start("bench", 1, START, policy.config)?;
            let restored = next.restore(&state)?;
            taken.push(start.elapsed());
            restored.map_err(WrongInput)?;
            // What it takes to drop the one before is no part of the pause.
            before.replace(next);
        }
    }
    Ok(Swap::of(taken))
}
