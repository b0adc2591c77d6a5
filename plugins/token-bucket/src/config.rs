//! What an operator can set, and whose limit is which.

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{ByName, Feedback, LiteView};

/// Highest rate, in units per second.
const RATE_MAX: f64 = 1e9;

/// JSON Schema of [`Config`].
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "unit": { "enum": ["cost", "messages"], "default": "cost", "description": "What is counted" },
    "rate_per_second": { "type": "number", "minimum": 1e-6, "maximum": 1e9, "default": 100.0, "description": "Units per second and tenant" },
    "burst": { "type": ["integer", "null"], "minimum": 1, "default": null, "description": "Units that a rested tenant may use at once; the rate, rounded up, by default" },
    "overrides": {
      "type": "array",
      "maxItems": 4096,
      "default": [],
      "description": "Limits of single tenants and of prefixes of them; the most specific wins",
      "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["tenant", "rate_per_second"],
        "properties": {
          "tenant": { "type": "string", "minLength": 1, "description": "A tenant, or a prefix of tenants with * at its end" },
          "unit": { "enum": ["cost", "messages", null], "default": null, "description": "What is counted; the unit above by default" },
          "rate_per_second": { "type": "number", "minimum": 1e-6, "maximum": 1e9, "description": "Units per second and tenant" },
          "burst": { "type": ["integer", "null"], "minimum": 1, "default": null, "description": "Units that a rested tenant may use at once; the rate, rounded up, by default" }
        }
      }
    }
  }
}"#;

/// The policy's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is counted.
    pub unit: Unit,
    /// Units per second for a tenant without an override; 100 by default.
    pub rate_per_second: f64,
    /// Units that a rested tenant may use at once; by default the rate, rounded up.
    pub burst: Option<u64>,
    /// Limits of single tenants or of prefixes of them.
    pub overrides: Vec<Override>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Cost units: the estimate at first, corrected by what was measured.
    #[default]
    Cost,
    /// Deliveries.
    Messages,
}

impl Unit {
    /// What the head costs when it is let run.
    pub(crate) fn price(self, lite: &LiteView) -> u64 {
        match self {
            Self::Cost => lite.head_cost,
            Self::Messages => 1,
        }
    }

    /// What was paid for a delivery, and what it came to.
    pub(crate) fn paid_and_used(self, feedback: &Feedback) -> (u64, u64) {
        match self {
            Self::Cost => (feedback.cost_estimate, feedback.cost_measured),
            Self::Messages => (1, u64::from(!feedback.returned())),
        }
    }
}

/// A limit for some tenants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// A tenant, or a prefix of tenants with `*` at its end.
    pub tenant: String,
    /// What is counted; by default the configuration's unit.
    #[serde(default)]
    pub unit: Option<Unit>,
    /// Units per second.
    pub rate_per_second: f64,
    /// Units that a rested tenant may use at once; by default the rate, rounded up.
    #[serde(default)]
    pub burst: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self { unit: Unit::default(), rate_per_second: 100.0, burst: None, overrides: Vec::new() }
    }
}

/// One tenant's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) unit: Unit,
    /// Millionths of a unit per second.
    pub(crate) rate_micros: u64,
    /// Units.
    pub(crate) burst: u64,
}

impl Limit {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    fn parse(at: &str, unit: Unit, rate_per_second: f64, burst: Option<u64>) -> Result<Self, String> {
        if !(1e-6..=RATE_MAX).contains(&rate_per_second) {
            return Err(format!(
                "config: {at}rate_per_second is {rate_per_second}, it must be at least 0.000001 and at most {RATE_MAX}"
            ));
        }
        if burst == Some(0) {
            return Err(format!("config: {at}burst is 0, it must be at least 1"));
        }
        let burst = burst.unwrap_or(rate_per_second.ceil() as u64);
        Ok(Self { unit, rate_micros: (rate_per_second * 1e6).round() as u64, burst })
    }
}

/// The limits by name.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) default: Limit,
    overrides: Vec<Limit>,
    by_name: ByName<OverrideId>,
}

/// An override of a configuration: what is kept of each tenant that has one is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverrideId(u16);

