//! A seeded stand-in for a recorded trace.
//!
//! Medians and tails follow the Azure LLM inference traces of November 2023 as published in Patel et al., "Splitwise:
//! Efficient generative LLM inference using phase splitting", ISCA 2024 (section III): prompts of 1,500 tokens in the
//! median for coding and 1,020 for conversation, answers of 13 and 129. Both are drawn from lognormal laws cut at the
//! longest that the traces have; arrivals are a Poisson process that changes between a quiet and a busy rate, since the
//! traces come in bursts.

use std::fmt;
use std::time::Duration;

use rand::SeedableRng as _;
use rand_distr::{Distribution, Exp, LogNormal};
use rand_pcg::Pcg64Mcg;

use super::trace::{Request, Source, Trace};

/// Whose medians and tails the generator follows.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mix {
    /// A coding assistant: long prompts, short answers.
    #[default]
    Code,
    /// A chat: shorter prompts, longer answers.
    Conversation,
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "the Azure LLM code trace of 2023",
            Self::Conversation => "the Azure LLM conversation trace of 2023",
        })
    }
}

/// A lognormal law by its median and the deviation of its logarithm, cut to `1..=max`.
struct Law {
    median: f64,
    sigma: f64,
    max: f64,
}

impl Law {
    fn draw(&self, random: &mut Pcg64Mcg) -> u32 {
        let law = LogNormal::new(self.median.ln(), self.sigma).expect("a finite positive deviation");
        whole(law.sample(random).round().clamp(1.0, self.max))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "laws are cut far below 2^32")]
fn whole(tokens: f64) -> u32 {
    tokens as u32
}

/// Requests per second while it is quiet, and how long that lasts in the mean.
const QUIET: (f64, f64) = (1.9, 16.0);
/// The same for bursts.
const BUSY: (f64, f64) = (5.5, 4.0);

impl Mix {
    fn laws(self) -> (Law, Law) {
        match self {
            Self::Code => {
                (Law { median: 1_500.0, sigma: 1.25, max: 7_437.0 }, Law { median: 13.0, sigma: 1.15, max: 1_899.0 })
            }
            Self::Conversation => {
                (Law { median: 1_020.0, sigma: 0.55, max: 14_050.0 }, Law { median: 129.0, sigma: 0.99, max: 1_000.0 })
            }
        }
    }
}

/// Draws `requests` requests; the same seed gives the same ones on every machine.
pub(crate) fn generate(mix: Mix, requests: usize, seed: u64) -> Trace {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let (context, generated) = mix.laws();
    let mut seconds = 0.0;
    let mut phases = [QUIET, BUSY].into_iter().cycle();
    let mut until = 0.0;
    let mut rate = QUIET.0;
    let mut drawn = Vec::with_capacity(requests);
    while drawn.len() < requests {
        let next = seconds + exponential(1.0 / rate, &mut random);
        if next > until {
            // A Poisson process has no memory: what would come after the change is drawn anew at the new rate.
            seconds = until;
            let (next_rate, mean_seconds) = phases.next().expect("a cycle never ends");
            rate = next_rate;
            until += exponential(mean_seconds, &mut random);
            continue;
        }
        seconds = next;
        drawn.push(Request {
            arrival: Duration::from_secs_f64(seconds),
            context_tokens: context.draw(&mut random),
            generated_tokens: generated.draw(&mut random),
        });
    }
    let first = drawn.first().map_or(Duration::ZERO, |request| request.arrival);
    for request in &mut drawn {
        request.arrival -= first;
    }
    Trace { source: Source::Generator { mix, seed }, requests: drawn }
}

fn exponential(mean: f64, random: &mut Pcg64Mcg) -> f64 {
    Exp::new(1.0 / mean).expect("a positive rate").sample(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantile(values: impl Iterator<Item = u32>, quantile: f64) -> u32 {
        let mut values: Vec<u32> = values.collect();
        values.sort_unstable();
        values[whole(quantile * (values.len() - 1) as f64) as usize]
    }

    #[test]
    fn medians_and_tails_are_the_published_ones() {
        for (mix, context, generated) in [(Mix::Code, 1_500, 13), (Mix::Conversation, 1_020, 129)] {
            let requests = generate(mix, 20_000, 7).requests;
            let near = |found: u32, wanted: u32| found.abs_diff(wanted) <= wanted.div_ceil(20);
            assert!(near(quantile(requests.iter().map(|r| r.context_tokens), 0.5), context), "{mix}");
            assert!(near(quantile(requests.iter().map(|r| r.generated_tokens), 0.5), generated), "{mix}");
            assert!(quantile(requests.iter().map(|r| r.generated_tokens), 0.99) > 6 * generated, "{mix}");
            assert!(requests.is_sorted_by_key(|request| request.arrival));
        }
    }

    #[test]
    fn a_seed_gives_the_same_requests_and_another_seed_others() {
        assert_eq!(generate(Mix::Code, 500, 1), generate(Mix::Code, 500, 1));
        assert_ne!(generate(Mix::Code, 500, 1).requests, generate(Mix::Code, 500, 2).requests);
    }

    #[test]
    fn arrivals_come_in_bursts() {
        let requests = generate(Mix::Code, 20_000, 3).requests;
        let mut per_second = vec![0_f64; whole(requests.last().unwrap().arrival.as_secs_f64()) as usize + 1];
        for request in &requests {
            per_second[usize::try_from(request.arrival.as_secs()).unwrap()] += 1.0;
        }
        let mean = per_second.iter().sum::<f64>() / per_second.len() as f64;
        let variance = per_second.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / per_second.len() as f64;
        assert!(variance / mean > 1.5, "a Poisson process has 1, this one {}", variance / mean);
    }
}
