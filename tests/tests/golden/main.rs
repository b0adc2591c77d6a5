//! What the bundled policies decide on one fixed sequence of frames, as digests: a change of any decision is seen in review.
//!
//! A digest that changes is no fault. Look at the counts beside it, say in the commit what is decided otherwise and why, and take
//! the new line over.

mod world;

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use sluicegate_plugin_sdk::{Answer, Init, Plan, Policy, parse_config};
use sluicegate_policy_adaptive::Adaptive;
use sluicegate_policy_busy_idle::BusyIdle;
use sluicegate_policy_calm::Calm;
use sluicegate_policy_deadline::Deadline;
use sluicegate_policy_fair_share::FairShare;
use sluicegate_policy_strict_tiers::StrictTiers;
use sluicegate_policy_token_bucket::PerTenantTokenBucket;

use self::world::World;

const FRAMES: u64 = 1_000;
/// A new instance goes on from the state of the one before every so many frames.
const SWAP_EVERY: u64 = 150;

/// What was decided.
#[derive(Default)]
struct Decided {
    digest: Sha256,
    verdicts: [u64; 5],
    weights: u64,
    caps: u64,
    refreshed: u64,
}

impl Decided {
    fn take(&mut self, plan: &Plan) {
        let mut digest = |numbers: &[u64]| numbers.iter().for_each(|number| self.digest.update(number.to_le_bytes()));
        digest(&[plan.answers.len() as u64]);
        for answer in &plan.answers {
            let Answer { verdict, band, max_messages, reason, duration_us, valid_us, memo } = *answer;
            digest(&[verdict, band, max_messages, reason].map(u64::from));
            digest(&[duration_us, valid_us, memo]);
        }
        for weight in &plan.weights {
            digest(&[(*weight).into()]);
        }
        digest(&[plan.concurrency.into(), plan.concurrency_valid_us, plan.refresh.into()]);
        for answer in &plan.answers {
            self.verdicts[answer.verdict as usize] += 1;
        }
        self.weights += plan.weights.iter().filter(|weight| **weight > 0).count() as u64;
        self.caps += u64::from(plan.concurrency > 0);
        self.refreshed += u64::from(plan.refresh);
    }

    fn line(self, name: &str) -> String {
        let [served, throttled, suspended, dead, dropped] = self.verdicts;
        let digest = self.digest.finalize();
        let digest = digest[..8].iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        format!(
            "{name}: serve {served}, throttle {throttled}, suspend {suspended}, dead-letter {dead}, drop {dropped}, \
             weights {}, caps {}, refresh {}, digest {digest}\n",
            self.weights, self.caps, self.refreshed
        )
    }
}

fn instance<P: Policy>(config: &str, now_us: u64) -> P {
    let init = Init { group: "golden".into(), shard: 0, seed: 1, now_us };
    let config = parse_config(config).expect("the configuration parses");
    P::new(&init, config).expect("the policy takes it")
}

/// All decisions of a policy on the frames.
fn decided<P: Policy>(config: &str) -> String {
    let descriptor = P::describe();
    let mut world = World::new(&descriptor);
    let mut policy: P = instance(config, world.now_us());
    let mut decided = Decided::default();
    for frame in 1..=FRAMES {
        if frame % SWAP_EVERY == 0 {
            let state = policy.snapshot();
            policy = instance(config, world.now_us());
            if let Some(state) = state {
                policy.restore(state).expect("it takes its own state");
            }
            world.tell_names_again();
        }
        let ask = world.next_ask();
        for tenant in &ask.tenants {
            policy.learn(tenant);
        }
        for lite in &ask.lites {
            policy.learn_lite(lite);
        }
        for feedback in &ask.feedback {
            policy.observe(feedback);
        }
        let plan = policy.decide(&ask.frame);
        assert_eq!(plan.answers.len(), ask.frame.lites.len());
        world.take(&ask.frame, &plan);
        decided.take(&plan);
    }
    decided.line(&descriptor.name)
}

#[test]
fn the_bundled_policies_decide_as_they_did() {
    let lines = [
        decided::<PerTenantTokenBucket>(
            r#"{"rate_per_second":5000,"burst":20000,"overrides":[{"tenant":"org/gold/*","rate_per_second":20000}]}"#,
        ),
        decided::<FairShare>(
            r#"{"half_life_seconds":60,"tiers":[{"name":"gold","weight":10,"tenants":["org/gold/*"]}]}"#,
        ),
        decided::<StrictTiers>(
            r#"{"tiers":[{"name":"vip","tenants":["org/gold/*"]},{"name":"standard","floor_percent":10}]}"#,
        ),
        decided::<Deadline>(r#"{"slack_limits_ms":[500,2000,10000],"late":"dead_letter"}"#),
        decided::<BusyIdle>(r#"{"busy_above":0.8,"idle_below":0.6,"windows":["22:00-06:00"]}"#),
        decided::<Adaptive>(r#"{"initial":8,"max":200}"#),
        decided::<Calm>(""),
    ];
    insta::assert_snapshot!(lines.concat(), @r"
    token-bucket: serve 23952, throttle 0, suspend 0, dead-letter 0, drop 0, weights 0, caps 0, refresh 0, digest 3edcc277865573fe
    fair-share: serve 23952, throttle 0, suspend 0, dead-letter 0, drop 0, weights 20521, caps 0, refresh 0, digest b290ffabd215656b
    strict-tiers: serve 23952, throttle 0, suspend 0, dead-letter 0, drop 0, weights 0, caps 0, refresh 0, digest 75746e606e038b67
    deadline: serve 23799, throttle 0, suspend 0, dead-letter 153, drop 0, weights 0, caps 0, refresh 111103, digest d1c3eafe38f20d42
    busy-idle: serve 20318, throttle 1652, suspend 1643, dead-letter 0, drop 0, weights 0, caps 0, refresh 400384, digest 335f4b29521af4f9
    adaptive: serve 14491, throttle 9461, suspend 0, dead-letter 0, drop 0, weights 0, caps 1000, refresh 0, digest 2b6679a222c6ca1f
    calm: serve 21694, throttle 2258, suspend 0, dead-letter 0, drop 0, weights 0, caps 0, refresh 0, digest 315d3f0a1479c0b9
    ");
}

#[test]
fn the_same_frames_give_the_same_decisions() {
    let decided = || decided::<FairShare>("");
    assert_eq!(decided(), decided());
}
