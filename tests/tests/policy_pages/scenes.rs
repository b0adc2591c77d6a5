//! What is simulated of each policy, and what is shown of it.

use std::time::Duration;

use sluicegate_plugin_sdk::simulation::{Delivery, Load, Outcome, Simulation};
use sluicegate_plugin_sdk::{Feedback, Frame, GroupView, Init, LiteView, Policy, TenantView, parse_config};
use sluicegate_policy_adaptive::Adaptive;
use sluicegate_policy_busy_idle::BusyIdle;
use sluicegate_policy_deadline::Deadline;
use sluicegate_policy_fair_share::FairShare;
use sluicegate_policy_strict_tiers::StrictTiers;
use sluicegate_policy_token_bucket::PerTenantTokenBucket;

use super::picture::{Ink, Line, Panel, draw};

/// A policy's picture.
pub(crate) struct Scene {
    /// The folder of its crate.
    pub(crate) policy: &'static str,
    /// For who cannot see the picture.
    pub(crate) title: &'static str,
    /// What was simulated, and what it shows.
    pub(crate) caption: &'static str,
    pub(crate) draw: fn() -> String,
}

pub(crate) const SCENES: [Scene; 6] = [
    Scene {
        policy: "token-bucket",
        title: "Cost per second of a flood, and waits beside it, with and without the token bucket",
        caption: "A tenant floods a group of 30 slots with 100,000 messages at once; another publishes five messages a second. With \
            `{\"rate_per_second\": 100, \"burst\": 200}` the flood has 100 cost units a second, and the other tenant does not wait at all. \
            Without, the flood takes what it can.",
        draw: token_bucket,
    },
    Scene {
        policy: "fair-share",
        title: "Share of a tenant that comes ten minutes after another, with and without fair-share",
        caption: "A tenant keeps all slots busy from the start, another does so from the tenth minute. The scheduler alone gives each the half \
            at once and for ever. With `{\"half_life_seconds\": 1800}` who came later has more until both have used about the same lately. It \
            starts at half of the fair level, not at nothing: being away earns no more.",
        draw: fair_share,
    },
    Scene {
        policy: "strict-tiers",
        title: "Deliveries by tier, without and with strict-tiers",
        caption: "VIPs publish 1,500 messages at the start of each minute; a standard and a free tenant always have work. All have 20 slots. The \
            scheduler alone shares among the three alike. With floors of 10 percent (standard) and 2 (free) the VIPs' burst is done first, and the \
            others keep what was promised to them: every 20th dispatch of the scheduler's own guarantee, in turn, and the rest by promotion.",
        draw: strict_tiers,
    },
    Scene {
        policy: "deadline",
        title: "Messages done before their deadline, with and without the deadline policy",
        caption: "Voice turns must be done in 1.5 s, reports in a minute; from second 60 to 120 there is more voice than the 20 slots can take. \
            Without the policy what is late takes the place of what could still make it, and nearly everything comes late. With it what cannot be \
            done in time is dead-lettered, and the slots go to the rest.",
        draw: deadline,
    },
    Scene {
        policy: "busy-idle",
        title: "Interactive and batch work in a group's slots, without and with busy-idle",
        caption: "Batch work, at most 12 of 20 slots, always waits; from minute 4 to 8 interactive work alone needs 17. Without the policy batch keeps \
            its slots through the rush. With it batch stops when the load is above 0.8, and comes back after half of the time that it was high.",
        draw: busy_idle,
    },
    Scene {
        policy: "adaptive",
        title: "Open leases that adaptive finds, and service times, against a fixed number of leases",
        caption: "Not the scheduler: the policy alone, against a model of a server that takes 100 ms for each of up to so many requests at once, and \
            longer in proportion beyond. What it bears changes from 20 to 8 after 20 minutes and to 40 after 40. The policy finds it within its \
            tolerance of 50 percent; 64 leases without a policy make every request wait in the server. The dips are probes of the best.",
        draw: adaptive,
    },
];

const MINUTE: Duration = Duration::from_mins(1);

fn millis(from: u64, to: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_millis(from)..=Duration::from_millis(to)
}

