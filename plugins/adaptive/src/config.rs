//! What an operator can set.

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Feedback, in_range};

use crate::window::SAMPLES_MAX;

/// Most leases in a configuration.
const LEASES_MAX: u32 = 1_000_000;

/// JSON Schema of [`Config`].
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "initial": { "type": "integer", "minimum": 1, "maximum": 1000000, "default": 8, "description": "Open leases to start with; between min and max" },
    "min": { "type": "integer", "minimum": 1, "maximum": 1000000, "default": 1, "description": "Fewest open leases" },
    "max": { "type": "integer", "minimum": 1, "maximum": 1000000, "default": 256, "description": "Most open leases" },
    "tolerance_percent": { "type": "integer", "minimum": 5, "maximum": 1000, "default": 50, "description": "Percent by which the work may take longer than at its best" },
    "decrease_percent": { "type": "integer", "minimum": 1, "maximum": 90, "default": 20, "description": "Percent of the leases that are taken away when it takes longer, or fails" },
    "failures_max_percent": { "type": "integer", "minimum": 0, "maximum": 100, "default": 10, "description": "Percent of deliveries that may fail" },
    "window_ms": { "type": "integer", "minimum": 100, "maximum": 600000, "default": 1000, "description": "Milliseconds of the shortest window" },
    "samples_min": { "type": "integer", "minimum": 1, "maximum": 256, "default": 20, "description": "Deliveries that end a window" },
    "baseline_seconds": { "type": "integer", "minimum": 10, "maximum": 86400, "default": 600, "description": "Seconds after which the best is measured anew, with half the leases" },
    "measure": { "enum": ["service", "per_cost"], "default": "service", "description": "Service times, or service times by measured cost" },
    "retry_after": { "enum": ["group", "tenant"], "default": "group", "description": "Who waits when the work asks to be left alone" }
  }
}"#;

/// The policy's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Open leases to start with; 8 by default.
    pub initial: u32,
    /// Fewest open leases; 1 by default.
    pub min: u32,
    /// Most open leases; 256 by default.
    pub max: u32,
    /// Percent by which the work may take longer than at its best; 50 by default.
    pub tolerance_percent: u32,
    /// Percent of the leases that are taken away when it takes longer, or fails; 20 by default.
    pub decrease_percent: u32,
    /// Percent of deliveries that may fail; 10 by default.
    pub failures_max_percent: u32,
    /// Milliseconds of the shortest window; 1,000 by default.
    pub window_ms: u64,
    /// Deliveries that end a window; 20 by default.
    pub samples_min: u32,
    /// Seconds after which the best is measured anew; 600 by default.
    pub baseline_seconds: u64,
    /// What is measured.
    pub measure: Measure,
    /// Who waits when the work asks to be left alone.
    pub retry_after: RetryAfter,
}

/// What is measured of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// How long it took.
    #[default]
    Service,
    /// How long it took for each unit of its measured cost.
    PerCost,
}

/// Who waits when the work asks to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    /// All: what does the work is the same for all.
    #[default]
    Group,
    /// The tenant whose delivery it was: each has a key of its own.
    Tenant,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial: 8,
            min: 1,
            max: 256,
            tolerance_percent: 50,
            decrease_percent: 20,
            failures_max_percent: 10,
            window_ms: 1_000,
            samples_min: 20,
            baseline_seconds: 600,
            measure: Measure::default(),
            retry_after: RetryAfter::default(),
        }
    }
}

impl Config {
    /// # Errors
    /// What is wrong, and where.
    pub(crate) fn check(&self) -> Result<(), String> {
        let samples_max = u32::try_from(SAMPLES_MAX).expect("256");
        in_range("max", self.max, 1..=LEASES_MAX)?;
        in_range("min", self.min, 1..=self.max)?;
        in_range("initial", self.initial, self.min..=self.max)?;
        in_range("tolerance_percent", self.tolerance_percent, 5..=1_000)?;
        in_range("decrease_percent", self.decrease_percent, 1..=90)?;
        in_range("failures_max_percent", self.failures_max_percent, 0..=100)?;
        in_range("window_ms", self.window_ms, 100..=600_000)?;
        in_range("samples_min", self.samples_min, 1..=samples_max)?;
        in_range("baseline_seconds", self.baseline_seconds, 10..=86_400)
    }
}

impl Measure {
    /// Microseconds, or nanoseconds for each unit.
    pub(crate) fn of(self, feedback: &Feedback) -> u64 {
        match self {
            Self::Service => feedback.service_us,
            Self::PerCost => feedback.service_us.saturating_mul(1_000) / feedback.cost_measured.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::{assert_schema_fits, parse_config};

    use super::*;

    #[test]
    fn a_bad_config_says_where() {
        for (text, error) in [
            (r#"{"max": 0}"#, "config: max is 0, it must be 1 to 1000000"),
            (r#"{"min": 0}"#, "config: min is 0, it must be 1 to 256"),
            (r#"{"min": 300}"#, "config: min is 300, it must be 1 to 256"),
            (r#"{"min": 9}"#, "config: initial is 8, it must be 9 to 256"),
            (r#"{"tolerance_percent": 1}"#, "config: tolerance_percent is 1, it must be 5 to 1000"),
            (r#"{"decrease_percent": 100}"#, "config: decrease_percent is 100, it must be 1 to 90"),
            (r#"{"failures_max_percent": 101}"#, "config: failures_max_percent is 101, it must be 0 to 100"),
            (r#"{"window_ms": 1}"#, "config: window_ms is 1, it must be 100 to 600000"),
            (r#"{"samples_min": 0}"#, "config: samples_min is 0, it must be 1 to 256"),
            (r#"{"baseline_seconds": 1}"#, "config: baseline_seconds is 1, it must be 10 to 86400"),
        ] {
            assert_eq!(parse_config::<Config>(text).unwrap().check().unwrap_err(), error);
        }
        assert!(parse_config::<Config>(r#"{"measure": "wait"}"#).unwrap_err().contains("unknown variant `wait`"));
        assert!(parse_config::<Config>(r#"{"maximum": 1}"#).unwrap_err().contains("unknown field `maximum`"));
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn the_schema_has_every_field_with_its_default() {
        assert_schema_fits(SCHEMA, &Config::default());
    }
}
