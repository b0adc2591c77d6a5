//! What an operator can set, and which tenant is in which tier.

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Entity, Tiers, in_range};

/// Tiers of one configuration.
const TIERS_MAX: usize = 64;

/// JSON Schema of [`Config`].
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "half_life_seconds": { "type": "integer", "minimum": 60, "maximum": 604800, "default": 1800, "description": "Seconds after which what was used counts half" },
    "heavy_min_percent": { "type": "integer", "minimum": 1, "maximum": 100, "default": 10, "description": "Percent of its weight that a heavy user keeps" },
    "newcomer_percent": { "type": "integer", "minimum": 1, "maximum": 100, "default": 50, "description": "Percent of the fair level at which who comes or comes back starts" },
    "label": { "type": "string", "minLength": 1, "maxLength": 128, "default": "tier", "description": "Key of the tenants' label that names their tier" },
    "weight": { "type": "integer", "minimum": 1, "maximum": 100, "default": 1, "description": "Weight of a tenant without a tier" },
    "tiers": {
      "type": "array",
      "maxItems": 64,
      "default": [],
      "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["name", "weight"],
        "properties": {
          "name": { "type": "string", "minLength": 1, "maxLength": 128, "description": "Value of the label" },
          "weight": { "type": "integer", "minimum": 1, "maximum": 100, "description": "How much it is to have, next to the others" },
          "tenants": { "type": "array", "items": { "type": "string", "minLength": 1 }, "default": [], "description": "Names, or starts of names with * at the end" }
        }
      }
    }
  }
}"#;

/// The policy's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Seconds after which what was used counts half; 1,800 by default.
    pub half_life_seconds: u64,
    /// Percent of its weight that a heavy user keeps; 10 by default.
    pub heavy_min_percent: u32,
    /// Percent of the fair level at which who comes or comes back starts; 50 by default.
    pub newcomer_percent: u32,
    /// Key of the tenants' label that names their tier; `tier` by default.
    pub label: String,
    /// Weight of a tenant without a tier; 1 by default.
    pub weight: u32,
    /// Those who are to have more.
    pub tiers: Vec<Tier>,
}

/// Tenants that are to have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Value of the label.
    pub name: String,
    /// How much it is to have, next to the others: 1 to 100.
    pub weight: u32,
    /// Names, or starts of names with `*` at the end.
    #[serde(default)]
    pub tenants: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            half_life_seconds: 1_800,
            heavy_min_percent: 10,
            newcomer_percent: 50,
            label: "tier".into(),
            weight: 1,
            tiers: Vec::new(),
        }
    }
}

/// Weights by label and name.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) default: u32,
    tiers: Tiers<u32>,
}

impl Weights {
    /// # Errors
    /// What is wrong in the configuration, and where.
    pub(crate) fn parse(config: &Config) -> Result<Self, String> {
        in_range("half_life_seconds", config.half_life_seconds, 60..=604_800)?;
        in_range("heavy_min_percent", config.heavy_min_percent, 1..=100)?;
        in_range("newcomer_percent", config.newcomer_percent, 1..=100)?;
        in_range("weight", config.weight, 1..=100)?;
        in_range("the number of tiers", config.tiers.len(), 0..=TIERS_MAX)?;
        let mut tiers = Tiers::new(&config.label)?;
        for (index, tier) in config.tiers.iter().enumerate() {
            let at = format!("tiers[{index}]");
            in_range(&format!("{at}.weight"), tier.weight, 1..=100)?;
            tiers.add(&at, &tier.name, &tier.tenants, tier.weight)?;
        }
        Ok(Self { default: config.weight, tiers })
    }

    /// The weight of a tenant: by its label if that names a tier, else by its name.
    pub(crate) fn of(&self, tenant: &Entity) -> u32 {
        self.tiers.of(tenant).unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::{Label, assert_schema_fits, parse_config};

    use super::*;

    fn weights(text: &str) -> Result<Weights, String> {
        Weights::parse(&parse_config(text)?)
    }

    #[test]
    fn a_label_goes_before_a_name_if_it_names_a_tier() {
        let text = r#"{"weight": 2, "label": "plan", "tiers": [
            {"name": "gold", "weight": 10, "tenants": ["org/*", "ada"]}, {"name": "silver", "weight": 5}]}"#;
        let weights = weights(text).unwrap();
        let weight = |name: &str, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| Label { key: (*key).into(), value: (*value).into() });
            weights.of(&Entity { name: name.into(), labels: labels.collect(), ..Entity::default() })
        };
        assert_eq!(weight("ada", &[]), 10);
        assert_eq!(weight("ada", &[("plan", "silver")]), 5);
        assert_eq!(weight("org/x", &[("plan", "bronze"), ("tier", "silver")]), 10);
        assert_eq!(weight("bob", &[("plan", "gold")]), 10);
        assert_eq!(weight("bob", &[]), 2);
    }

    #[test]
    fn a_bad_config_says_where() {
        for (text, error) in [
            (r#"{"half_life_seconds": 5}"#, "config: half_life_seconds is 5, it must be 60 to 604800"),
            (r#"{"heavy_min_percent": 0}"#, "config: heavy_min_percent is 0, it must be 1 to 100"),
            (r#"{"newcomer_percent": 101}"#, "config: newcomer_percent is 101, it must be 1 to 100"),
            (r#"{"label": ""}"#, "config: label has 0 bytes, it must have 1 to 128"),
            (r#"{"weight": 0}"#, "config: weight is 0, it must be 1 to 100"),
            (r#"{"tiers": [{"name": "a", "weight": 101}]}"#, "config: tiers[0].weight is 101, it must be 1 to 100"),
            (
                r#"{"tiers": [{"name": "a", "weight": 1}, {"name": "a", "weight": 2}]}"#,
                "config: tiers[1].name `a` is there twice",
            ),
            (
                r#"{"tiers": [{"name": "a", "weight": 1, "tenants": ["x"]}, {"name": "b", "weight": 2, "tenants": ["x"]}]}"#,
                "config: tiers[1].tenants: `x` is there twice",
            ),
        ] {
            assert_eq!(weights(text).unwrap_err(), error);
        }
        assert!(weights(r#"{"tier": []}"#).unwrap_err().starts_with("config: unknown field `tier`"));
    }

    #[test]
    fn the_schema_has_every_field_with_its_default() {
        let tiers = vec![Tier { name: "a".into(), weight: 1, tenants: Vec::new() }];
        assert_schema_fits(SCHEMA, &Config { tiers, ..Config::default() });
    }
}