fn token_bucket() -> String {
    let load = |load: Load| load.lites(50).cost(5..=15).measured_percent(80..=120).service(millis(100, 300));
    let simulation = Simulation::new()
        .slots(30)
        .tenant("quiet", load(Load::poisson(Duration::from_millis(200))))
        .tenant("flood", load(Load::at_once(100_000)));
    let span = 5 * MINUTE;
    let with = simulation.run::<PerTenantTokenBucket>(r#"{"rate_per_second": 100, "burst": 200}"#, span);
    let without = simulation.run_fair(span);
    let cost = |outcome: &Outcome| per_step(outcome, span, 5, "flood", |one| one.measured as f64 / 5.0);
    let wait = |outcome: &Outcome| longest(outcome, span, 5, "quiet");
    draw(&[
        Panel {
            title: "What the flood gets",
            x: "seconds",
            y: "cost units per second",
            lines: vec![
                line("without a policy", Ink::Without, cost(&without)),
                line("with token-bucket", Ink::With, cost(&with)),
                line("its rate", Ink::Bound, vec![(0.0, 100.0), (span.as_secs_f64(), 100.0)]),
            ],
        },
        Panel {
            title: "Longest wait of the quiet tenant, in 5 seconds",
            x: "seconds",
            y: "milliseconds",
            lines: vec![
                line("without a policy", Ink::Without, wait(&without)),
                line("with token-bucket", Ink::With, wait(&with)),
            ],
        },
    ])
}

fn fair_share() -> String {
    let load = |load: Load| load.lites(50).cost(5..=15).service(millis(100, 300));
    let simulation = Simulation::new()
        .slots(20)
        .tenant("early", load(Load::at_once(500_000)))
        .tenant("late", load(Load::at_once(500_000).starting(10 * MINUTE)));
    let span = 60 * MINUTE;
    let (with, without) = (simulation.run::<FairShare>("", span), simulation.run_fair(span));
    let share = |outcome: &Outcome| {
        let [early, late] =
            ["early", "late"].map(|tenant| per_step(outcome, span, 60, tenant, |one| one.measured as f64));
        let parts = early.iter().zip(&late);
        parts.map(|(early, late)| (late.0 / 60.0, 100.0 * late.1 / (early.1 + late.1))).collect()
    };
    let used = |outcome: &Outcome, tenant| {
        let mut sum = 0.0;
        let steps = per_step(outcome, span, 60, tenant, |one| one.measured as f64);
        steps
            .into_iter()
            .map(|(at, cost)| {
                sum += cost;
                (at / 60.0, sum / 1_000.0)
            })
            .collect()
    };
    draw(&[
        Panel {
            title: "What the later tenant gets, minute by minute",
            x: "minutes",
            y: "percent of all cost",
            lines: vec![
                line("without a policy", Ink::Without, share(&without)),
                line("with fair-share", Ink::With, share(&with)),
            ],
        },
        Panel {
            title: "What both had since the start, with fair-share",
            x: "minutes",
            y: "thousands of cost units",
            lines: vec![
                line("the earlier tenant", Ink::Other, used(&with, "early")),
                line("the later tenant", Ink::With, used(&with, "late")),
                line("the later tenant without a policy", Ink::Without, used(&without, "late")),
            ],
        },
    ])
}

fn strict_tiers() -> String {
    let load = |load: Load| load.lites(50).service(millis(100, 300));
    let simulation = Simulation::new()
        .slots(20)
        .tenant("vip", load(Load::bursts(1_500, MINUTE)))
        .tenant("standard", load(Load::at_once(100_000)))
        .tenant("free", load(Load::at_once(100_000)));
    let config = r#"{"tiers": [{"name": "vip", "tenants": ["vip"]}, {"name": "standard", "tenants": ["standard"], "floor_percent": 10},
        {"name": "free", "floor_percent": 2}]}"#;
    let span = 3 * MINUTE;
    let (with, without) = (simulation.run::<StrictTiers>(config, span), simulation.run_fair(span));
    let panel = |title, outcome: &Outcome| {
        let tier = |tenant| per_step(outcome, span, 2, tenant, |_| 0.5);
        Panel {
            title,
            x: "seconds",
            y: "deliveries per second",
            lines: vec![
                line("VIP", Ink::With, tier("vip")),
                line("standard", Ink::Other, tier("standard")),
                line("free", Ink::Without, tier("free")),
            ],
        }
    };
    draw(&[panel("Without a policy", &without), panel("With strict-tiers", &with)])
}