impl Limits {
    /// # Errors
    /// What is wrong in the configuration, and where.
    pub(crate) fn parse(config: &Config) -> Result<Self, String> {
        let default = Limit::parse("", config.unit, config.rate_per_second, config.burst)?;
        let (mut overrides, mut by_name) = (Vec::new(), ByName::default());
        for (index, entry) in config.overrides.iter().enumerate() {
            let (at, unit) = (format!("overrides[{index}]."), entry.unit.unwrap_or(config.unit));
            let limit = Limit::parse(&at, unit, entry.rate_per_second, entry.burst)?;
            overrides.push(limit);
            let id = OverrideId(u16::try_from(index).expect("there are few"));
            by_name.add(&entry.tenant, id).map_err(|error| format!("config: {at}tenant {error}"))?;
        }
        Ok(Self { default, overrides, by_name })
    }

    /// The override for a tenant, if there is one: by its name, else by the longest prefix.
    pub(crate) fn of(&self, tenant: &str) -> Option<OverrideId> {
        self.by_name.of(tenant)
    }

    /// Whether all tenants have the same.
    pub(crate) fn are_one(&self) -> bool {
        self.overrides.is_empty()
    }

    /// What an override says.
    pub(crate) fn at(&self, id: OverrideId) -> Limit {
        self.overrides[usize::from(id.0)]
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::{assert_schema_fits, parse_config};

    use super::*;

    fn limits(text: &str) -> Result<Limits, String> {
        Limits::parse(&parse_config(text)?)
    }

    #[test]
    fn the_most_specific_override_wins() {
        let text = r#"{"rate_per_second": 1, "overrides": [
            {"tenant": "org/*", "rate_per_second": 2, "unit": "messages"},
            {"tenant": "org/team/*", "rate_per_second": 3, "burst": 30},
            {"tenant": "org/team/x", "rate_per_second": 0.5}]}"#;
        let limits = limits(text).unwrap();
        let limit_of = |tenant| limits.of(tenant).map(|id| limits.at(id));
        let limit = |unit, rate_micros, burst| Some(Limit { unit, rate_micros, burst });
        assert_eq!(limit_of("org"), None);
        assert_eq!(limit_of("org/a"), limit(Unit::Messages, 2_000_000, 2));
        assert_eq!(limit_of("org/team/a"), limit(Unit::Cost, 3_000_000, 30));
        assert_eq!(limit_of("org/team/x"), limit(Unit::Cost, 500_000, 1));
        assert_eq!(limit_of("örg/a"), None);
        assert_eq!(Some(limits.default), limit(Unit::Cost, 1_000_000, 1));
    }

    #[test]
    fn a_bad_config_says_where() {
        let error = |text| limits(text).err().unwrap();
        assert_eq!(error("{\"rate\": 5}").lines().count(), 1);
        assert!(error("{\"rate\": 5}").ends_with("at line 1 column 7"), "{}", error("{\"rate\": 5}"));
        assert_eq!(
            error(r#"{"overrides": [{"tenant": "a", "rate_per_second": 0}]}"#),
            "config: overrides[0].rate_per_second is 0, it must be at least 0.000001 and at most 1000000000"
        );
        assert_eq!(error(r#"{"burst": 0}"#), "config: burst is 0, it must be at least 1");
        assert_eq!(
            error(r#"{"overrides": [{"tenant": "a*", "rate_per_second": 1}, {"tenant": "a*", "rate_per_second": 2}]}"#),
            "config: overrides[1].tenant `a*` is there twice"
        );
        assert_eq!(
            error(r#"{"overrides": [{"tenant": "a/*/b", "rate_per_second": 1}]}"#),
            "config: overrides[0].tenant `a/*/b` has a `*` that is not its end"
        );
    }

    #[test]
    fn the_schema_has_every_field_with_its_default() {
        let overrides = vec![Override { tenant: "a".into(), unit: None, rate_per_second: 1.0, burst: None }];
        assert_schema_fits(SCHEMA, &Config { overrides, ..Config::default() });
    }

    #[test]
    fn no_text_means_the_defaults() {
        assert_eq!(parse_config::<Config>("").unwrap(), parse_config::<Config>("{}").unwrap());
    }
}
