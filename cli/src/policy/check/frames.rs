//! Asks that no group would make, and that the contract does not exclude: what a policy has to stand.

use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::simulation::{Draws, START};
use sluicegate_scheduler::{Ask, Feedback, Frame, GroupView, LiteView, TenantView, WorkResult};

/// What an ask is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any numbers in the ranges that a group has.
    Plain,
    /// Every number the lowest, the highest, or any: 64 bits of it.
    Extreme,
    /// Nothing to decide on, and nothing that happened.
    Empty,
    /// Feedback alone, of lite topics and tenants that are in no frame.
    Strangers,
    /// As many rows, tenants and feedback as there can be, all of them new.
    Largest,
}

const KINDS: [Kind; 5] = [Kind::Plain, Kind::Extreme, Kind::Empty, Kind::Strangers, Kind::Largest];

/// Asks from a seed, one after the other. Time goes forward, by nothing or by years.
#[derive(Debug, Clone)]
pub(super) struct Asks {
    draws: Draws,
    now: Timestamp,
    sequence: u64,
    /// Ids of the next largest ask.
    fresh: u64,
}

impl Asks {
    pub(super) fn new(seed: u64) -> Self {
        Self { draws: Draws::new(seed), now: START, sequence: 0, fresh: 1 << 32 }
    }

    /// The next one of a kind that is drawn: every second one is plain.
    pub(super) fn next(&mut self) -> (Kind, Ask) {
        let kind = KINDS[usize::try_from(self.draws.up_to(7)).unwrap_or(0).saturating_sub(3)];
        (kind, self.of(kind))
    }

    /// The next one of this kind.
    pub(super) fn of(&mut self, kind: Kind) -> Ask {
        self.sequence += 1;
        let longest = if kind == Kind::Extreme { 1 << 50 } else { 2_000_000 };
        self.now = self.now.plus(Duration::from_micros(self.draws.up_to(longest)));
        let (lites, tenants, feedback) = match kind {
            Kind::Plain | Kind::Extreme => {
                let most = if self.one_in(8) { Ask::LITES_MAX } else { 24 };
                let lites = self.up_to(most);
                (lites, 1 + self.up_to(lites), self.up_to(64))
            }
            Kind::Empty => (0, 0, 0),
            Kind::Strangers => (0, 0, 1 + self.up_to(Ask::FEEDBACK_MAX - 1)),
            Kind::Largest => (Ask::LITES_MAX, Ask::LITES_MAX, Ask::FEEDBACK_MAX),
        };
        let fresh = self.fresh;
        self.fresh += if kind == Kind::Largest { Ask::FEEDBACK_MAX as u64 } else { 0 };
        let id = |draws: &mut Draws, nth: usize| match kind {
            Kind::Largest => fresh + nth as u64,
            Kind::Extreme if draws.up_to(3) == 0 => u64::MAX - draws.up_to(3),
            _ => draws.up_to(200),
        };
        let first = self.draws.up_to(100);
        // Tenants of a frame are each there once.
        let tenant = |asks: &mut Self, nth: usize| TenantView {
            tenant: TenantId(if kind == Kind::Largest { fresh + nth as u64 } else { first + nth as u64 }),
            weight: asks.small(kind, 10_000),
            in_flight: asks.small(kind, 100),
            waiting: asks.small(kind, 100_000),
        };
        let tenant_views: Vec<TenantView> = (0..tenants).map(|nth| tenant(self, nth)).collect();
        let lite_views = (0..lites).map(|nth| {
            let lite = LiteId(id(&mut self.draws, nth));
            let of = if kind == Kind::Largest { nth } else { self.up_to(tenants - 1) };
            self.lite(kind, lite, u32::try_from(of).expect("a frame is small"))
        });
        let lite_views: Vec<LiteView> = lite_views.collect();
        let rows = (0..feedback).map(|nth| {
            let (lite, tenant) = (id(&mut self.draws, nth), id(&mut self.draws, nth));
            self.feedback(kind, LiteId(lite), TenantId(tenant))
        });
        let feedback: Vec<Feedback> = rows.collect();
        let group = GroupView {
            backlog: self.large(kind, 1_000_000),
            in_flight: self.small(kind, 1_000),
            capacity: self.small(kind, 1_000),
            load_ppm: self.small(kind, 1_000_000),
            messages_left: self.large(kind, 1_000),
            cost_left: self.large(kind, 1_000_000),
        };
        let seed = self.draws.up_to(u64::MAX);
        let (now, sequence) = (self.now, self.sequence);
        Ask { feedback, frame: Frame { now, sequence, seed, group, tenants: tenant_views, lites: lite_views } }
    }