fn deadline() -> String {
    const VOICE: Duration = Duration::from_millis(1_500);
    let voice =
        |gap| Load::poisson(Duration::from_millis(gap)).lites(400).service(millis(200, 600)).expires_after(VOICE);
    let rush = voice(15).starting(MINUTE).ending(2 * MINUTE);
    let reports = Load::poisson(Duration::from_millis(100)).lites(100).service(millis(200, 600)).expires_after(MINUTE);
    let simulation =
        Simulation::new().slots(20).tenant("voice", voice(40)).tenant("voice", rush).tenant("reports", reports);
    let span = 3 * MINUTE;
    let (with, without) = (simulation.run::<Deadline>("", span), simulation.run_fair(span));
    let in_time = |outcome: &Outcome, tenant, within: Duration| {
        per_step(outcome, span, 5, tenant, move |one| {
            let done = one.ended.is_some_and(|(at, _)| at.saturating_sub(one.published_at) <= within);
            f64::from(u8::from(done)) / 5.0
        })
    };
    let offered =
        vec![(0.0, 25.0), (60.0, 25.0), (60.0, 25.0 + 66.7), (120.0, 25.0 + 66.7), (120.0, 25.0), (180.0, 25.0)];
    draw(&[
        Panel {
            title: "Voice turns done in time",
            x: "seconds, of delivery",
            y: "per second",
            lines: vec![
                line("published", Ink::Bound, offered),
                line("without a policy", Ink::Without, in_time(&without, "voice", VOICE)),
                line("with deadline", Ink::With, in_time(&with, "voice", VOICE)),
            ],
        },
        Panel {
            title: "Reports done in time",
            x: "seconds, of delivery",
            y: "per second",
            lines: vec![
                line("without a policy", Ink::Without, in_time(&without, "reports", MINUTE)),
                line("with deadline", Ink::With, in_time(&with, "reports", MINUTE)),
            ],
        },
    ])
}

fn busy_idle() -> String {
    let batch = Load::at_once(5_000).lites(200).service(millis(2_000, 6_000)).label("class", "batch");
    let mut simulation = Simulation::new().slots(20).tenant_concurrency(12).tenant("batch", batch);
    for tenant in ["ada", "bob", "eve"] {
        let chat = |gap| Load::poisson(Duration::from_millis(gap)).lites(100).service(millis(100, 300));
        let rush = chat(40).starting(4 * MINUTE).ending(8 * MINUTE);
        simulation = simulation.tenant(tenant, chat(300)).tenant(tenant, rush);
    }
    let span = 15 * MINUTE;
    let config = r#"{"busy_above": 0.8, "idle_below": 0.7}"#;
    let (with, without) = (simulation.run::<BusyIdle>(config, span), simulation.run_fair(span));
    let in_work = |outcome: &Outcome, tenants: &[&str]| {
        let mut sums = vec![0.0; steps(span, 5)];
        for tenant in tenants {
            let work = |one: &Delivery| one.service().unwrap_or(span - one.delivered_at).as_secs_f64() / 5.0;
            for (sum, (_, step)) in sums.iter_mut().zip(per_step(outcome, span, 5, tenant, work)) {
                *sum += step;
            }
        }
        sums.into_iter().enumerate().map(|(step, sum)| (step as f64 * 5.0 / 60.0, sum)).collect()
    };
    let minutes = |points: Vec<(f64, f64)>| points.into_iter().map(|(at, value)| (at / 60.0, value)).collect();
    draw(&[
        Panel {
            title: "Slots' worth of batch work that is begun",
            x: "minutes",
            y: "slots",
            lines: vec![
                line("interactive", Ink::Bound, in_work(&with, &["ada", "bob", "eve"])),
                line("batch without a policy", Ink::Without, in_work(&without, &["batch"])),
                line("batch with busy-idle", Ink::With, in_work(&with, &["batch"])),
            ],
        },
        Panel {
            title: "Longest wait of interactive work of one tenant, in 5 seconds",
            x: "minutes",
            y: "milliseconds",
            lines: vec![
                line("without a policy", Ink::Without, minutes(longest(&without, span, 5, "ada"))),
                line("with busy-idle", Ink::With, minutes(longest(&with, span, 5, "ada"))),
            ],
        },
    ])
}

