//! What an operator can set, and which tenant is in which tier.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::Entity;

use crate::names::ByName;

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
pub(crate) struct Tiers {
    pub(crate) default: u32,
    label: String,
    by_label: BTreeMap<String, u32>,
    by_name: ByName<u32>,
}

impl Tiers {
    /// # Errors
    /// What is wrong in the configuration, and where.
    pub(crate) fn parse(config: &Config) -> Result<Self, String> {
        in_range("half_life_seconds", config.half_life_seconds, 60..=604_800)?;
        in_range("heavy_min_percent", config.heavy_min_percent, 1..=100)?;
        in_range("newcomer_percent", config.newcomer_percent, 1..=100)?;
        in_range("the length of label", config.label.len(), 1..=128)?;
        in_range("weight", config.weight, 1..=100)?;
        in_range("the number of tiers", config.tiers.len(), 0..=TIERS_MAX)?;
        let (mut by_label, mut by_name) = (BTreeMap::new(), ByName::default());
        for (index, tier) in config.tiers.iter().enumerate() {
            in_range(&format!("the length of tiers[{index}].name"), tier.name.len(), 1..=128)?;
            in_range(&format!("tiers[{index}].weight"), tier.weight, 1..=100)?;
            if by_label.insert(tier.name.clone(), tier.weight).is_some() {
                return Err(format!("config: tiers[{index}].name `{}` is there twice", tier.name));
            }
            for pattern in &tier.tenants {
                by_name
                    .add(pattern, tier.weight)
                    .map_err(|error| format!("config: tiers[{index}].tenants: {error}"))?;
            }
        }
        Ok(Self { default: config.weight, label: config.label.clone(), by_label, by_name })
    }

    /// The weight of a tenant: by its label if that names a tier, else by its name.
    pub(crate) fn weight_of(&self, tenant: &Entity) -> u32 {
        let by_label = tenant.label(&self.label).and_then(|tier| self.by_label.get(tier)).copied();
        by_label.or_else(|| self.by_name.of(&tenant.name)).unwrap_or(self.default)
    }
}

fn in_range<T: PartialOrd + Display + Copy>(field: &str, value: T, range: RangeInclusive<T>) -> Result<(), String> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(format!("config: {field} is {value}, it must be {} to {}", range.start(), range.end())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_str, to_value};
    use sluicegate_plugin_sdk::{Label, parse_config};

    use super::*;

    fn tiers(text: &str) -> Result<Tiers, String> {
        Tiers::parse(&parse_config(text)?)
    }

    #[test]
    fn a_label_goes_before_a_name_if_it_names_a_tier() {
        let text = r#"{"weight": 2, "label": "plan", "tiers": [
            {"name": "gold", "weight": 10, "tenants": ["org/*", "ada"]}, {"name": "silver", "weight": 5}]}"#;
        let tiers = tiers(text).unwrap();
        let weight = |name: &str, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| Label { key: (*key).into(), value: (*value).into() });
            tiers.weight_of(&Entity { name: name.into(), labels: labels.collect(), ..Entity::default() })
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
            (r#"{"label": ""}"#, "config: the length of label is 0, it must be 1 to 128"),
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
            assert_eq!(tiers(text).unwrap_err(), error);
        }
        assert!(tiers(r#"{"tier": []}"#).unwrap_err().starts_with("config: unknown field `tier`"));
    }

    #[test]
    fn the_schema_has_every_field_with_its_default() {
        let schema: Value = from_str(SCHEMA).unwrap();
        let tiers = vec![Tier { name: "a".into(), weight: 1, tenants: Vec::new() }];
        let with_tier = to_value(Config { tiers, ..Config::default() }).unwrap();
        for (at, fields) in [("", &with_tier), ("/properties/tiers/items", &with_tier["tiers"][0])] {
            let properties = schema.pointer(&format!("{at}/properties")).unwrap().as_object().unwrap();
            assert!(properties.keys().eq(fields.as_object().unwrap().keys()));
        }
        for (field, default) in to_value(Config::default()).unwrap().as_object().unwrap() {
            assert_eq!(schema["properties"][field]["default"], *default, "{field}");
        }
    }
}
