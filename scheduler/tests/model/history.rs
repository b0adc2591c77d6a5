//! Random histories: the steps that the world around a group can take.

use std::ops::Range;

use proptest::prelude::*;
use sluicegate_protocol::Rate;
use sluicegate_scheduler::{Quotas, Scope};

/// Something that an owner, a consumer, a producer, an operator, a policy or the clock does. Times are milliseconds
/// unless they say otherwise; `nth` counts through the open leases.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Publish {
        lite: u64,
        priority: u8,
        cost: u64,
        deliver_in: Option<u64>,
        expires_in: Option<u64>,
    },
    /// One message for each of so many lite topics.
    Flood {
        from: u64,
        count: u64,
        priority: u8,
    },
    Tell(u64),
    Purge(u64),
    Attach(u64, Scope),
    /// The lite topic names other sessions, a bit for each.
    Subscribe {
        lite: u64,
        sessions: u8,
    },
    Detach(u64),
    /// An orderly close: all leases of the session return, uncounted.
    Close(u64),
    Credit(u64, u32),
    Load(u64, u32),
    Ack {
        nth: usize,
        measured: Option<u64>,
    },
    AckOldest {
        count: usize,
    },
    Retry {
        nth: usize,
        delay: u64,
    },
    ExpireLease {
        nth: usize,
    },
    Return {
        nth: usize,
        suspend: u64,
    },
    Hold {
        lite: u64,
        source: usize,
        wait: u64,
    },
    Resume {
        lite: u64,
        source: Option<usize>,
    },
    AdvanceMicros(u64),
    AdvanceSeconds(u64),
    GoBack(u64),
    Quotas(usize),
    Concurrency(u32, u32, u32),
    Pause(bool),
    /// In seconds; 0 for none.
    Watchdog(u64),
    Bind(bool),
    Answer {
        seed: u64,
        is_wrong_length: bool,
    },
    LateAnswer {
        seed: u64,
    },
    FailAsk,
    FailLateAsk,
    Restart {
        is_state_lost: bool,
    },
}

/// Steps of a group with so many lite topics and no policy.
pub(crate) fn step(lites: u64) -> impl Strategy<Value = Step> {
    let after = || prop::option::weighted(0.15, 0u64..60);
    let publish = (0..lites, 0u8..12, cost(), after(), after());
    prop_oneof![
        80 => publish.prop_map(|(lite, priority, cost, deliver_in, expires_in)| {
            Step::Publish { lite, priority, cost, deliver_in, expires_in }
        }),
        5 => (0..lites).prop_map(Step::Tell),
        5 => (0..lites).prop_map(Step::Purge),
        8 => (0u64..4).prop_map(|session| Step::Attach(session, Scope::All)),
        3 => (0u64..4).prop_map(Step::Detach),
        3 => (0u64..4).prop_map(Step::Close),
        50 => (0u64..4, credit()).prop_map(|(session, credit)| Step::Credit(session, credit)),
        8 => (0u64..4, 0u32..3).prop_map(|(session, load)| Step::Load(session, load * 400_000)),
        55 => (0usize..20, prop::option::of(cost())).prop_map(|(nth, measured)| Step::Ack { nth, measured }),
        15 => flood(lites, 1..lites.min(16)),
        15 => (1usize..8).prop_map(|count| Step::AckOldest { count }),
        12 => (0usize..20, 0u64..30).prop_map(|(nth, delay)| Step::Retry { nth, delay }),
        6 => (0usize..20).prop_map(|nth| Step::ExpireLease { nth }),
        12 => (0usize..20, 0u64..30).prop_map(|(nth, suspend)| Step::Return { nth, suspend }),
        12 => (0..lites, 0usize..4, 0u64..50).prop_map(|(lite, source, wait)| Step::Hold { lite, source, wait }),
        6 => (0..lites, prop::option::of(0usize..4)).prop_map(|(lite, source)| Step::Resume { lite, source }),
        40 => (0u64..20_000).prop_map(Step::AdvanceMicros),
        6 => (0u64..100).prop_map(Step::AdvanceSeconds),
        6 => (0u64..50).prop_map(Step::GoBack),
        8 => prop_oneof![2 => Just(0), 3 => 0..QUOTAS].prop_map(Step::Quotas),
        8 => (1u32..8, 1u32..4, 1u32..4).prop_map(|(group, tenant, lite)| Step::Concurrency(group, tenant, lite)),
        8 => prop::bool::weighted(0.2).prop_map(Step::Pause),
        3 => prop::bool::weighted(0.2).prop_map(|is_state_lost| Step::Restart { is_state_lost }),
    ]
}

