//! Who is in which tier.

use std::collections::BTreeMap;

use crate::{ByName, Entity, bytes_in_range};

/// What tenants are to have, by the tier that a label of theirs names, else by the one that lists their name.
///
/// ```
/// use sluicegate_plugin_sdk::{Entity, Tiers};
///
/// let mut weights = Tiers::new("tier").unwrap();
/// weights.add("tiers[0]", "gold", &["org/gold/*".into(), "ada".into()], 10).unwrap();
/// weights.add("tiers[1]", "silver", &[], 3).unwrap();
/// assert_eq!(weights.of(&Entity { name: "ada".into(), ..Entity::default() }), Some(10));
/// assert_eq!(weights.of(&Entity { name: "bob".into(), ..Entity::default() }), None);
/// assert_eq!(weights.add("tiers[2]", "gold", &[], 1).unwrap_err(), "config: tiers[2].name `gold` is there twice");
/// ```
#[derive(Debug, Clone)]
pub struct Tiers<T> {
    label: String,
    by_label: BTreeMap<String, T>,
    by_name: ByName<T>,
}

impl<T: Copy> Tiers<T> {
    /// Without tiers. The label of a tenant with this key names its tier.
    ///
    /// # Errors
    /// The key has not 1 to 128 bytes.
    pub fn new(label: &str) -> Result<Self, String> {
        bytes_in_range("label", label, 1..=128)?;
        Ok(Self { label: label.into(), by_label: BTreeMap::new(), by_name: ByName::default() })
    }

    /// One more tier: the label's value, and names, or starts of names with a `*` at their end. `at` is its place in the configuration, for
    /// the error.
    ///
    /// # Errors
    /// Its name has not 1 to 128 bytes, or it or one of the tenants is there twice, or a `*` is elsewhere.
    pub fn add(&mut self, at: &str, name: &str, tenants: &[String], tier: T) -> Result<(), String> {
        bytes_in_range(&format!("{at}.name"), name, 1..=128)?;
        if self.by_label.insert(name.into(), tier).is_some() {
            return Err(format!("config: {at}.name `{name}` is there twice"));
        }
        let add = |pattern: &String| self.by_name.add(pattern, tier);
        tenants.iter().try_for_each(add).map_err(|error| format!("config: {at}.tenants: {error}"))
    }

    /// The tier of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<T> {
        self.by_label.get(name).copied()
    }

    /// The tier of a tenant, if it has one: that of its label if that names one, else that of its name.
    #[must_use]
    pub fn of(&self, tenant: &Entity) -> Option<T> {
        let by_label = tenant.label(&self.label).and_then(|tier| self.named(tier));
        by_label.or_else(|| self.by_name.of(&tenant.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Label;

    #[test]
    fn a_label_goes_before_a_name_if_it_names_a_tier() {
        let mut tiers = Tiers::new("plan").unwrap();
        tiers.add("tiers[0]", "gold", &["org/*".into()], 1).unwrap();
        tiers.add("tiers[1]", "silver", &[], 2).unwrap();
        let tier = |name: &str, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| Label { key: (*key).into(), value: (*value).into() });
            tiers.of(&Entity { name: name.into(), labels: labels.collect(), ..Entity::default() })
        };
        assert_eq!(tier("org/x", &[]), Some(1));
        assert_eq!(tier("org/x", &[("plan", "silver")]), Some(2));
        assert_eq!(tier("org/x", &[("plan", "bronze"), ("tier", "silver")]), Some(1));
        assert_eq!(tier("bob", &[("tier", "silver")]), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        assert_eq!(Tiers::<u8>::new("").unwrap_err(), "config: label has 0 bytes, it must have 1 to 128");
        let mut tiers = Tiers::new("tier").unwrap();
        let mut refused = |name: &str, tenant: &str| tiers.add("tiers[0]", name, &[tenant.into()], 1).unwrap_err();
        assert_eq!(refused("", "x"), "config: tiers[0].name has 0 bytes, it must have 1 to 128");
        assert_eq!(refused("a", "x*y"), "config: tiers[0].tenants: `x*y` has a `*` that is not its end");
        assert_eq!(refused("a", "x"), "config: tiers[0].name `a` is there twice");
    }
}
