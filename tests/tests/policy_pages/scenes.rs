//! What is simulated of each policy, and what is shown of it.

use std::time::Duration;

use sluicegate_plugin_sdk::simulation::{Load, Outcome, Simulation};
use sluicegate_plugin_sdk::{Feedback, Frame, GroupView, Init, LiteView, Policy, TenantView, parse_config};
use sluicegate_policy_adaptive::Adaptive;
use sluicegate_policy_busy_idle::BusyIdle;
use sluicegate_policy_deadline::Deadline;
use sluicegate_policy_fair_share::FairShare;
use sluicegate_policy_strict_tiers::StrictTiers;
use sluicegate_policy_token_bucket::PerTenantTokenBucket;

use super::plot::{BOUND, Line, OTHER, Panel, WITH, WITHOUT, draw, line};
use super::series::{Points, Steps};

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
        title: "Deliveries and waits of five modest tenants beside a heavy one, with and without fair-share",
        caption: "A heavy tenant keeps all 20 slots busy; each of five others publishes 1,200 messages every ten minutes, one after the other. The \
            scheduler alone divides what there is at each moment: half for the heavy tenant, however much it had before. With the defaults of the \
            policy it has less the more it had lately, and a modest tenant's burst is done sooner.",
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
            done in time is dead-lettered, and the slots go to the rest; reports, which have time, are made up for afterwards.",
        draw: deadline,
    },
    Scene {
        policy: "busy-idle",
        title: "Interactive and batch work in a group's slots, without and with busy-idle",
        caption: "Batch work, which may have 12 of 20 slots, always waits; from minute 4 to 8 interactive work needs 14 by itself. Without the policy batch \
            keeps its slots through the rush. With `{\"busy_above\": 0.85, \"idle_below\": 0.6}` it has what chat leaves, and all is as before within half of \
            the time that the consumers were busy.",
        draw: busy_idle,
    },
    Scene {
        policy: "adaptive",
        title: "Open leases that adaptive finds, and service times, against a fixed number of leases",
        caption: "Not the scheduler: the policy alone, against a model of a server that takes 100 ms for each of up to so many requests at once, and \
            longer in proportion beyond. What it bears changes from 20 to 8 after 20 minutes and to 40 after 40. The policy finds it within its \
            tolerance of 50 percent; 64 leases without a policy make every request wait in the server.",
        draw: adaptive,
    },
];

const MINUTE: Duration = Duration::from_mins(1);

fn millis(from: u64, to: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_millis(from)..=Duration::from_millis(to)
}

/// What comes of it without a policy and with one.
fn beside(label: &'static str, without: Points, with: Points) -> Vec<Line> {
    vec![line("without a policy", &WITHOUT, without), line(label, &WITH, with)]
}

