//! What operators configure by tenant name.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Rules of one configuration: more would not be read within the fuel of a start.
const RULES_MAX: usize = 4_096;

/// Rules by name: exact names, and starts of names with a `*` at their end. An exact name goes before any start, a longer start before a
/// shorter one. At most 4,096.
///
/// ```
/// use sluicegate_plugin_sdk::ByName;
///
/// let mut limits = ByName::default();
/// limits.add("org/*", 100).unwrap();
/// limits.add("org/team/*", 20).unwrap();
/// limits.add("org/team/ada", 500).unwrap();
/// assert_eq!(["org/x", "org/team/x", "org/team/ada", "eve"].map(|name| limits.of(name)), [Some(100), Some(20), Some(500), None]);
/// assert_eq!(limits.add("o*g", 1).unwrap_err(), "`o*g` has a `*` that is not its end");
/// ```
#[derive(Debug, Clone)]
pub struct ByName<T> {
    exact: BTreeMap<String, T>,
    prefixes: BTreeMap<Vec<u8>, T>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), prefixes: BTreeMap::new() }
    }
}

impl<T: Copy> ByName<T> {
    /// Adds a rule for one name, or, with a `*` at its end, for all that start with what is before it.
    ///
    /// # Errors
    /// What is wrong with the pattern; the text starts with it.
    pub fn add(&mut self, pattern: &str, rule: T) -> Result<(), String> {
        let prefix = pattern.strip_suffix('*');
        if pattern.is_empty() {
            return Err("`` names no tenant".into());
        }
        if prefix.unwrap_or(pattern).contains('*') {
            return Err(format!("`{pattern}` has a `*` that is not its end"));
        }
        if self.exact.len() + self.prefixes.len() == RULES_MAX {
            return Err(format!("`{pattern}` is one rule too many, there may be {RULES_MAX}"));
        }
        let before = match prefix {
            Some(prefix) => self.prefixes.insert(prefix.into(), rule),
            None => self.exact.insert(pattern.into(), rule),
        };
        match before {
            Some(_) => Err(format!("`{pattern}` is there twice")),
            None => Ok(()),
        }
    }

    /// The most specific rule for a name, if there is one.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<T> {
        self.exact.get(name).copied().or_else(|| self.longest_prefix(name.as_bytes()))
    }

    /// Of the prefixes not after the name the last one starts with the longest that fits, since all between them do. So it takes one or
    /// two look-ups, however many rules there are; with prefixes that are made for it, as many as the name has bytes.
    fn longest_prefix(&self, mut name: &[u8]) -> Option<T> {
        loop {
            let not_after = (Bound::Unbounded, Bound::Included(name));
            let (prefix, rule) = self.prefixes.range::<[u8], _>(not_after).next_back()?;
            let shared = prefix.iter().zip(name).take_while(|(a, b)| a == b).count();
            if shared == prefix.len() {
                return Some(*rule);
            }
            name = &name[..shared];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(patterns: &[&'static str]) -> ByName<&'static str> {
        let mut rules = ByName::default();
        for pattern in patterns {
            rules.add(pattern, *pattern).unwrap();
        }
        rules
    }

    #[test]
    fn an_exact_name_goes_before_a_longer_prefix_and_that_before_a_shorter_one() {
        let rules = rules(&["*", "org/*", "org/team/*", "org/team/x", "org/team/x*", "ö*"]);
        for (name, rule) in [
            ("", "*"),
            ("org", "*"),
            ("org/", "org/*"),
            ("org/team", "org/*"),
            ("org/tea/z", "org/*"),
            ("org/team/", "org/team/*"),
            ("org/team/x", "org/team/x"),
            ("org/team/xy", "org/team/x*"),
            ("org/team/zzz", "org/team/*"),
            ("org/zebra", "org/*"),
            ("zebra", "*"),
            ("öl", "ö*"),
            ("ä", "*"),
        ] {
            assert_eq!(rules.of(name), Some(rule), "{name}");
        }
    }

    #[test]
    fn a_name_without_a_rule_has_none() {
        let rules = rules(&["org/a*", "org/b*", "orgs"]);
        for name in ["", "o", "org", "org/", "org/c", "orgsx", "zebra"] {
            assert_eq!(rules.of(name), None, "{name}");
        }
        assert_eq!(ByName::<u8>::default().of("org"), None);
    }

    #[test]
    fn the_look_up_finds_what_trying_each_prefix_finds() {
        let letters = ["", "a", "b", "aa", "ab", "ba", "bb", "aaa", "aab", "aba", "abb", "baa", "bab", "bba", "bbb"];
        for chosen in 0_u32..1 << letters.len() {
            let mut rules = ByName::default();
            let patterns = letters.iter().enumerate().filter(|(index, _)| chosen & (1 << index) != 0);
            let patterns: Vec<&str> = patterns.map(|(_, prefix)| *prefix).collect();
            for prefix in &patterns {
                rules.add(&format!("{prefix}*"), *prefix).unwrap();
            }
            for name in letters {
                let fits = patterns.iter().filter(|prefix| name.starts_with(**prefix));
                assert_eq!(rules.of(name), fits.max_by_key(|prefix| prefix.len()).copied(), "{patterns:?} {name}");
            }
        }
    }

    #[test]
    fn a_pattern_that_makes_no_sense_is_refused() {
        let mut rules = ByName::default();
        rules.add("org/*", 1).unwrap();
        assert_eq!(rules.add("", 2).unwrap_err(), "`` names no tenant");
        assert_eq!(rules.add("org/*/x", 2).unwrap_err(), "`org/*/x` has a `*` that is not its end");
        assert_eq!(rules.add("org/**", 2).unwrap_err(), "`org/**` has a `*` that is not its end");
        assert_eq!(rules.add("org/*", 2).unwrap_err(), "`org/*` is there twice");
        (1..RULES_MAX).for_each(|n| rules.add(&n.to_string(), n).unwrap());
        assert_eq!(rules.add("ada", 2).unwrap_err(), "`ada` is one rule too many, there may be 4096");
    }
}
