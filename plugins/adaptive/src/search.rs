//! The search for the number of leases.

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::Feedback;

use crate::config::Config;
use crate::window::Window;

/// What the search is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Doubling, until the first jam.
    Starting,
    /// One more, or a part less.
    Steady,
    /// One window with half the leases, to see the best; then this many again.
    Probing { back_to: u32 },
}

/// The number of leases, and what is known of how the work takes them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Search {
    config: Config,
    leases: u32,
    /// The lowest median since the last probe, in microseconds; in nanoseconds per cost unit if measured by cost.
    best: Option<u64>,
    phase: Phase,
    window: Window,
    /// Since when there are so many leases: what began before says nothing of them.
    since_us: u64,
    probe_at_us: u64,
}

impl Search {
    pub(crate) fn new(config: Config, now_us: u64) -> Self {
        let probe_at_us = now_us.saturating_add(config.baseline_seconds * 1_000_000);
        Self {
            leases: config.initial,
            best: None,
            phase: Phase::Starting,
            window: Window::default(),
            since_us: now_us,
            probe_at_us,
            config,
        }
    }

    pub(crate) fn leases(&self) -> u32 {
        self.leases
    }

    pub(crate) fn min(&self) -> u32 {
        self.config.min
    }

    /// Those that it has found, a probe aside.
    fn settled_leases(&self) -> u32 {
        match self.phase {
            Phase::Probing { back_to } => back_to,
            Phase::Starting | Phase::Steady => self.leases,
        }
    }

    /// Goes on from an earlier search: exactly with the same configuration, else from the number of leases that it had come to, with a
    /// window that begins then.
    pub(crate) fn go_on_from(&mut self, earlier: Self, until_us: u64) {
        if earlier.config == self.config {
            *self = earlier;
            return;
        }
        self.leases = earlier.settled_leases().clamp(self.config.min, self.config.max);
        self.best = earlier.best.filter(|_| earlier.config.measure == self.config.measure);
        self.phase = Phase::Steady;
        self.rest(until_us);
    }

    /// A delivery ended.
    pub(crate) fn settle(&mut self, feedback: &Feedback) {
        if !self.is_of_window(feedback) || feedback.returned() {
            return;
        }
        match feedback.is_done() {
            true => self.window.done(self.config.measure.of(feedback)),
            false => self.window.failed(),
        }
    }

    /// What does the work had too much of it, and waits until then. A probe goes on after that.
    pub(crate) fn left_alone(&mut self, feedback: &Feedback, until_us: u64) {
        if self.is_of_window(feedback) {
            let fewer = self.fewer(self.settled_leases());
            (self.phase, self.leases) = match self.phase {
                Phase::Probing { .. } => (Phase::Probing { back_to: fewer }, self.leases.min(fewer)),
                Phase::Starting | Phase::Steady => (Phase::Steady, fewer),
            };
        }
        self.rest(until_us);
    }

    /// The window begins anew, not before then: what began earlier says nothing of so many leases.
    pub(crate) fn rest(&mut self, until_us: u64) {
        self.since_us = self.since_us.max(until_us);
        self.window.clear();
    }

    /// Lets time pass: at the end of a window there may be more leases or fewer.
    pub(crate) fn advance(&mut self, now_us: u64, in_flight: u32) {
        self.window.saw_in_flight(in_flight);
        let is_over = now_us.saturating_sub(self.since_us) >= self.config.window_ms * 1_000;
        if !is_over || self.window.deliveries() < self.config.samples_min {
            return;
        }
        let (median, has_failed) =
            (self.window.take_median(), self.window.has_failed(self.config.failures_max_percent));
        if let Phase::Probing { back_to } = self.phase {
            self.best = median.or(self.best);
            self.phase = Phase::Steady;
            self.probe_at_us = now_us.saturating_add(self.config.baseline_seconds * 1_000_000);
            return self.change(if has_failed { self.fewer(back_to) } else { back_to }, now_us);
        }
        // With the fewest leases there is no jam of our making: this is the best that there is.
        let best = self.best.filter(|_| self.leases > self.config.min);
        self.best = median.into_iter().chain(best).min().or(self.best);
        let leases = match median.is_some_and(|median| self.is_slow(median)) || has_failed {
            true => {
                self.phase = Phase::Steady;
                self.fewer(self.leases)
            }
            false if self.window.has_used(self.leases) => self.more(),
            false => self.leases,
        };
        if now_us < self.probe_at_us || leases == self.config.min {
            return self.change(leases, now_us);
        }
        self.phase = Phase::Probing { back_to: leases };
        self.change((leases / 2).max(self.config.min), now_us);
    }

    fn is_slow(&self, median: u64) -> bool {
        let tolerated = |best| u128::from(best) * u128::from(100 + self.config.tolerance_percent) / 100;
        self.best.is_some_and(|best| u128::from(median) > tolerated(best))
    }

    fn more(&self) -> u32 {
        let more = if self.phase == Phase::Starting { self.leases.saturating_mul(2) } else { self.leases + 1 };
        more.min(self.config.max)
    }

    /// At least one fewer, down to the lowest.
    fn fewer(&self, leases: u32) -> u32 {
        let gone = u64::from(leases) * u64::from(self.config.decrease_percent) / 100;
        let gone = u32::try_from(gone).expect("a part of it").max(1);
        leases.saturating_sub(gone).max(self.config.min)
    }

    fn change(&mut self, leases: u32, now_us: u64) {
        self.leases = leases;
        self.since_us = now_us;
        self.window.clear();
    }

    fn is_of_window(&self, feedback: &Feedback) -> bool {
        feedback.at_us.saturating_sub(feedback.service_us) >= self.since_us
    }
}
