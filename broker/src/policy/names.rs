//! Which tenants a guest has learnt. A name crosses once, until it is forgotten.

use std::collections::{HashSet, VecDeque};

use sluicegate_protocol::TenantId;
use sluicegate_scheduler::Ask;

use super::limits::{NAMES_FORGOTTEN, NAMES_MAX};

/// The tenants that a guest knows by name.
#[derive(Default)]
pub(super) struct Names {
    known: HashSet<TenantId>,
    oldest_first: VecDeque<TenantId>,
}

/// What to tell a guest before it is asked.
pub(super) struct News {
    pub(super) forgotten: Vec<TenantId>,
    pub(super) unknown: Vec<TenantId>,
}

impl Names {
    /// What the guest must forget and learn before this ask, taken as done.
    pub(super) fn before(&mut self, ask: &Ask) -> News {
        let mentioned = || {
            let rows = ask.frame.tenants.iter().map(|tenant| tenant.tenant);
            rows.chain(ask.feedback.iter().map(|feedback| feedback.tenant))
        };
        let unknown = mentioned().filter(|tenant| !self.known.contains(tenant)).count();
        let mut forgotten = Vec::new();
        if self.known.len() + unknown > NAMES_MAX {
            forgotten.extend(self.oldest_first.drain(..NAMES_FORGOTTEN.min(self.oldest_first.len())));
        }
        for tenant in &forgotten {
            self.known.remove(tenant);
        }
        let unknown: Vec<_> = mentioned().filter(|tenant| self.known.insert(*tenant)).collect();
        self.oldest_first.extend(&unknown);
        News { forgotten, unknown }
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::Timestamp;
    use sluicegate_scheduler::{Frame, GroupView, TenantView};

    use super::*;

    fn ask(tenants: std::ops::Range<u64>) -> Ask {
        let view = |tenant| TenantView { tenant: TenantId(tenant), weight: 1, in_flight: 0, waiting: 1 };
        let frame = Frame {
            now: Timestamp(0),
            sequence: 0,
            seed: 0,
            group: GroupView::default(),
            tenants: tenants.map(view).collect(),
            lites: Vec::new(),
        };
        Ask { feedback: Vec::new(), frame }
    }

    #[test]
    fn a_name_crosses_once() {
        let mut names = Names::default();
        assert_eq!(names.before(&ask(0..3)).unknown.len(), 3);
        assert_eq!(names.before(&ask(1..4)).unknown, [TenantId(3)]);
    }

    #[test]
    fn the_oldest_are_forgotten_and_learnt_again_when_they_come_back() {
        let mut names = Names::default();
        names.before(&ask(0..NAMES_MAX as u64));
        let news = names.before(&ask(0..1));
        assert!(news.forgotten.is_empty() && news.unknown.is_empty());
        let news = names.before(&ask(NAMES_MAX as u64 - 1..NAMES_MAX as u64 + 1));
        assert_eq!((news.forgotten.len(), news.unknown.len()), (NAMES_FORGOTTEN, 1));
        assert_eq!(names.before(&ask(0..1)).unknown, [TenantId(0)]);
        assert_eq!(names.known.len(), names.oldest_first.len());
    }
}