    fn lite(&mut self, kind: Kind, lite: LiteId, tenant: u32) -> LiteView {
        LiteView {
            lite,
            tenant,
            head_offset: Offset(self.large(kind, 1_000)),
            head_age: Duration::from_micros(self.large(kind, 10_000_000)),
            head_cost: self.large(kind, 10_000),
            priority: u8::try_from(self.draws.up_to(if kind == Kind::Extreme { 255 } else { 9 })).unwrap_or(9),
            expires_in: (!self.one_in(2)).then(|| Duration::from_micros(self.large(kind, 60_000_000))),
            backlog: self.large(kind, 1_000),
            in_flight: self.small(kind, 4),
            attempts: self.small(kind, 16),
            last_service: (!self.one_in(3)).then(|| Duration::from_micros(self.large(kind, 10_000_000))),
            memo: self.large(kind, u64::MAX),
        }
    }

    fn feedback(&mut self, kind: Kind, lite: LiteId, tenant: TenantId) -> Feedback {
        let results = [WorkResult::Done, WorkResult::Retried, WorkResult::DeadLettered, WorkResult::TimedOut];
        Feedback {
            at: self.now,
            tenant,
            lite,
            wait: (!self.one_in(8)).then(|| Duration::from_micros(self.large(kind, 10_000_000))),
            service: Duration::from_micros(self.large(kind, 10_000_000)),
            cost_estimate: self.large(kind, 10_000),
            cost_measured: self.large(kind, 10_000),
            result: results.get(self.up_to(results.len())).copied(),
            retry_after: self.one_in(10).then(|| Duration::from_micros(self.large(kind, 60_000_000))),
        }
    }

    /// A number up to this; where extremes are wanted, often the lowest or the highest there is.
    fn large(&mut self, kind: Kind, usual: u64) -> u64 {
        let choice = if kind == Kind::Extreme { self.draws.up_to(3) } else { 9 };
        match choice {
            0 => 0,
            1 => u64::MAX,
            2 => self.draws.up_to(u64::MAX),
            _ => self.draws.up_to(usual),
        }
    }

    fn small(&mut self, kind: Kind, usual: u32) -> u32 {
        let number = self.large(kind, usual.into());
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    fn up_to(&mut self, max: usize) -> usize {
        usize::try_from(self.draws.up_to(max as u64)).expect("it is at most max")
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.draws.up_to(many - 1) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_to_what_the_contract_says() {
        let mut asks = Asks::new(1);
        let mut seen = Vec::new();
        for _ in 0..400 {
            let (kind, ask) = asks.next();
            let tenants = ask.frame.tenants.len();
            assert!(ask.frame.lites.len() <= Ask::LITES_MAX && ask.feedback.len() <= Ask::FEEDBACK_MAX);
            assert!(ask.frame.lites.iter().all(|row| (row.tenant as usize) < tenants), "{kind:?}");
            let mut ids: Vec<u64> = ask.frame.tenants.iter().map(|view| view.tenant.0).collect();
            ids.dedup();
            assert_eq!(ids.len(), tenants);
            if !seen.contains(&kind) {
                seen.push(kind);
            }
        }
        assert_eq!(seen.len(), KINDS.len());
        let same = |seed| Asks::new(seed).next();
        assert_eq!(same(3), same(3));
    }
}
