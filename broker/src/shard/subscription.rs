//! Who subscribed to which lite topics of a group: by name, whether the lite topic exists or not. Pure bookkeeping.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sluicegate_protocol::limits::{SUBSCRIBED_LITES_MAX, SUBSCRIBED_PREFIXES_MAX, SUBSCRIPTIONS_PER_GROUP_MAX};
use sluicegate_protocol::{ErrorCode, LiteName};
use sluicegate_scheduler::{Members, SessionKey};

use crate::refusal::Refusal;

/// Names and prefixes of lite topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) lites: Vec<LiteName>,
    /// Each could be a name itself.
    pub(crate) prefixes: Vec<LiteName>,
}

/// The subscriptions of one group.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_name: HashMap<LiteName, Members>,
    by_prefix: HashMap<LiteName, BTreeSet<SessionKey>>,
    /// How many prefixes have so many bytes: only those lengths are looked for in a name.
    prefix_lengths: BTreeMap<usize, usize>,
    of_session: HashMap<SessionKey, Own>,
    /// Entries of all sessions together.
    count: usize,
}

#[derive(Debug, Default)]
struct Own {
    lites: HashSet<LiteName>,
    prefixes: HashSet<LiteName>,
}

impl Subscriptions {
    /// Whether nobody subscribed to anything.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The sessions that subscribed to the lite topic with this name, as a row says it; none if it is no name.
    pub(super) fn members_of(&self, name: &str) -> Members {
        LiteName::parse(name).map_or_else(|_| Members::default(), |name| self.members(&name))
    }

    /// The sessions that subscribed to this lite topic.
    pub(super) fn members(&self, name: &LiteName) -> Members {
        let named = self.by_name.get(name);
        if self.by_prefix.is_empty() {
            return named.cloned().unwrap_or_default();
        }
        let text = name.as_str();
        let starts = self.prefix_lengths.keys().filter_map(|&length| text.get(..length));
        let matching = starts.filter_map(|start| self.by_prefix.get(start)).flatten();
        named.into_iter().flat_map(|members| members.iter()).chain(matching).copied().collect()
    }

    /// The sessions that subscribed to this lite topic by its name.
    pub(super) fn named(&self, name: &LiteName) -> &[SessionKey] {
        self.by_name.get(name).map_or(&[], |members| members)
    }

    /// What the session is subscribed to: names, and prefixes.
    pub(super) fn count_of(&self, session: SessionKey) -> (usize, usize) {
        self.of_session.get(&session).map_or((0, 0), |own| (own.lites.len(), own.prefixes.len()))
    }

    /// Subscribes the session to these too, or to none of them.
    pub(super) fn add(&mut self, session: SessionKey, names: &Names) -> Result<(), Refusal> {
        let (lites, prefixes) = self.count_of(session);
        let limits = [
            ("lite topics that a session subscribes to", SUBSCRIBED_LITES_MAX, lites + names.lites.len()),
            ("prefixes that a session subscribes to", SUBSCRIBED_PREFIXES_MAX, prefixes + names.prefixes.len()),
            (
                "subscriptions of a group",
                SUBSCRIPTIONS_PER_GROUP_MAX,
                self.count + names.lites.len() + names.prefixes.len(),
            ),
        ];
        for (limit, max, wanted) in limits {
            if wanted > max {
                return Err(Refusal::limit(ErrorCode::LimitReached, limit, max as u64, wanted as u64));
            }
        }
        let own = self.of_session.entry(session).or_default();
        for name in &names.lites {
            if own.lites.insert(name.clone()) {
                self.count += 1;
                let members = self.by_name.entry(name.clone()).or_default();
                *members = members.iter().copied().chain([session]).collect();
            }
        }
        for prefix in &names.prefixes {
            if own.prefixes.insert(prefix.clone()) {
                self.count += 1;
                let sessions = self.by_prefix.entry(prefix.clone()).or_default();
                if sessions.is_empty() {
                    *self.prefix_lengths.entry(prefix.as_str().len()).or_default() += 1;
                }
                sessions.insert(session);
            }
        }
        Ok(())
    }