/// The same with a policy that comes, goes and answers.
pub(crate) fn step_with_policy(lites: u64) -> impl Strategy<Value = Step> {
    let answer = (any::<u64>(), prop::bool::weighted(0.05));
    prop_oneof![
        60 => step(lites),
        2 => prop::bool::weighted(0.8).prop_map(Step::Bind),
        1 => (0u64..3).prop_map(Step::Watchdog),
        15 => answer.prop_map(|(seed, is_wrong_length)| Step::Answer { seed, is_wrong_length }),
        1 => any::<u64>().prop_map(|seed| Step::LateAnswer { seed }),
        1 => Just(Step::FailAsk),
        1 => Just(Step::FailLateAsk),
    ]
}

/// The same with sessions that take what names them, and lite topics that name now these, now those.
pub(crate) fn step_with_routes(lites: u64) -> impl Strategy<Value = Step> {
    let step = prop_oneof![3 => step(lites).boxed(), 1 => step_with_policy(lites).boxed()];
    prop_oneof![
        60 => step,
        4 => (0..lites, 0u8..16).prop_map(|(lite, sessions)| Step::Subscribe { lite, sessions }),
        4 => (0u64..4).prop_map(|session| Step::Attach(session, Scope::Named)),
        10 => (0u64..4, 1u32..4).prop_map(|(session, credit)| Step::Credit(session, credit)),
    ]
}

/// The same with hundreds of lite topics, so that frames fill up and the policy falls behind.
pub(crate) fn flooded_step(lites: u64, counts: Range<u64>) -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => step_with_policy(lites),
        3 => flood(lites, counts),
        4 => (0u64..4, 50u32..400).prop_map(|(session, credit)| Step::Credit(session, credit)),
        2 => (50u32..500, 20u32..200).prop_map(|(group, tenant)| Step::Concurrency(group, tenant, 1)),
        1 => Just(Step::Bind(true)),
    ]
}

fn flood(lites: u64, counts: Range<u64>) -> impl Strategy<Value = Step> {
    (0..lites, counts, 0u8..10).prop_map(|(from, count, priority)| Step::Flood { from, count, priority })
}

fn cost() -> impl Strategy<Value = u64> {
    prop_oneof![
        20 => Just(0u64),
        200 => 1u64..30,
        20 => 30u64..5_000,
        1 => Just(1u64 << 40),
        1 => Just(u64::MAX),
    ]
}

fn credit() -> impl Strategy<Value = u32> {
    prop_oneof![40 => 0u32..8, 1 => Just(u32::MAX)]
}

const QUOTAS: usize = 7;

/// A few settings: none, one bucket, both, slow, fast, and with a burst of 1.
pub(crate) fn quotas(index: usize) -> Quotas {
    let (messages, cost) = match index {
        0 => (None, None),
        1 => (Some("200/s burst 3"), None),
        2 => (None, Some("1000/s burst 20")),
        3 => (Some("100/s burst 5"), Some("2000/s burst 15")),
        4 => (None, Some("90000/min")),
        5 => (Some("700/min burst 2"), Some("50000/h burst 40")),
        _ => (Some("999999937/s burst 1"), Some("31/s burst 1000")),
    };
    let rate = |text: &str| text.parse::<Rate>().expect("it is a rate");
    Quotas { messages: messages.map(rate), cost: cost.map(rate) }
}