fn token_bucket() -> String {
    let load = |load: Load| load.lites(50).cost(5..=15).measured_percent(80..=120).service(millis(100, 300));
    let simulation = Simulation::new()
        .slots(30)
        .tenant("quiet", load(Load::poisson(Duration::from_millis(200))))
        .tenant("flood", load(Load::at_once(100_000)));
    let steps = Steps { span: 5 * MINUTE, step: 5 };
    let with = simulation.run::<PerTenantTokenBucket>(r#"{"rate_per_second": 100, "burst": 200}"#, steps.span);
    let without = simulation.run_fair(steps.span);
    let cost = |outcome: &Outcome| steps.per_second(outcome, &["flood"], |one| one.measured as f64);
    let wait = |outcome: &Outcome| steps.longest_wait(outcome, &["quiet"]);
    draw(&[
        Panel {
            title: "What the flood gets",
            note: "cost units per second",
            lines: vec![
                line("its rate", &BOUND, level(100.0, steps.span)),
                line("without a policy", &WITHOUT, cost(&without)),
                line("with token-bucket", &WITH, cost(&with)),
            ],
        },
        Panel {
            title: "Longest wait of the quiet tenant",
            note: "seconds, in each 5 s",
            lines: beside("with token-bucket", wait(&without), wait(&with)),
        },
    ])
}

fn fair_share() -> String {
    const MODEST: [&str; 5] = ["ada", "bob", "eve", "kim", "leo"];
    let load = |load: Load| load.lites(50).service(millis(100, 300));
    let mut simulation = Simulation::new().slots(20).tenant("heavy", load(Load::at_once(500_000)));
    for (nth, tenant) in (0..).zip(MODEST) {
        let bursts = load(Load::bursts(1_200, 10 * MINUTE)).starting((1 + 2 * nth) * MINUTE);
        simulation = simulation.tenant(tenant, bursts);
    }
    let steps = Steps { span: 20 * MINUTE, step: 5 };
    let (with, without) = (simulation.run::<FairShare>("", steps.span), simulation.run_fair(steps.span));
    let served = |outcome: &Outcome| steps.per_second(outcome, &MODEST, |_| 1.0);
    let wait = |outcome: &Outcome| steps.longest_wait(outcome, &MODEST);
    draw(&[
        Panel {
            title: "What the modest tenants get",
            note: "deliveries per second",
            lines: beside("with fair-share", served(&without), served(&with)),
        },
        Panel {
            title: "How long they wait",
            note: "seconds, the longest in each 5 s",
            lines: beside("with fair-share", wait(&without), wait(&with)),
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
    let steps = Steps { span: 3 * MINUTE, step: 2 };
    let (with, without) = (simulation.run::<StrictTiers>(config, steps.span), simulation.run_fair(steps.span));
    let panel = |title, outcome: &Outcome| {
        let tier = |tenant| steps.per_second(outcome, &[tenant], |_| 1.0);
        let lines = vec![
            line("free", &WITHOUT, tier("free")),
            line("standard", &OTHER, tier("standard")),
            line("VIP", &WITH, tier("vip")),
        ];
        Panel { title, note: "deliveries per second", lines }
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
    let steps = Steps { span: 3 * MINUTE, step: 5 };
    let (with, without) = (simulation.run::<Deadline>("", steps.span), simulation.run_fair(steps.span));
    let in_time = |outcome: &Outcome, tenant, within: Duration| {
        steps.per_second(outcome, &[tenant], move |one| {
            let is_in_time = one.ended.is_some_and(|(at, _)| at.saturating_sub(one.published_at) <= within);
            f64::from(u8::from(is_in_time))
        })
    };
    let (usual, rush) = (1_000.0 / 40.0, 1_000.0 / 40.0 + 1_000.0 / 15.0);
    let offered = vec![(0.0, usual), (60.0, usual), (60.0, rush), (120.0, rush), (120.0, usual), (180.0, usual)];
    draw(&[
        Panel {
            title: "Voice turns done in time",
            note: "per second, by when they were delivered",
            lines: vec![
                line("published", &BOUND, offered),
                line("without a policy", &WITHOUT, in_time(&without, "voice", VOICE)),
                line("with deadline", &WITH, in_time(&with, "voice", VOICE)),
            ],
        },
        Panel {
            title: "Reports done in time",
            note: "per second, by when they were delivered",
            lines: vec![
                line("without a policy", &WITHOUT, in_time(&without, "reports", MINUTE)),
                line("with deadline", &WITH, in_time(&with, "reports", MINUTE)),
            ],
        },
    ])
}

fn busy_idle() -> String {
    const CHATS: [&str; 3] = ["ada", "bob", "eve"];
    let batch = Load::at_once(5_000).lites(200).service(millis(2_000, 6_000)).label("class", "batch");
    let chat = |gap| Load::poisson(Duration::from_millis(gap)).lites(100).service(millis(100, 300));
    let mut simulation = Simulation::new().slots(20).tenant_concurrency(12).tenant("batch", batch);
    for tenant in CHATS {
        let rush = chat(48).starting(4 * MINUTE).ending(8 * MINUTE);
        simulation = simulation.tenant(tenant, chat(300)).tenant(tenant, rush);
    }
    let steps = Steps { span: 15 * MINUTE, step: 5 };
    let config = r#"{"busy_above": 0.85, "idle_below": 0.6}"#;
    let (with, without) = (simulation.run::<BusyIdle>(config, steps.span), simulation.run_fair(steps.span));
    draw(&[
        Panel {
            title: "Slots that are in work",
            note: "of 20",
            lines: vec![
                line("chat, with busy-idle", &BOUND, steps.slots(&with, &CHATS)),
                line("batch, without it", &WITHOUT, steps.slots(&without, &["batch"])),
                line("batch, with it", &WITH, steps.slots(&with, &["batch"])),
            ],
        },
        Panel {
            title: "Longest wait of chat",
            note: "seconds, in each 5 s",
            lines: vec![
                line("without a policy", &WITHOUT, steps.longest_wait(&without, &CHATS)),
                line("with busy-idle", &WITH, steps.longest_wait(&with, &CHATS)),
            ],
        },
    ])
}

/// The policy alone, against a server that gets slow when it has more than it bears.
fn adaptive() -> String {
    const FIXED: f64 = 64.0;
    let span = 60 * MINUTE;
    let bears = |second: u32| match second / 60 {
        0..20 => 20_u32,
        20..40 => 8,
        _ => 40,
    };
    let service_ms = |leases: f64, bears: f64| 100.0 * leases.max(bears) / bears;
    let config = parse_config("").expect("no text is the defaults");
    let mut policy = Adaptive::new(&Init::default(), config).expect("it takes its defaults");
    let (mut found, mut capacity, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut leases = 8;
    for second in 0..60 * 60 {
        let now = Duration::from_secs(second.into());
        let group = GroupView { in_flight: leases, ..GroupView::default() };
        let (tenants, lites) = (vec![TenantView::default()], vec![LiteView::default()]);
        leases = policy.decide(&Frame { now_us: micros(now), group, tenants, lites, ..Frame::default() }).concurrency;
        let borne = f64::from(bears(second));
        let service = service_ms(leases.into(), borne);
        let done = Feedback {
            at_us: micros(now + Duration::from_secs(1)),
            service_us: micros(Duration::from_secs_f64(service / 1e3)),
            retry_after_us: u64::MAX,
            cost_measured: 1,
            ..Feedback::default()
        };
        (0..20).for_each(|_| policy.observe(&done));
        let at = f64::from(second);
        found.push((at, f64::from(leases)));
        capacity.push((at, borne));
        with.push((at, service));
        without.push((at, service_ms(FIXED, borne)));
    }
    draw(&[
        Panel {
            title: "Open leases",
            note: "on average over 20 s",
            lines: vec![
                line("what the server bears", &BOUND, by_twenty(&capacity)),
                line("without a policy", &WITHOUT, level(FIXED, span)),
                line("with adaptive", &WITH, by_twenty(&found)),
            ],
        },
        Panel {
            title: "How long the server takes for one",
            note: "milliseconds, on average over 20 s",
            lines: beside("with adaptive", by_twenty(&without), by_twenty(&with)),
        },
    ])
}

/// The mean of each twenty points.
fn by_twenty(points: &[(f64, f64)]) -> Points {
    let means = points.chunks(20).map(|chunk| {
        let mean = |of: fn(&(f64, f64)) -> f64| chunk.iter().map(of).sum::<f64>() / chunk.len() as f64;
        (mean(|point| point.0), mean(|point| point.1))
    });
    means.collect()
}

fn level(value: f64, span: Duration) -> Points {
    vec![(0.0, value), (span.as_secs_f64(), value)]
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().expect("it is short")
}
