//! Draws a history from a seed: the group's settings and the steps. Pure; who is meant by a step's pick is known only
//! when the step comes.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_client::admin::{
    ConcurrencySettings, Durability, GroupSettings, QuotaSettings, TenantRule, TopicSettings,
};
use sluicegate_tests::history::End;

/// What is published to: four tenants of three lite topics where the tenant is the prefix.
pub(crate) const LITES: [&str; 12] =
    ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2", "c/0", "c/1", "c/2", "d/0", "d/1", "d/2"];
/// What consumers subscribe to besides single names.
pub(crate) const PREFIXES: [&str; 4] = ["a/", "b/", "c/", "d"];

/// The dearest message.
pub(crate) const COST_MAX: u64 = 60;
const CONSUMERS_MAX: usize = 4;
/// In a hundred, how many histories have `kill -9` in them.
const KILLED_PERCENT: u32 = 34;

/// Chooses among what is there when a step comes.
pub(crate) type Pick = usize;

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) topic: TopicSettings,
    pub(crate) group: GroupSettings,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Publish {
    pub(crate) lite: usize,
    pub(crate) priority: u8,
    pub(crate) cost: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Takes {
    All,
    Named { lites: Vec<usize>, prefixes: Vec<usize> },
}

/// What becomes of producers and consumers when the broker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    /// They find the next process.
    Live,
    /// They are killed too; others go on with their identities.
    Die,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Publish(Vec<Publish>),
    Settle(Vec<(Pick, End)>),
    Wait(Duration),
    Attach {
        takes: Takes,
        workers: u32,
    },
    Subscribe {
        consumer: Pick,
        lite: usize,
    },
    Unsubscribe {
        consumer: Pick,
        name: Pick,
    },
    /// In order.
    Close(Pick),
    /// The consumer's process is gone without a word.
    Vanish(Pick),
    /// A consumer with the session of one that vanished.
    TakeOver(Pick),
    SuspendLite(usize, Duration),
    /// Of a lite topic that somebody works on. Its holder settles by the old token, at once or when the message is leased anew.
    RevokeLite {
        held: Pick,
        duration: Duration,
        at_once: bool,
    },
    ResumeLite(usize),
    Pause,
    Resume,
    Quotas(QuotaSettings),
    Concurrency(ConcurrencySettings),
    Skip {
        lite: usize,
        ahead: u64,
    },
    Purge(usize),
    Activate {
        calm: bool,
        rate: u32,
    },
    Deactivate,
    /// `kill -9` while these are under way, and a start after `down`.
    Crash {
        clients: Clients,
        publishes: Vec<Publish>,
        settles: Vec<(Pick, End)>,
        down: Duration,
    },
}

pub(crate) fn plan(seed: u64, steps: usize) -> Plan {
    let mut draw = Draw { random: Pcg64Mcg::seed_from_u64(seed), paused: false };
    let short_lease = draw.percent(65);
    let topic = TopicSettings {
        durability: if draw.percent(50) { Durability::Fsync } else { Durability::Os },
        tenant: if draw.percent(60) { TenantRule::Prefix } else { TenantRule::LiteTopic },
        ..TopicSettings::default()
    };
    let group = GroupSettings {
        quotas: draw.quotas(),
        concurrency: draw.concurrency(),
        lease_ms: if short_lease { 1_200 } else { 60_000 },
        session_grace_ms: if draw.percent(50) { 600 } else { 20_000 },
        max_attempts: draw.random.random_range(2..=4),
        retry_initial_ms: 40,
        retry_max_ms: 200,
        ..GroupSettings::default()
    };
    let mut list = vec![draw.publishing(12), draw.attaching(), draw.attaching()];
    while list.len() < steps {
        list.push(draw.step());
    }
    if draw.percent(KILLED_PERCENT) {
        // At most one death that the clients live through.
        let live = draw.percent(40).then_some(Clients::Live);
        for clients in [Clients::Die; 3].into_iter().chain(live) {
            let crash = draw.crash(clients);
            list.insert(draw.random.random_range(3..list.len()), crash);
        }
    }
    Plan { topic, group, steps: list }
}

struct Draw {
    random: Pcg64Mcg,
    paused: bool,
}