fn adaptive() -> String {
    const SECOND_US: u64 = 1_000_000;
    const FIXED: u32 = 64;
    let bears = |minute: u64| match minute {
        0..20 => 20,
        20..40 => 8,
        _ => 40,
    };
    let service_ms = |leases: u32, bears: u32| 100.0 * f64::from(leases.max(bears)) / f64::from(bears);
    let mut policy =
        Adaptive::new(&Init::default(), parse_config("").expect("no text is the defaults")).expect("they fit");
    let (mut found, mut capacity, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut leases = 8;
    for second in 0..60 * 60 {
        let (at_us, bears) = (second * SECOND_US, bears(second / 60));
        let frame = Frame {
            now_us: at_us,
            group: GroupView { in_flight: leases, ..GroupView::default() },
            tenants: vec![TenantView::default()],
            lites: vec![LiteView::default()],
            ..Frame::default()
        };
        leases = policy.decide(&frame).concurrency;
        let service = service_ms(leases, bears);
        let feedback = Feedback {
            at_us: at_us + SECOND_US,
            service_us: Duration::from_secs_f64(service / 1e3).as_micros().try_into().expect("it is short"),
            retry_after_us: u64::MAX,
            cost_measured: 1,
            ..Feedback::default()
        };
        (0..20).for_each(|_| policy.observe(&feedback));
        let minute = second as f64 / 60.0;
        found.push((minute, f64::from(leases)));
        capacity.push((minute, f64::from(bears)));
        with.push((minute, service));
        without.push((minute, service_ms(FIXED, bears)));
    }
    draw(&[
        Panel {
            title: "Open leases",
            x: "minutes",
            y: "leases",
            lines: vec![
                line("what the server bears", Ink::Bound, capacity),
                line("with adaptive", Ink::With, found),
                line("without a policy", Ink::Without, vec![(0.0, f64::from(FIXED)), (60.0, f64::from(FIXED))]),
            ],
        },
        Panel {
            title: "How long the server takes for one",
            x: "minutes",
            y: "milliseconds",
            lines: vec![line("without a policy", Ink::Without, without), line("with adaptive", Ink::With, with)],
        },
    ])
}

fn line(label: &'static str, ink: Ink, points: Vec<(f64, f64)>) -> Line {
    Line { label, ink, points }
}

fn steps(span: Duration, step_seconds: u64) -> usize {
    usize::try_from(span.as_secs() / step_seconds).expect("few")
}

/// Sums over the tenant's deliveries in steps of so many seconds, by when they were delivered.
fn per_step(
    outcome: &Outcome,
    span: Duration,
    step_seconds: u64,
    tenant: &str,
    value: impl Fn(&Delivery) -> f64,
) -> Vec<(f64, f64)> {
    gather(outcome, span, step_seconds, tenant, value, |sum, value| sum + value)
}

/// The longest waits for a first delivery, in milliseconds.
fn longest(outcome: &Outcome, span: Duration, step_seconds: u64, tenant: &str) -> Vec<(f64, f64)> {
    gather(outcome, span, step_seconds, tenant, |one| one.wait().as_secs_f64() * 1e3, f64::max)
}

fn gather(
    outcome: &Outcome,
    span: Duration,
    step_seconds: u64,
    tenant: &str,
    value: impl Fn(&Delivery) -> f64,
    join: impl Fn(f64, f64) -> f64,
) -> Vec<(f64, f64)> {
    let mut values = vec![0.0; steps(span, step_seconds)];
    let id = outcome.id_of(tenant);
    for one in outcome.report().deliveries.iter().filter(|one| Some(one.tenant) == id) {
        let step = usize::try_from(one.delivered_at.as_secs() / step_seconds).expect("few");
        if let Some(sum) = values.get_mut(step) {
            *sum = join(*sum, value(one));
        }
    }
    values.into_iter().enumerate().map(|(step, value)| ((step as u64 * step_seconds) as f64, value)).collect()
}
