//! Every bundled policy answers the same in the broker's sandbox as built natively, on random questions, extremes among them, and after
//! its state was carried over.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_broker::policy_lab::{PolicyLab, Telling, Trial};
use sluicegate_plugin_sdk::{Column, Descriptor, Entity, Init, Label, Policy, parse_config};
use sluicegate_plugin_sdk::{Feedback as ToldFeedback, Frame as ToldFrame};
use sluicegate_policy_adaptive::Adaptive;
use sluicegate_policy_busy_idle::BusyIdle;
use sluicegate_policy_calm::Calm;
use sluicegate_policy_deadline::Deadline;
use sluicegate_policy_fair_share::FairShare;
use sluicegate_policy_serve_all::ServeAll;
use sluicegate_policy_strict_tiers::StrictTiers;
use sluicegate_policy_token_bucket::PerTenantTokenBucket;
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::simulation::Named;
use sluicegate_scheduler::{Ask, Feedback, Frame, GroupView, LiteView, Plan, TenantView, Verdict, WorkResult};
use sluicegate_tests::policy;

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const FRAMES: u64 = 300;
/// Frames between two carries of the state.
const CARRY_EVERY: u64 = 50;
const TENANTS: u64 = 40;
const LITES_EACH: u64 = 20;

/// Names and labels go by the id.
struct Names;

impl Telling for Names {
    fn tenant(&mut self, tenant: TenantId) -> Named {
        named(if tenant.0.is_multiple_of(3) { "org/" } else { "" }, tenant.0, "tier", ["vip", "standard", "gold"])
    }

    fn lite(&mut self, lite: LiteId) -> Option<Named> {
        lite.0.is_multiple_of(2).then(|| named("lite/", lite.0, "class", ["batch", "chat", "batch"]))
    }

    fn number(&mut self, lite: LiteId, _: &str) -> Option<u64> {
        lite.0.is_multiple_of(5).then_some(lite.0 % 4)
    }
}

fn named(prefix: &str, id: u64, key: &str, values: [&str; 3]) -> Named {
    let value = values[usize::try_from(id % 3).unwrap()];
    let labels = if id % 4 == 0 { Vec::new() } else { vec![(key.into(), value.into())] };
    Named { name: format!("{prefix}{id}"), labels }
}

/// A policy built natively, told what the guest is told.
struct Native<P> {
    policy: P,
    descriptor: Descriptor,
    tenants: Vec<u64>,
    lites: Vec<u64>,
}

impl<P: Policy> Native<P> {
    fn start(config: &str, now: Timestamp) -> Self {
        let init = Init { group: "workers".into(), shard: 0, seed: 1, now_us: now.as_micros() };
        let policy = P::new(&init, parse_config(config).unwrap()).unwrap();
        Self { policy, descriptor: P::describe(), tenants: Vec::new(), lites: Vec::new() }
    }

    fn ask(&mut self, ask: &Ask) -> sluicegate_plugin_sdk::Plan {
        let mentioned = ask.frame.tenants.iter().map(|row| row.tenant);
        for tenant in mentioned.chain(ask.feedback.iter().map(|row| row.tenant)) {
            if !self.tenants.contains(&tenant.0) {
                self.tenants.push(tenant.0);
                self.policy.learn(&entity(Entity::TENANT, tenant.0, Names.tenant(tenant)));
            }
        }
        let mentioned = ask.frame.lites.iter().map(|row| row.lite);
        for lite in mentioned.chain(ask.feedback.iter().map(|row| row.lite)) {
            if self.descriptor.learns.contains(&Entity::LITE) && !self.lites.contains(&lite.0) {
                self.lites.push(lite.0);
                Names
                    .lite(lite)
                    .into_iter()
                    .for_each(|named| self.policy.learn_lite(&entity(Entity::LITE, lite.0, named)));
            }
        }
        ask.feedback.iter().for_each(|feedback| self.policy.observe(&told_feedback(feedback)));
        self.policy.decide(&told(&ask.frame, &self.descriptor))
    }