    /// The session is subscribed to these no longer.
    pub(super) fn remove(&mut self, session: SessionKey, names: &Names) {
        let Some(own) = self.of_session.get_mut(&session) else { return };
        let (mut lites, mut prefixes) = (Vec::new(), Vec::new());
        lites.extend(names.lites.iter().filter(|&name| own.lites.remove(name)));
        prefixes.extend(names.prefixes.iter().filter(|&prefix| own.prefixes.remove(prefix)));
        if own.lites.is_empty() && own.prefixes.is_empty() {
            self.of_session.remove(&session);
        }
        for name in lites {
            self.drop_name(session, name);
        }
        for prefix in prefixes {
            self.drop_prefix(session, prefix);
        }
    }

    /// The session is gone.
    pub(super) fn forget(&mut self, session: SessionKey) {
        let Some(own) = self.of_session.remove(&session) else { return };
        for name in &own.lites {
            self.drop_name(session, name);
        }
        for prefix in &own.prefixes {
            self.drop_prefix(session, prefix);
        }
    }

    fn drop_name(&mut self, session: SessionKey, name: &LiteName) {
        self.count -= 1;
        let Some(members) = self.by_name.get_mut(name) else { return };
        *members = members.iter().copied().filter(|&member| member != session).collect();
        if members.is_empty() {
            self.by_name.remove(name);
        }
    }

    fn drop_prefix(&mut self, session: SessionKey, prefix: &LiteName) {
        self.count -= 1;
        let Some(sessions) = self.by_prefix.get_mut(prefix) else { return };
        sessions.remove(&session);
        if !sessions.is_empty() {
            return;
        }
        self.by_prefix.remove(prefix);
        let length = prefix.as_str().len();
        if let Some(count) = self.prefix_lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.prefix_lengths.remove(&length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(lites: &[&str], prefixes: &[&str]) -> Names {
        let parse = |list: &[&str]| list.iter().map(|name| LiteName::parse(name).unwrap()).collect();
        Names { lites: parse(lites), prefixes: parse(prefixes) }
    }

    fn members(subscriptions: &Subscriptions, name: &str) -> Vec<u64> {
        subscriptions.members(&LiteName::parse(name).unwrap()).iter().map(|session| session.0).collect()
    }

    #[test]
    fn names_and_prefixes_of_several_sessions_are_united() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(SessionKey(2), &names(&["user/1", "user/1"], &["us"])).unwrap();
        subscriptions.add(SessionKey(1), &names(&["user/1", "x"], &["user/", "ü"])).unwrap();
        assert_eq!(subscriptions.count_of(SessionKey(2)), (1, 1));
        assert_eq!(members(&subscriptions, "user/1"), [1, 2]);
        assert_eq!(members(&subscriptions, "used"), [2]);
        assert_eq!(members(&subscriptions, "x"), [1]);
        assert_eq!(members(&subscriptions, "über"), [1]);
        assert!(members(&subscriptions, "ÿ").is_empty());
    }

    #[test]
    fn what_is_removed_or_forgotten_leaves_nothing() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(SessionKey(1), &names(&["a", "b"], &["p", "q/"])).unwrap();
        subscriptions.add(SessionKey(2), &names(&["a"], &["p"])).unwrap();
        subscriptions.remove(SessionKey(1), &names(&["a", "never"], &["p"]));
        assert_eq!((members(&subscriptions, "a"), members(&subscriptions, "pp")), (vec![2], vec![2]));
        subscriptions.forget(SessionKey(1));
        subscriptions.forget(SessionKey(2));
        assert!(subscriptions.by_name.is_empty() && subscriptions.by_prefix.is_empty());
        assert!(subscriptions.prefix_lengths.is_empty() && subscriptions.of_session.is_empty());
        assert_eq!(subscriptions.count, 0);
    }

    #[test]
    fn a_subscription_beyond_the_limit_is_refused_and_changes_nothing() {
        let mut subscriptions = Subscriptions::default();
        let prefixes: Vec<_> =
            (0..=SUBSCRIBED_PREFIXES_MAX).map(|number| LiteName::parse(&format!("p{number}")).unwrap()).collect();
        let refused = subscriptions.add(SessionKey(1), &Names { lites: Vec::new(), prefixes });
        assert_eq!(refused.unwrap_err().code, ErrorCode::LimitReached);
        assert_eq!(subscriptions.count_of(SessionKey(1)), (0, 0));
    }
}
