//! What an operator can set, and which tenant is in which tier.

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Entity, Tiers, in_range};

/// Tiers of one configuration: one for each band below that of promotions.
const TIERS_MAX: usize = 9;
/// What all floors may come to, in percent: the first tier is to be first in more than name.
const FLOORS_MAX: u32 = 90;

/// JSON Schema of [`Config`].
pub(crate) const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "tiers": {
      "type": "array",
      "minItems": 2,
      "maxItems": 9,
      "default": [
        { "name": "vip", "tenants": [], "floor_percent": 0 },
        { "name": "standard", "tenants": [], "floor_percent": 10 }
      ],
      "description": "The first one first",
      "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
          "name": { "type": "string", "minLength": 1, "maxLength": 128, "description": "Value of the label" },
          "tenants": { "type": "array", "items": { "type": "string", "minLength": 1 }, "default": [], "description": "Names, or starts of names with * at the end" },
          "floor_percent": { "type": "integer", "minimum": 0, "maximum": 90, "default": 0, "description": "Percent of deliveries that the tier has while it has work; 0 for the first, 90 in all" }
        }
      }
    },
    "label": { "type": "string", "minLength": 1, "maxLength": 128, "default": "tier", "description": "Key of the tenants' label that names their tier" },
    "default_tier": { "type": ["string", "null"], "default": null, "description": "Tier of a tenant that nothing says anything of; the last by default" },
    "window_deliveries": { "type": "integer", "minimum": 100, "maximum": 100000, "default": 200, "description": "Deliveries over which floors are kept" }
  }
}"#;

/// The policy's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The tiers, the first one first; `vip` and `standard` by default, this one with a floor of 10.
    pub tiers: Vec<Tier>,
    /// Key of the tenants' label that names their tier; `tier` by default.
    pub label: String,
    /// Tier of a tenant that nothing says anything of; the last by default.
    pub default_tier: Option<String>,
    /// Deliveries over which floors are kept; 200 by default.
    pub window_deliveries: u32,
}

/// Tenants that are served before those of the next tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Value of the label.
    pub name: String,
    /// Names, or starts of names with `*` at the end.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Percent of deliveries that the tier has while it has work.
    #[serde(default)]
    pub floor_percent: u32,
}

impl Default for Config {
    fn default() -> Self {
        let tier = |name: &str, floor_percent| Tier { name: name.into(), tenants: Vec::new(), floor_percent };
        Self {
            tiers: vec![tier("vip", 0), tier("standard", 10)],
            label: "tier".into(),
            default_tier: None,
            window_deliveries: 200,
        }
    }
}

/// Tiers by label and name, as indices from the first.
#[derive(Debug)]
pub(crate) struct Ranks {
    pub(crate) default: u8,
    pub(crate) names: Vec<String>,
    tiers: Tiers<u8>,
}

impl Ranks {
    /// # Errors
    /// What is wrong in the configuration, and where.
    pub(crate) fn parse(config: &Config) -> Result<Self, String> {
        let Config { tiers, label, default_tier, window_deliveries } = config;
        if !(2..=TIERS_MAX).contains(&tiers.len()) {
            return Err(format!("config: there are {} tiers, there must be 2 to {TIERS_MAX}", tiers.len()));
        }
        in_range("window_deliveries", *window_deliveries, 100..=100_000)?;
        if tiers[0].floor_percent > 0 {
            let percent = tiers[0].floor_percent;
            return Err(format!(
                "config: tiers[0].floor_percent is {percent}, it must be 0: the first tier comes first"
            ));
        }
        let floors = tiers.iter().fold(0_u32, |sum, tier| sum.saturating_add(tier.floor_percent));
        if floors > FLOORS_MAX {
            return Err(format!("config: all tiers[].floor_percent are {floors}, they must be {FLOORS_MAX} at most"));
        }
        let mut ranks = Tiers::new(label)?;
        for ((index, tier), rank) in tiers.iter().enumerate().zip(0..) {
            ranks.add(&format!("tiers[{index}]"), &tier.name, &tier.tenants, rank)?;
        }
        let names: Vec<String> = tiers.iter().map(|tier| tier.name.clone()).collect();
        let name = default_tier.as_ref().unwrap_or(&names[names.len() - 1]);
        let default = ranks.named(name);
        let default = default.ok_or_else(|| format!("config: default_tier `{name}` is none of tiers[].name"))?;
        Ok(Self { default, names, tiers: ranks })
    }

    /// The tier of a tenant: by its label if that names one, else by its name.
    pub(crate) fn of(&self, tenant: &Entity) -> u8 {
        self.tiers.of(tenant).unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::{Label, assert_schema_fits, parse_config};

    use super::*;

    fn ranks(text: &str) -> Result<Ranks, String> {
        Ranks::parse(&parse_config(text)?)
    }

    #[test]
    fn a_label_goes_before_a_name_if_it_names_a_tier() {
        let text = r#"{"default_tier": "b", "label": "plan", "tiers": [
            {"name": "a", "tenants": ["org/*", "ada"]}, {"name": "b"}, {"name": "c", "tenants": ["org/trial/*"]}]}"#;
        let ranks = ranks(text).unwrap();
        let tier = |name: &str, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| Label { key: (*key).into(), value: (*value).into() });
            ranks.of(&Entity { name: name.into(), labels: labels.collect(), ..Entity::default() })
        };
        assert_eq!([tier("ada", &[]), tier("org/x", &[]), tier("org/trial/x", &[]), tier("bob", &[])], [0, 0, 2, 1]);
        assert_eq!([tier("ada", &[("plan", "c")]), tier("ada", &[("plan", "z"), ("tier", "c")])], [2, 0]);
    }

    #[test]
    fn a_bad_config_says_where() {
        for (text, error) in [
            (r#"{"tiers": [{"name": "a"}]}"#, "config: there are 1 tiers, there must be 2 to 9"),
            (r#"{"label": ""}"#, "config: label has 0 bytes, it must have 1 to 128"),
            (r#"{"window_deliveries": 99}"#, "config: window_deliveries is 99, it must be 100 to 100000"),
            (
                r#"{"tiers": [{"name": "a", "floor_percent": 1}, {"name": "b"}]}"#,
                "config: tiers[0].floor_percent is 1, it must be 0: the first tier comes first",
            ),
            (
                r#"{"tiers": [{"name": "a"}, {"name": "b", "floor_percent": 50}, {"name": "c", "floor_percent": 41}]}"#,
                "config: all tiers[].floor_percent are 91, they must be 90 at most",
            ),
            (r#"{"tiers": [{"name": "a"}, {"name": ""}]}"#, "config: tiers[1].name has 0 bytes, it must have 1 to 128"),
            (r#"{"tiers": [{"name": "a"}, {"name": "a"}]}"#, "config: tiers[1].name `a` is there twice"),
            (
                r#"{"tiers": [{"name": "a", "tenants": ["x*y"]}, {"name": "b"}]}"#,
                "config: tiers[0].tenants: `x*y` has a `*` that is not its end",
            ),
            (r#"{"default_tier": "gold"}"#, "config: default_tier `gold` is none of tiers[].name"),
        ] {
            assert_eq!(ranks(text).unwrap_err(), error);
        }
        assert!(ranks(r#"{"tier": []}"#).unwrap_err().starts_with("config: unknown field `tier`"));
    }

    #[test]
    fn the_schema_has_every_field_with_its_default() {
        assert_schema_fits(SCHEMA, &Config::default());
    }
}