    /// Another instance goes on from this one's state, if it keeps one; it knows nobody.
    fn carried(self, config: &str, now: Timestamp) -> Self {
        let mut next = Self::start(config, now);
        match self.policy.snapshot() {
            Some(state) => {
                next.policy.restore(state).unwrap();
                next
            }
            None => self,
        }
    }
}

fn entity(kind: u32, id: u64, named: Named) -> Entity {
    let labels = named.labels.into_iter().map(|(key, value)| Label { key, value });
    Entity { kind, id, name: named.name, labels: labels.collect() }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap()
}

fn told_feedback(row: &Feedback) -> ToldFeedback {
    ToldFeedback {
        at_us: row.at.as_micros(),
        tenant: row.tenant.0,
        lite: row.lite.0,
        wait_us: row.wait.map_or(u64::MAX, micros),
        service_us: micros(row.service),
        retry_after_us: row.retry_after.map_or(u64::MAX, micros),
        cost_estimate: row.cost_estimate,
        cost_measured: row.cost_measured,
        outcome: match row.result {
            Some(WorkResult::Done) => ToldFeedback::DONE,
            Some(WorkResult::Retried) => ToldFeedback::RETRIED,
            Some(WorkResult::DeadLettered) => ToldFeedback::DEAD_LETTERED,
            Some(WorkResult::TimedOut) => ToldFeedback::TIMED_OUT,
            None => ToldFeedback::RETURNED,
        },
    }
}

fn told(frame: &Frame, descriptor: &Descriptor) -> ToldFrame {
    let group = &frame.group;
    let tenant = |row: &TenantView| sluicegate_plugin_sdk::TenantView {
        tenant: row.tenant.0,
        weight: row.weight,
        in_flight: row.in_flight,
        waiting: row.waiting,
    };
    let lite = |row: &LiteView| sluicegate_plugin_sdk::LiteView {
        lite: row.lite.0,
        head_offset: row.head_offset.0,
        head_age_us: micros(row.head_age),
        head_cost: row.head_cost,
        expires_in_us: row.expires_in.map_or(u64::MAX, micros),
        backlog: row.backlog,
        last_service_us: row.last_service.map_or(u64::MAX, micros),
        memo: row.memo,
        tenant: row.tenant,
        in_flight: row.in_flight,
        attempts: row.attempts,
        priority: row.priority.into(),
    };
    let column = |(key, property): (u32, &String)| Column {
        key,
        values: frame.lites.iter().map(|row| Names.number(row.lite, property).unwrap_or(u64::MAX)).collect(),
    };
    ToldFrame {
        now_us: frame.now.as_micros(),
        sequence: frame.sequence,
        seed: frame.seed,
        group: sluicegate_plugin_sdk::GroupView {
            backlog: group.backlog,
            messages_left: group.messages_left,
            cost_left: group.cost_left,
            in_flight: group.in_flight,
            capacity: group.capacity,
            load_ppm: group.load_ppm,
        },
        tenants: frame.tenants.iter().map(tenant).collect(),
        lites: frame.lites.iter().map(lite).collect(),
        columns: (0..).zip(&descriptor.wants).map(column).collect(),
    }
}

/// What both said, in one shape: what a broker clamps is clamped.
#[derive(Debug, PartialEq)]
struct Said {
    /// Verdict, band, messages, microseconds held, microseconds valid, reason, memo.
    rows: Vec<(u32, u32, u32, u64, u64, u32, u64)>,
    weights: Vec<u32>,
    concurrency: Option<(u32, u64)>,
    refresh: u32,
}

fn of_guest(plan: &Plan) -> Said {
    let row = |answer: &sluicegate_scheduler::Answer| {
        let (verdict, band, messages, held) = match answer.verdict {
            Verdict::Serve { band, max_messages } => (0, band.map_or(255, u32::from), max_messages, 0),
            Verdict::Throttle(hold) => (1, 255, 0, micros(hold)),
            Verdict::Suspend(hold) => (2, 255, 0, micros(hold)),
            Verdict::DeadLetter => (3, 255, 0, 0),
            Verdict::Drop => (4, 255, 0, 0),
        };
        (verdict, band, messages, held, micros(answer.valid_for), answer.reason, answer.memo)
    };
    Said {
        rows: plan.lites.iter().map(row).collect(),
        weights: plan.weights.clone(),
        concurrency: plan.concurrency.map(|cap| (cap.leases, micros(cap.valid_for))),
        refresh: plan.refresh,
    }
}

