//! `sluice bench scheduler`: the pure scheduler alone, without store, network or threads.
//!
//! Every measurement runs in a fresh child process, so that none sees the memory of another.

mod decisions;
mod fairness;
mod memory;
mod population;
mod report;
mod storm;

use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use self::memory::Bytes;
use self::population::{Population, Shape, Tenants};
use self::report::Row;
use crate::exit::WrongInput;
use crate::output::{self, Format};

/// Decisions that are timed together: reading the clock for each would be a part of what is measured.
const BLOCK: u32 = 64;
/// Blocks of a run for which none are given, if there are few tenants.
const BLOCKS_MIN: u32 = 20_000;
/// Blocks of a run for which none are given, if there are many tenants.
const BLOCKS_MAX: u32 = 250_000;
/// Turns that each tenant has in a run for which no blocks are given, on average, up to [`BLOCKS_MAX`].
const TURNS: u64 = 8;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Lite topics, one row each; `10k` and `1M` are understood.
    #[arg(long, value_delimiter = ',', default_value = "10k,100k,1M,10M", value_name = "N", value_parser = count)]
    lite_topics: Vec<u32>,
    /// Tenants that own them, or `each`: every lite topic is its own tenant.
    #[arg(long, default_value = "10k", value_name = "COUNT|each", value_parser = tenants)]
    tenants: Tenants,
    /// How many lite topics each tenant owns.
    #[arg(long, default_value = "uniform")]
    shape: Shape,
    /// Blocks of 64 decisions that are timed; without, so many that each tenant has 8 turns (20,000 to 250,000).
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    blocks: Option<u32>,
    /// Decides order, costs and owners.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Instead: so many suspensions that end within one second, and what each wake costs.
    #[arg(long, value_name = "N", value_parser = count)]
    resume_storm: Option<u32>,
    /// The one measurement of a child process.
    #[arg(long, hide = true)]
    part: Option<Part>,
}

/// What one child process measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Time and fairness.
    Decisions,
    /// Memory with all lite topics ready, then with all settled.
    Ready,
    /// Memory with all lite topics held.
    Held,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Ready => "ready",
            Self::Held => "held",
        }
    }
}

impl Settings {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<()> {
        if let Some(lite_topics) = self.resume_storm {
            let rows = storm::measure(&self.population(lite_topics)?);
            return output::print(format, &rows, |rows| storm::text(rows));
        }
        if let Some(part) = self.part {
            return self.measure(part);
        }
        let mut rows = Vec::new();
        for &lite_topics in &self.lite_topics {
            // Before any child is started: a mistake is reported once, by this process.
            self.population(lite_topics)?;
            rows.push(Row {
                decisions: self.of_child(lite_topics, Part::Decisions).await?,
                ready: self.of_child(lite_topics, Part::Ready).await?,
                held: self.of_child(lite_topics, Part::Held).await?,
                lite_topics,
                shape: self.shape,
                seed: self.seed,
            });
        }
        let rows: Vec<_> = rows.iter().map(Row::figures).collect();
        output::print(format, &rows, |rows| report::text(rows))
    }

    /// In a child process: one part of one row, as JSON for the parent.
    fn measure(&self, part: Part) -> anyhow::Result<()> {
        let [lite_topics] = self.lite_topics[..] else { bail!("a part is of one row") };
        let population = self.population(lite_topics)?;
        let json = match part {
            Part::Decisions => {
                serde_json::to_string(&decisions::measure(&population, self.blocks_for(population.tenants())))
            }
            Part::Ready => serde_json::to_string::<Bytes>(&memory::of_ready(&population)),
            Part::Held => serde_json::to_string::<Bytes>(&memory::of_held(&population)),
        };
        output::line(&json?)
    }

    async fn of_child<T: DeserializeOwned>(&self, lite_topics: u32, part: Part) -> anyhow::Result<T> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = tokio::process::Command::new(program);
        command.args(["bench", "scheduler", "--part", part.name(), "--shape", self.shape.name()]);
        command.args(["--lite-topics", &lite_topics.to_string(), "--tenants", &self.tenants.to_string()]);
        command.args(["--seed", &self.seed.to_string()]);
        if let Some(blocks) = self.blocks {
            command.args(["--blocks", &blocks.to_string()]);
        }
        if part != Part::Decisions {
            command.env(memory::RETURN_FREED_MEMORY.0, memory::RETURN_FREED_MEMORY.1);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let out = command.spawn().context("cannot start a process for a measurement")?.wait_with_output().await?;
        if !out.status.success() {
            bail!("measuring {} of {lite_topics} lite topics failed: {}", part.name(), out.status);
        }
        serde_json::from_slice(&out.stdout).context("a measurement printed something else than its figures")
    }

    fn population(&self, lite_topics: u32) -> anyhow::Result<Population> {
        if self.tenants == Tenants::Each && self.shape == Shape::Zipf {
            return Err(WrongInput("with `--tenants each` a tenant owns one lite topic: no Zipf law".into()).into());
        }
        Ok(Population::new(lite_topics, self.tenants, self.shape, self.seed))
    }

    fn blocks_for(&self, tenants: u32) -> u32 {
        let enough = (u64::from(tenants) * TURNS).div_ceil(u64::from(BLOCK));
        let enough = u32::try_from(enough).unwrap_or(BLOCKS_MAX).clamp(BLOCKS_MIN, BLOCKS_MAX);
        self.blocks.unwrap_or(enough)
    }
}

/// `10000`, `10k` or `1M`; enough for all leases at once, few enough that numbers stay small.
pub(super) fn count(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1_000),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1_000_000)),
    };
    let count = digits.parse::<u32>().ok().and_then(|count| count.checked_mul(unit));
    let limits = 2 * decisions::LEASES..=100_000_000;
    count.filter(|count| limits.contains(count)).ok_or_else(|| format!("it is from {} to 100M", limits.start()))
}

fn tenants(text: &str) -> Result<Tenants, String> {
    if text == "each" { Ok(Tenants::Each) } else { count(text).map(Tenants::Count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_units_and_limits() {
        assert_eq!(["10k", "1M", "4711"].map(|text| count(text).unwrap()), [10_000, 1_000_000, 4_711]);
        for wrong in ["", "k", "0", "1", "1G", "101M", "9999M", "-5"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert_eq!((tenants("each"), tenants("10k")), (Ok(Tenants::Each), Ok(Tenants::Count(10_000))));
    }
}
