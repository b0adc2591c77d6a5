//! What an operator can set, and what it says of lite topics.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Entity, bytes_in_range, in_range};

use crate::windows::Windows;

/// Windows of one configuration.
const WINDOWS_MAX: usize = 24;

/// JSON Schema of [`Config`].
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "label": { "type": "string", "minLength": 1, "maxLength": 128, "default": "class", "description": "Key of the label that marks a lite topic or a tenant as batch" },
    "label_value": { "type": "string", "minLength": 1, "maxLength": 128, "default": "batch", "description": "Its value" },
    "property_at_least": { "type": ["integer", "null"], "minimum": 0, "default": null, "description": "A head whose numeric property batch is this or more is batch" },
    "priority_at_most": { "type": ["integer", "null"], "minimum": 0, "maximum": 8, "default": null, "description": "A head of this priority or lower is batch" },
    "busy_above": { "type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.8, "description": "Load above which batch waits" },
    "idle_below": { "type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.6, "description": "Load below which it may run again; at most busy_above" },
    "windows": {
      "type": "array",
      "maxItems": 24,
      "default": [],
      "description": "Times of day in UTC in which batch may run; any time by default",
      "items": { "type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$" }
    },
    "step_min_seconds": { "type": "integer", "minimum": 1, "maximum": 3600, "default": 5, "description": "Seconds of the shortest hold" },
    "step_max_seconds": { "type": "integer", "minimum": 1, "maximum": 86400, "default": 1800, "description": "Seconds of the longest hold" },
    "batch_band": { "type": "integer", "minimum": 0, "maximum": 9, "default": 0, "description": "Band in which batch runs when it may" }
  }
}"#;

/// The policy's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Key of the label that marks a lite topic or a tenant as batch; `class` by default.
    pub label: String,
    /// Its value; `batch` by default.
    pub label_value: String,
    /// A head whose numeric property `batch` is this or more is batch.
    pub property_at_least: Option<u64>,
    /// A head of this priority or lower is batch: 0 to 8.
    pub priority_at_most: Option<u32>,
    /// Load above which batch waits: above 0, to 1; 0.8 by default.
    pub busy_above: f64,
    /// Load below which it may run again: above 0, to `busy_above`; 0.6 by default.
    pub idle_below: f64,
    /// Times of day in UTC in which batch may run, `HH:MM-HH:MM`; any time by default.
    pub windows: Vec<String>,
    /// Seconds of the shortest hold; 5 by default.
    pub step_min_seconds: u64,
    /// Seconds of the longest hold; 1,800 by default.
    pub step_max_seconds: u64,
    /// Band in which batch runs when it may; 0 by default.
    pub batch_band: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            label: "class".into(),
            label_value: "batch".into(),
            property_at_least: None,
            priority_at_most: None,
            busy_above: 0.8,
            idle_below: 0.6,
            windows: Vec::new(),
            step_min_seconds: 5,
            step_max_seconds: 1_800,
            batch_band: 0,
        }
    }
}

/// The configuration, checked.
#[derive(Debug)]
pub(crate) struct Rules {
    label: String,
    label_value: String,
    property_at_least: Option<u64>,
    priority_at_most: Option<u32>,
    pub(crate) busy_above_ppm: u32,
    pub(crate) idle_below_ppm: u32,
    pub(crate) windows: Windows,
    pub(crate) step_min: Duration,
    pub(crate) step_max: Duration,
    pub(crate) batch_band: u8,
}