fn of_native(plan: &sluicegate_plugin_sdk::Plan) -> Said {
    let row = |answer: &sluicegate_plugin_sdk::Answer| {
        let held = match answer.verdict {
            1 => answer.duration_us.clamp(1_000, 60_000_000),
            2 => answer.duration_us.clamp(1_000, 30 * 86_400_000_000),
            _ => 0,
        };
        let (band, messages) = if answer.verdict == 0 { (answer.band, answer.max_messages.max(1)) } else { (255, 0) };
        (answer.verdict, band, messages, held, answer.valid_us.min(60_000_000), answer.reason, answer.memo)
    };
    Said {
        rows: plan.answers.iter().map(row).collect(),
        weights: plan.weights.iter().map(|weight| (*weight).min(10_000)).collect(),
        concurrency: (plan.concurrency != 0).then_some((plan.concurrency, plan.concurrency_valid_us)),
        refresh: plan.refresh,
    }
}

/// Random questions. Each lite topic has back the memo of its last answer.
struct Questions {
    rng: Pcg64Mcg,
    now: Timestamp,
    sequence: u64,
    memos: Vec<u64>,
}

impl Questions {
    fn new() -> Self {
        let memos = vec![0; usize::try_from(TENANTS * LITES_EACH).unwrap()];
        Self { rng: Pcg64Mcg::seed_from_u64(7), now: START, sequence: 0, memos }
    }

    /// Mostly small; sometimes as large as it gets.
    fn number(&mut self, usual: u64) -> u64 {
        match self.rng.random_range(0..50) {
            0 => u64::MAX,
            1 => 0,
            2 => self.rng.random(),
            _ => self.rng.random_range(0..usual),
        }
    }

    fn span(&mut self, usual_us: u64) -> Duration {
        Duration::from_micros(self.number(usual_us).min(u64::MAX - 1))
    }

    fn next(&mut self) -> Ask {
        self.now = self.now.plus(Duration::from_micros(self.rng.random_range(0..400_000)));
        self.sequence += 1;
        let rows = [0, 1, 16, 100][self.rng.random_range(0..4)];
        let feedback = (0..self.rng.random_range(0..100)).map(|_| self.feedback()).collect();
        let mut frame = Frame {
            now: self.now,
            sequence: self.sequence,
            seed: self.rng.random(),
            group: GroupView {
                backlog: self.number(1_000),
                in_flight: self.rng.random_range(0..20),
                capacity: 20,
                load_ppm: self.rng.random_range(0..=1_000_000),
                messages_left: self.number(100),
                cost_left: self.number(100),
            },
            tenants: Vec::new(),
            lites: Vec::new(),
        };
        for _ in 0..rows {
            let lite = self.rng.random_range(0..TENANTS * LITES_EACH);
            if frame.lites.iter().all(|row| row.lite.0 != lite) {
                let row = self.row(lite, &mut frame.tenants);
                frame.lites.push(row);
            }
        }
        Ask { feedback, frame }
    }

    fn row(&mut self, lite: u64, tenants: &mut Vec<TenantView>) -> LiteView {
        let tenant = TenantId(lite / LITES_EACH);
        let index = tenants.iter().position(|row| row.tenant == tenant).unwrap_or_else(|| {
            let in_flight = self.rng.random_range(0..5);
            tenants.push(TenantView { tenant, weight: 100, in_flight, waiting: 3 });
            tenants.len() - 1
        });
        let expires_in = self.rng.random_bool(0.5).then(|| self.span(40_000_000));
        LiteView {
            lite: LiteId(lite),
            tenant: u32::try_from(index).unwrap(),
            head_offset: Offset(self.number(5)),
            head_age: self.span(1_000_000),
            head_cost: self.number(40),
            priority: self.rng.random_range(0..10),
            expires_in,
            backlog: self.number(10),
            in_flight: 0,
            attempts: self.rng.random_range(0..3),
            last_service: Some(self.span(100_000)),
            memo: self.memos[usize::try_from(lite).unwrap()],
        }
    }

