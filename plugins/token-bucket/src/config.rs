//! What an operator can set, and whose limit is which.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Highest rate, in units per second.
const RATE_MAX: f64 = 1e9;

/// JSON Schema of [`Config`].
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "unit": { "enum": ["cost", "messages"], "default": "cost", "description": "What is counted" },
    "rate_per_second": { "type": "number", "exclusiveMinimum": 0, "maximum": 1e9, "default": 100, "description": "Units per second and tenant" },
    "burst": { "type": "integer", "minimum": 1, "description": "Units that a rested tenant may use at once; the rate, rounded up, by default" },
    "overrides": {
      "type": "array",
      "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["tenant", "rate_per_second"],
        "properties": {
          "tenant": { "type": "string", "description": "A tenant, or a prefix of tenants with * at its end; the most specific wins" },
          "rate_per_second": { "type": "number", "exclusiveMinimum": 0, "maximum": 1e9 },
          "burst": { "type": "integer", "minimum": 1 }
        }
      }
    }
  }
}"#;

/// The policy's configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Cost units: the estimate at first, corrected by what was measured.
    #[default]
    Cost,
    /// Deliveries.
    Messages,
}

/// A limit for some tenants.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// A tenant, or a prefix of tenants with `*` at its end.
    pub tenant: String,
    /// Units per second.
    pub rate_per_second: f64,
    /// Units that a rested tenant may use at once; by default the rate, rounded up.
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
    /// Millionths of a unit per second.
    pub(crate) rate_micros: u64,
    /// Units.
    pub(crate) burst: u64,
}

impl Limit {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    fn parse(at: &str, rate_per_second: f64, burst: Option<u64>) -> Result<Self, String> {
        if !(1e-6..=RATE_MAX).contains(&rate_per_second) {
            return Err(format!(
                "config: {at}rate_per_second is {rate_per_second}, it must be at least 0.000001 and at most {RATE_MAX}"
            ));
        }
        if burst == Some(0) {
            return Err(format!("config: {at}burst is 0, it must be at least 1"));
        }
        let burst = burst.unwrap_or(rate_per_second.ceil() as u64);
        Ok(Self { rate_micros: (rate_per_second * 1e6).round() as u64, burst })
    }
}

/// The limits by name.
pub(crate) struct Limits {
    pub(crate) default: Limit,
    exact: BTreeMap<String, Limit>,
    prefixes: BTreeMap<String, Limit>,
    /// Lengths of the prefixes, each once, longest first: few, so that a look-up is short.
    prefix_bytes: Vec<usize>,
}

impl Limits {
    /// # Errors
    /// What is wrong in the configuration, and where.
    pub(crate) fn parse(config: &Config) -> Result<Self, String> {
        let default = Limit::parse("", config.rate_per_second, config.burst)?;
        let mut limits = Self { default, exact: BTreeMap::new(), prefixes: BTreeMap::new(), prefix_bytes: Vec::new() };
        for (index, entry) in config.overrides.iter().enumerate() {
            let limit = Limit::parse(&format!("overrides[{index}]."), entry.rate_per_second, entry.burst)?;
            let (map, name) = match entry.tenant.strip_suffix('*') {
                Some(prefix) => (&mut limits.prefixes, prefix),
                None => (&mut limits.exact, entry.tenant.as_str()),
            };
            if map.insert(name.into(), limit).is_some() {
                return Err(format!("config: overrides[{index}].tenant `{}` is there twice", entry.tenant));
            }
        }
        limits.prefix_bytes = limits.prefixes.keys().map(String::len).collect();
        limits.prefix_bytes.sort_unstable_by(|a, b| b.cmp(a));
        limits.prefix_bytes.dedup();
        Ok(limits)
    }

    /// The override for a tenant, if there is one: by its name, else by the longest prefix.
    pub(crate) fn of(&self, tenant: &str) -> Option<Limit> {
        let by_prefix = || {
            let mut prefixes = self.prefix_bytes.iter().filter_map(|bytes| tenant.get(..*bytes));
            prefixes.find_map(|prefix| self.prefixes.get(prefix))
        };
        self.exact.get(tenant).or_else(by_prefix).copied()
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::parse_config;

    use super::*;

    fn limits(text: &str) -> Result<Limits, String> {
        Limits::parse(&parse_config(text)?)
    }

    #[test]
    fn the_most_specific_override_wins() {
        let text = r#"{"rate_per_second": 1, "overrides": [
            {"tenant": "org/*", "rate_per_second": 2},
            {"tenant": "org/team/*", "rate_per_second": 3, "burst": 30},
            {"tenant": "org/team/x", "rate_per_second": 0.5}]}"#;
        let limits = limits(text).unwrap();
        let limit = |rate_micros, burst| Some(Limit { rate_micros, burst });
        assert_eq!(limits.of("org"), None);
        assert_eq!(limits.of("org/a"), limit(2_000_000, 2));
        assert_eq!(limits.of("org/team/a"), limit(3_000_000, 30));
        assert_eq!(limits.of("org/team/x"), limit(500_000, 1));
        assert_eq!(limits.of("örg/a"), None);
        assert_eq!(Some(limits.default), limit(1_000_000, 1));
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
    }

    #[test]
    fn the_schema_is_json_and_no_text_means_the_defaults() {
        assert!(SCHEMA.starts_with('{'));
        assert_eq!(parse_config::<Config>("").unwrap(), parse_config::<Config>("{}").unwrap());
    }
}