impl Draw {
    fn percent(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn pick(&mut self) -> Pick {
        self.random.random_range(0..1_000)
    }

    fn lite(&mut self) -> usize {
        self.random.random_range(0..LITES.len())
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..=to))
    }

    /// A hold that ends by itself while others go on; or one that only the end of the history resumes.
    fn hold(&mut self, most_ms: u64) -> Duration {
        if self.percent(12) { Duration::from_mins(10) } else { self.millis(1, most_ms) }
    }

    fn step(&mut self) -> Step {
        // A paused group shows little: it is resumed soon.
        if self.paused && self.percent(35) {
            self.paused = false;
            return Step::Resume;
        }
        match self.random.random_range(0..100) {
            0..20 => self.publishing(6),
            20..53 => Step::Settle(self.settles(5)),
            53..59 => Step::Wait(self.millis(5, 250)),
            59..63 => self.attaching(),
            63..66 => Step::Subscribe { consumer: self.pick(), lite: self.lite() },
            66..69 => Step::Unsubscribe { consumer: self.pick(), name: self.pick() },
            69..71 => Step::Close(self.pick()),
            71..73 => Step::Vanish(self.pick()),
            73..76 => Step::TakeOver(self.pick()),
            76..79 => Step::SuspendLite(self.lite(), self.hold(1_500)),
            79..83 => Step::RevokeLite { held: self.pick(), duration: self.millis(10, 400), at_once: self.percent(50) },
            83..85 => Step::ResumeLite(self.lite()),
            85..87 => {
                self.paused = true;
                Step::Pause
            }
            87..89 => Step::Quotas(self.quotas()),
            89..92 => Step::Concurrency(self.concurrency()),
            92..94 => Step::Skip { lite: self.lite(), ahead: self.random.random_range(0..3) },
            94..95 => Step::Purge(self.lite()),
            95..96 => Step::Activate { calm: self.percent(30), rate: self.random.random_range(20..300) },
            96..97 => Step::Deactivate,
            _ => Step::Settle(self.settles(3)),
        }
    }

    fn publishing(&mut self, max: usize) -> Step {
        Step::Publish(self.publishes(max))
    }

    fn publishes(&mut self, max: usize) -> Vec<Publish> {
        let count = self.random.random_range(1..=max);
        let one = |draw: &mut Self| Publish {
            // Some lite topics get most of the messages, so that they have a backlog.
            lite: draw.lite().min(draw.lite()),
            priority: draw.random.random_range(0..10),
            cost: if draw.percent(10) { COST_MAX } else { draw.random.random_range(1..10) },
        };
        (0..count).map(|_| one(self)).collect()
    }

    fn settles(&mut self, max: usize) -> Vec<(Pick, End)> {
        let count = self.random.random_range(1..=max);
        (0..count).map(|_| (self.pick(), self.end())).collect()
    }

    fn end(&mut self) -> End {
        match self.random.random_range(0..100) {
            0..40 => End::Ack,
            40..50 => End::AckWithCost(self.random.random_range(0..40)),
            50..60 => End::Retry(Some(Duration::ZERO)),
            60..70 => End::Retry(Some(self.hold(400))),
            70..74 => End::Retry(None),
            74..88 => End::Suspend(self.hold(400)),
            88..93 => End::DeadLetter,
            _ => End::Abandon,
        }
    }

    fn attaching(&mut self) -> Step {
        let takes = match self.random.random_range(0..10) {
            0..5 => Takes::All,
            5..8 => {
                let count = self.random.random_range(2..=6);
                Takes::Named { lites: (0..count).map(|_| self.lite()).collect(), prefixes: Vec::new() }
            }
            _ => Takes::Named {
                lites: vec![self.lite()],
                prefixes: vec![
                    self.random.random_range(0..PREFIXES.len()),
                    self.random.random_range(0..PREFIXES.len()),
                ],
            },
        };
        Step::Attach { takes, workers: self.random.random_range(1..=4) }
    }

    fn quotas(&mut self) -> QuotaSettings {
        let rate = |text: &str| Some(text.parse().expect("a good rate"));
        let messages = if self.percent(30) { rate("40/s burst 4") } else { None };
        let cost = if self.percent(40) { rate("150/s burst 30") } else { None };
        QuotaSettings { messages, cost }
    }

    fn concurrency(&mut self) -> ConcurrencySettings {
        let mut bound = |percent, from, to| self.percent(percent).then(|| self.random.random_range(from..=to));
        let (group, tenant, lite_topic) = (bound(30, 2, 6), bound(40, 1, 3), bound(45, 2, 3));
        ConcurrencySettings { group, tenant, lite_topic: lite_topic.unwrap_or(1) }
    }

    fn crash(&mut self, clients: Clients) -> Step {
        let down = if self.percent(30) { self.millis(500, 1_500) } else { Duration::ZERO };
        Step::Crash { clients, publishes: self.publishes(6), settles: self.settles(3), down }
    }
}

/// Whether a further consumer may attach.
pub(crate) fn has_room(consumers: usize) -> bool {
    consumers < CONSUMERS_MAX
}