    fn feedback(&mut self) -> Feedback {
        let lite = self.rng.random_range(0..TENANTS * LITES_EACH);
        let results = [
            Some(WorkResult::Done),
            Some(WorkResult::Done),
            Some(WorkResult::Done),
            Some(WorkResult::Retried),
            Some(WorkResult::DeadLettered),
            Some(WorkResult::TimedOut),
            None,
        ];
        let left_alone = Duration::from_micros(self.rng.random_range(0..2_000_000));
        let retry_after = self.rng.random_ratio(1, 300).then_some(left_alone);
        Feedback {
            at: self.now,
            tenant: TenantId(lite / LITES_EACH),
            lite: LiteId(lite),
            wait: Some(self.span(1_000_000)),
            service: self.span(300_000),
            cost_estimate: self.number(40),
            cost_measured: self.number(40),
            result: results[self.rng.random_range(0..results.len())],
            retry_after,
        }
    }

    fn answered(&mut self, ask: &Ask, plan: &Plan) {
        for (row, answer) in ask.frame.lites.iter().zip(&plan.lites) {
            self.memos[usize::try_from(row.lite.0).unwrap()] = answer.memo;
        }
    }
}

/// Both answer the same; how many rows were not simply served.
fn same<P: Policy>(name: &str, config: &str) -> usize {
    let loaded = PolicyLab::open().unwrap().load(&policy(name)).unwrap();
    let start = |now| loaded.start("workers", 1, now, config).unwrap();
    let mut guest: Trial = start(START);
    let mut native = Native::<P>::start(config, START);
    let (mut questions, mut decided) = (Questions::new(), 0);
    for frame in 1..=FRAMES {
        let ask = questions.next();
        let plan = guest.ask(&ask, &mut Names).unwrap();
        let said = of_guest(&plan);
        assert_eq!(said, of_native(&native.ask(&ask)), "{name} {config}, frame {frame}: {ask:?}");
        decided += said.rows.iter().filter(|row| row.5 > 0).count();
        questions.answered(&ask, &plan);
        if frame % CARRY_EVERY == 0 {
            if let Some(state) = guest.snapshot().unwrap() {
                guest = start(questions.now);
                guest.restore(&state).unwrap().unwrap();
            }
            native = native.carried(config, questions.now);
        }
    }
    decided
}

#[test]
fn the_bundled_policies_answer_the_same_as_guests_and_natively() {
    assert_eq!(same::<ServeAll>("serve-all", ""), 0);
    let decided = [
        same::<Calm>("calm", ""),
        same::<PerTenantTokenBucket>(
            "token-bucket",
            r#"{"rate_per_second": 30, "overrides": [{"tenant": "org/*", "rate_per_second": 2.5}]}"#,
        ),
        same::<PerTenantTokenBucket>("token-bucket", r#"{"rate_per_second": 3, "burst": 9, "unit": "messages"}"#),
        same::<FairShare>(
            "fair-share",
            r#"{"half_life_seconds": 60, "tiers": [{"name": "gold", "weight": 9}, {"name": "org", "weight": 3, "tenants": ["org/*"]}]}"#,
        ),
        same::<BusyIdle>("busy-idle", r#"{"property_at_least": 2, "priority_at_most": 1}"#),
        same::<BusyIdle>("busy-idle", r#"{"windows": ["22:00-22:14"]}"#),
        same::<Deadline>("deadline", ""),
        same::<Deadline>("deadline", r#"{"late": "serve", "service_default_ms": 900, "no_deadline_band": null}"#),
        same::<Adaptive>("adaptive", r#"{"retry_after": "tenant", "window_ms": 100}"#),
        same::<Adaptive>("adaptive", r#"{"measure": "per_cost", "baseline_seconds": 10}"#),
        same::<StrictTiers>(
            "strict-tiers",
            r#"{"tiers": [{"name": "vip"}, {"name": "standard", "floor_percent": 30}, {"name": "rest", "tenants": ["org/*"], "floor_percent": 20}]}"#,
        ),
    ];
    assert!(decided.iter().all(|&decided| decided > 100), "a policy did nothing but serve: {decided:?}");
}
