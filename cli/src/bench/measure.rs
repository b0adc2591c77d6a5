//! Latency histograms, and the clock of measurements.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies above are counted as this.
const LATENCY_MAX: Duration = Duration::from_mins(1);

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Latency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
}

/// Collects latencies.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        let max = u64::try_from(LATENCY_MAX.as_micros()).expect("a minute in microseconds fits");
        Self(Histogram::new_with_bounds(1, max, 3).expect("the bounds are in order"))
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(super) fn latency(&self) -> Latency {
        let at = |quantile| self.0.value_at_quantile(quantile);
        Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time that passes")]
pub(super) fn now() -> Instant {
    Instant::now()
}
