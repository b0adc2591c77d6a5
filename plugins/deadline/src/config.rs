//! What an operator can set, and which slack is which band.

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::in_range;

use crate::service::Average;

/// Longest time in a configuration: a day.
const MS_MAX: u64 = 86_400_000;
/// Limits of slack: each has a band of its own, and there is one below.
const LIMITS_MAX: usize = 9;

/// JSON Schema of [`Config`].
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "slack_limits_ms": {
      "type": "array",
      "minItems": 1,
      "maxItems": 9,
      "default": [1000, 5000, 30000, 120000],
      "description": "Milliseconds of slack below which a head is in band 9, 8, 7 and so on; rising",
      "items": { "type": "integer", "minimum": 1, "maximum": 86400000 }
    },
    "no_deadline_band": { "type": ["integer", "null"], "minimum": 0, "maximum": 9, "default": 4, "description": "Band of a head without a deadline; null for its priority" },
    "late": { "enum": ["dead_letter", "drop", "serve"], "default": "dead_letter", "description": "What becomes of a head that cannot be done before its deadline" },
    "service_default_ms": { "type": "integer", "minimum": 0, "maximum": 86400000, "default": 0, "description": "Milliseconds that a delivery takes, until the tenant's were measured" },
    "rerank_per_second": { "type": "integer", "minimum": 0, "maximum": 100000, "default": 5000, "description": "Lite topics that are ranked anew in a second while they wait" }
  }
}"#;

/// The policy's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Milliseconds of slack below which a head is in band 9, 8, 7 and so on; 1,000, 5,000, 30,000 and 120,000 by default.
    pub slack_limits_ms: Vec<u64>,
    /// Band of a head without a deadline, 4 by default; none for its priority.
    pub no_deadline_band: Option<u8>,
    /// What becomes of a head that cannot be done before its deadline.
    pub late: Late,
    /// Milliseconds that a delivery takes, until the tenant's were measured; 0 by default.
    pub service_default_ms: u64,
    /// Lite topics that are ranked anew in a second while they wait; 5,000 by default.
    pub rerank_per_second: u64,
}

/// What becomes of a head that cannot be done before its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// It goes to the dead-letter topic.
    #[default]
    DeadLetter,
    /// It is settled without delivery.
    Drop,
    /// It is served first of all.
    Serve,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slack_limits_ms: vec![1_000, 5_000, 30_000, 120_000],
            no_deadline_band: Some(4),
            late: Late::default(),
            service_default_ms: 0,
            rerank_per_second: 5_000,
        }
    }
}

/// The configuration, checked.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Rising.
    slack_limits_us: Vec<u64>,
    pub(crate) no_deadline_band: Option<u8>,
    pub(crate) late: Late,
    /// Of a tenant that was not measured.
    pub(crate) unmeasured: Average,
    pub(crate) rerank_per_second: u64,
}

impl Rules {
    /// # Errors
    /// What is wrong in the configuration, and where.
    pub(crate) fn parse(config: Config) -> Result<Self, String> {
        let Config { slack_limits_ms, no_deadline_band, late, service_default_ms, rerank_per_second } = config;
        if !(1..=LIMITS_MAX).contains(&slack_limits_ms.len()) {
            let count = slack_limits_ms.len();
            return Err(format!("config: slack_limits_ms has {count} limits, it must have 1 to {LIMITS_MAX}"));
        }
        let mut above = 0;
        for (index, limit) in slack_limits_ms.iter().enumerate() {
            if !(above + 1..=MS_MAX).contains(limit) {
                return Err(format!(
                    "config: slack_limits_ms[{index}] is {limit}, it must be above {above} and at most {MS_MAX}"
                ));
            }
            above = *limit;
        }
        in_range("no_deadline_band", no_deadline_band.unwrap_or_default(), 0..=9)?;
        in_range("service_default_ms", service_default_ms, 0..=MS_MAX)?;
        in_range("rerank_per_second", rerank_per_second, 0..=100_000)?;
        Ok(Self {
            slack_limits_us: slack_limits_ms.into_iter().map(|limit| limit * 1_000).collect(),
            no_deadline_band,
            late,
            unmeasured: Average::granted(service_default_ms * 1_000),
            rerank_per_second,
        })
    }

    /// The band for this slack, and the slack at which it is in the next higher one; 0 in the highest.
    pub(crate) fn band(&self, slack_us: u64) -> (u8, u64) {
        let below = self.slack_limits_us.partition_point(|limit| *limit <= slack_us);
        let band = 9 - u8::try_from(below).expect("there are at most 9 limits");
        (band, below.checked_sub(1).map_or(0, |index| self.slack_limits_us[index]))
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::{assert_schema_fits, parse_config};

    use super::*;

    #[test]
    fn the_least_slack_is_the_highest_band() {
        let rules = Rules::parse(Config::default()).unwrap();
        let bands = [0, 999_999, 1_000_000, 4_999_999, 5_000_000, 30_000_000, 119_999_999, 120_000_000, u64::MAX];
        let falls = [0, 0, 1_000_000, 1_000_000, 5_000_000, 30_000_000, 30_000_000, 120_000_000, 120_000_000];
        assert_eq!(bands.map(|slack| rules.band(slack).0), [9, 9, 8, 8, 7, 6, 6, 5, 5]);
        assert_eq!(bands.map(|slack| rules.band(slack).1), falls);
        let nine = Config { slack_limits_ms: (1..=9).collect(), ..Config::default() };
        assert_eq!(Rules::parse(nine).unwrap().band(u64::MAX).0, 0);
    }

    #[test]
    fn a_bad_config_says_where() {
        for (text, error) in [
            (r#"{"slack_limits_ms": []}"#, "config: slack_limits_ms has 0 limits, it must have 1 to 9"),
            (
                r#"{"slack_limits_ms": [5, 5]}"#,
                "config: slack_limits_ms[1] is 5, it must be above 5 and at most 86400000",
            ),
            (r#"{"slack_limits_ms": [0]}"#, "config: slack_limits_ms[0] is 0, it must be above 0 and at most 86400000"),
            (r#"{"no_deadline_band": 10}"#, "config: no_deadline_band is 10, it must be 0 to 9"),
            (r#"{"service_default_ms": 86400001}"#, "config: service_default_ms is 86400001, it must be 0 to 86400000"),
            (r#"{"rerank_per_second": 100001}"#, "config: rerank_per_second is 100001, it must be 0 to 100000"),
        ] {
            assert_eq!(Rules::parse(parse_config(text).unwrap()).unwrap_err(), error);
        }
        assert!(parse_config::<Config>(r#"{"late": "later"}"#).unwrap_err().contains("unknown variant `later`"));
        assert!(parse_config::<Config>(r#"{"latest": 1}"#).unwrap_err().contains("unknown field `latest`"));
    }

    #[test]
    fn the_schema_has_every_field_with_its_default() {
        assert_schema_fits(SCHEMA, &Config::default());
    }
}