impl Rules {
    /// # Errors
    /// What is wrong in the configuration, and where.
    pub(crate) fn parse(config: Config) -> Result<Self, String> {
        for (field, text) in [("label", &config.label), ("label_value", &config.label_value)] {
            bytes_in_range(field, text, 1..=128)?;
        }
        if let Some(priority) = config.priority_at_most.filter(|priority| *priority > 8) {
            return Err(format!("config: priority_at_most is {priority}, it must be at most 8: all would be batch"));
        }
        for (field, load, max) in
            [("busy_above", config.busy_above, 1.0), ("idle_below", config.idle_below, config.busy_above)]
        {
            if !(load > 0.0 && load <= max) {
                return Err(format!("config: {field} is {load}, it must be above 0 and at most {max}"));
            }
        }
        if config.windows.len() > WINDOWS_MAX {
            return Err(format!("config: there are {} windows, there may be {WINDOWS_MAX}", config.windows.len()));
        }
        in_range("step_min_seconds", config.step_min_seconds, 1..=3_600)?;
        if !(config.step_min_seconds..=86_400).contains(&config.step_max_seconds) {
            return Err(format!(
                "config: step_max_seconds is {}, it must be at least step_min_seconds ({}) and at most 86400",
                config.step_max_seconds, config.step_min_seconds
            ));
        }
        in_range("batch_band", config.batch_band, 0..=9)?;
        Ok(Self {
            windows: Windows::parse(&config.windows).map_err(|error| format!("config: windows: {error}"))?,
            label: config.label,
            label_value: config.label_value,
            property_at_least: config.property_at_least,
            priority_at_most: config.priority_at_most,
            busy_above_ppm: millionths(config.busy_above),
            idle_below_ppm: millionths(config.idle_below),
            step_min: Duration::from_secs(config.step_min_seconds),
            step_max: Duration::from_secs(config.step_max_seconds),
            batch_band: config.batch_band,
        })
    }

    /// Its labels say batch.
    pub(crate) fn marks(&self, entity: &Entity) -> bool {
        entity.label(&self.label) == Some(&self.label_value)
    }

    /// The head's priority or property says batch.
    pub(crate) fn marks_head(&self, priority: u32, property: impl Fn() -> Option<u64>) -> bool {
        let by_property = |least| property().is_some_and(|value| value >= least);
        self.priority_at_most.is_some_and(|most| priority <= most) || self.property_at_least.is_some_and(by_property)
    }
}

/// At least one: no load is below none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
fn millionths(load: f64) -> u32 {
    ((load * 1e6).round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::{assert_schema_fits, parse_config};

    use super::*;

    #[test]
    fn a_bad_config_says_where() {
        for (text, error) in [
            (r#"{"label": ""}"#, "config: label has 0 bytes, it must have 1 to 128"),
            (r#"{"priority_at_most": 9}"#, "config: priority_at_most is 9, it must be at most 8: all would be batch"),
            (r#"{"busy_above": 1.5}"#, "config: busy_above is 1.5, it must be above 0 and at most 1"),
            (r#"{"busy_above": 0.5}"#, "config: idle_below is 0.6, it must be above 0 and at most 0.5"),
            (r#"{"idle_below": 0}"#, "config: idle_below is 0, it must be above 0 and at most 0.8"),
            (r#"{"windows": ["22:00"]}"#, "config: windows: `22:00` is not HH:MM-HH:MM"),
            (r#"{"step_min_seconds": 0}"#, "config: step_min_seconds is 0, it must be 1 to 3600"),
            (
                r#"{"step_max_seconds": 4}"#,
                "config: step_max_seconds is 4, it must be at least step_min_seconds (5) and at most 86400",
            ),
            (r#"{"batch_band": 10}"#, "config: batch_band is 10, it must be 0 to 9"),
        ] {
            assert_eq!(Rules::parse(parse_config(text).unwrap()).unwrap_err(), error);
        }
        assert!(parse_config::<Config>(r#"{"window": []}"#).unwrap_err().starts_with("config: unknown field `window`"));
        let windows = vec!["10:00-11:00".into(); 25];
        let error = Rules::parse(Config { windows, ..Config::default() }).unwrap_err();
        assert_eq!(error, "config: there are 25 windows, there may be 24");
    }

    #[test]
    fn the_schema_has_every_field_with_its_default() {
        assert_schema_fits(SCHEMA, &Config::default());
    }
}
