//! The sandbox against real guests: the bundled token bucket, and `tests/guests/hostile`.

mod bound;
mod capsules;
mod guests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::simulation::{Decider, Facts, Group, Load, START as SIMULATION_START, Simulation, Workload};
use sluicegate_scheduler::{Ask, Feedback, Frame, GroupView, LiteView, Plan, TenantView, Verdict, WorkResult};

use self::guests::{componentize, hostile, hostile_module, token_bucket};
use super::briefing::Briefing;
use super::compiled::Descriptor;
use super::fault::PolicyFault;
use super::instance::PolicyInstance;
use super::lab::PolicyLab;
use super::limits::Budget;
use super::*;

/// The seed that tells the hostile guest to misbehave.
const SIGNAL: u64 = 13;
const START: Timestamp = Timestamp(1_700_000_000_000_000);

fn host() -> &'static Arc<PolicyHost> {
    static HOST: OnceLock<Arc<PolicyHost>> = OnceLock::new();
    HOST.get_or_init(|| PolicyHost::new(PolicyCompiler::Here, None).unwrap())
}

/// In this process, as nobody but a test does it.
fn compile(wasm: &[u8]) -> Result<Arc<CompiledPolicy>, PolicyRejected> {
    block_on(host().compile(wasm))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The hostile guest, compiled once for all tests.
fn compiled() -> &'static Arc<CompiledPolicy> {
    static COMPILED: OnceLock<Arc<CompiledPolicy>> = OnceLock::new();
    COMPILED.get_or_init(|| compile(hostile()).unwrap())
}

fn compiled_token_bucket() -> &'static Arc<CompiledPolicy> {
    static COMPILED: OnceLock<Arc<CompiledPolicy>> = OnceLock::new();
    COMPILED.get_or_init(|| compile(token_bucket()).unwrap())
}

fn init() -> Init {
    Init { group: "workers".into(), shard: 3, seed: 7, now: START }
}

/// An instance, and what it knows.
struct Asked {
    instance: PolicyInstance,
    briefing: Briefing,
    descriptor: Descriptor,
}

impl Asked {
    fn of(compiled: &Arc<CompiledPolicy>, config: &str) -> Self {
        let instance = compiled.instantiate(&init(), config).unwrap();
        Self { instance, briefing: Briefing::default(), descriptor: compiled.descriptor().clone() }
    }

    fn ask(&mut self, ask: &Ask, directory: &mut dyn Directory) -> Result<Plan, PolicyFault> {
        self.instance.say(&self.briefing.question(&self.descriptor, ask, directory)).map(|(_, plan)| plan)
    }
}

fn misbehaving(how: &str) -> Asked {
    Asked::of(compiled(), &format!(r#"{{"misbehave": "{how}"}}"#))
}

fn later(by: Duration) -> Timestamp {
    START.plus(by)
}

/// One lite topic of each of these tenants, with a head of this cost.
fn ask_for(tenants: &[u64], cost: u64, now: Timestamp) -> Ask {
    let tenant = |id: &u64| TenantView { tenant: TenantId(*id), weight: 1, in_flight: 0, waiting: 1 };
    let lite = |(index, id): (usize, &u64)| LiteView {
        lite: LiteId(100 + *id),
        tenant: u32::try_from(index).unwrap(),
        head_offset: Offset(0),
        head_age: Duration::from_millis(5),
        head_cost: cost,
        priority: 4,
        expires_in: None,
        backlog: 1,
        in_flight: 0,
        attempts: 0,
        last_service: None,
        memo: 0,
    };
    let frame = Frame {
        now,
        sequence: 0,
        seed: 0,
        group: GroupView::default(),
        tenants: tenants.iter().map(tenant).collect(),
        lites: tenants.iter().enumerate().map(lite).collect(),
    };
    Ask { feedback: Vec::new(), frame }
}

fn ask() -> Ask {
    ask_for(&[1], 1, START)
}

fn signal() -> Ask {
    let mut ask = ask();
    ask.frame.seed = SIGNAL;
    ask
}

/// Names of tenants are as long as their ids; lite topics above 1,000 have a label, and heads have their offset as a property.
struct Names<F>(F);

const NAMES: Names<fn(TenantId) -> String> = Names(name);

impl<F: FnMut(TenantId) -> String> Directory for Names<F> {
    fn tenant(&mut self, tenant: TenantId) -> Known {
        Known { name: self.0(tenant), labels: vec![("tier".into(), "gold".into())] }
    }

    fn labelled(&mut self, lites: &[LiteId]) -> Vec<(LiteId, Known)> {
        let labelled = lites.iter().filter(|lite| lite.0 > 1_000);
        let known = || Known { name: "lite".into(), labels: vec![("class".into(), "batch".into())] };
        labelled.map(|lite| (*lite, known())).collect()
    }

    fn columns(&mut self, properties: &[String], rows: &[LiteView]) -> Vec<Vec<u64>> {
        let column = |_| rows.iter().map(|row| row.head_offset.0).collect();
        properties.iter().map(column).collect()
    }
}

fn name(tenant: TenantId) -> String {
    "x".repeat(usize::try_from(tenant.0).unwrap())
}

fn fault_of(how: &str) -> PolicyFault {
    let mut instance = misbehaving(how);
    instance.ask(&ask(), &mut { NAMES }).unwrap();
    let fault = instance.ask(&signal(), &mut { NAMES }).unwrap_err();
    assert_eq!(instance.ask(&ask(), &mut { NAMES }).unwrap_err(), PolicyFault::Poisoned);
    assert_eq!(instance.instance.snapshot().unwrap_err(), PolicyFault::Poisoned);
    fault
}

/// A delivery of the lite topic was done, and cost twice what was estimated.
fn done(tenant: u64, lite: u64) -> Feedback {
    Feedback {
        at: START,
        tenant: TenantId(tenant),
        lite: LiteId(lite),
        wait: None,
        service: Duration::from_millis(1),
        cost_estimate: 1,
        cost_measured: 2,
        result: Some(WorkResult::Done),
        retry_after: None,
    }
}

#[test]
fn a_policy_describes_itself() {
    let policy = compiled_token_bucket();
    assert_eq!(policy.descriptor().name, "token-bucket");
    assert_eq!((policy.reason(0), policy.reason(1), policy.reason(2)), ("within rate", "over rate", "other"));
    assert_eq!(policy.digest().len(), 64);
    assert!(policy.descriptor().config_schema.contains("rate_per_second"));
}

#[test]
fn what_is_no_policy_is_refused_with_what_would_help() {
    let refused = |bytes: &[u8]| compile(bytes).err().unwrap().to_string();
    let replaced = |from: &str, to: &str| guests::replaced(hostile(), from, to);

    assert_eq!(refused(b"(component)"), "this is not Wasm: upload the .wasm file that `sluice policy build` writes");
    assert_eq!(refused(b""), refused(b"(component)"));
    assert!(refused(hostile_module()).contains("core module, not a component: build it with `sluice policy build`"));
    assert!(refused(&vec![0; (1 << 20) + 1]).contains("1048577 bytes, at most 1048576"));
    let native = wasmtime::Engine::default().precompile_component(hostile()).unwrap();
    assert!(refused(&native).contains("precompiled native code"));
    assert!(refused(&hostile()[..hostile().len() / 2]).starts_with("the component does not compile: "));
    assert_eq!(
        refused(&replaced("@0.1.0", "@0.2.0")),
        "the policy was built for sluicegate:policy/*@0.2.0, this broker offers sluicegate:policy/*@0.1.0: \
         rebuild it with this broker's SDK"
    );
    assert_eq!(
        refused(&replaced("sluicegate:policy/host@0.1.0", "wasi:clocks/wall-clock@0.2.0")),
        "the policy imports `wasi:clocks/wall-clock@0.2.0`, a broker offers `sluicegate:policy/host#log` only: \
         build it for wasm32-unknown-unknown, as `sluice policy build` does"
    );
    let empty = componentize(b"\0asm\x01\0\0\0");
    assert!(refused(&empty).contains("exports nothing, not sluicegate:policy/{lifecycle,scheduler}"));
    let schema = guests::replaced(token_bucket(), r#""type": "object""#, r#""type": "tensor""#);
    assert!(refused(&schema).starts_with("the policy's config-schema is refused: at /"), "{}", refused(&schema));
}

#[test]
fn a_config_is_held_against_the_schema_where_there_is_one() {
    let check = |policy: &CompiledPolicy, config: &str| block_on(host().check_config(policy, config));
    let bucket = compiled_token_bucket();
    assert_eq!(check(bucket, r#"{"rate_per_second": 5}"#), Ok(()));
    let refused = check(bucket, r#"{"rate_per_second": "x", "burst": -1}"#).unwrap_err();
    let ConfigRefused::Problems(first, others) = &refused else { panic!("{refused}") };
    assert_eq!((first.path.as_str(), others.len()), ("/burst", 1));
    assert!(refused.to_string().starts_with("config at /burst: -1 is less than"), "{refused}");
    assert!(refused.to_string().ends_with(" (and 1 more)"), "{refused}");
    // The defaults are the policy's own affair, and so is everything where there is no schema.
    assert_eq!(check(bucket, ""), Ok(()));
    assert_eq!(check(compiled(), "nonsense"), Ok(()));
}

#[test]
fn code_that_was_cached_is_used_by_a_host_that_compiles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = PolicyHost::new(PolicyCompiler::Here, Some(dir.path())).unwrap();
    let compiled = block_on(first.compile(token_bucket())).unwrap();
    // The same again is the same code.
    assert!(Arc::ptr_eq(&compiled, &block_on(first.compile(token_bucket())).unwrap()));

    let nowhere = PolicyCompiler::Program("/nonexistent/sluice".into());
    let second = PolicyHost::new(nowhere, Some(dir.path())).unwrap();
    let known = block_on(second.known(compiled.digest())).unwrap();
    assert_eq!((known.descriptor(), known.contract()), (compiled.descriptor(), "0.1.0"));
    known.instantiate(&init(), "").unwrap();
    assert!(block_on(second.known(&digest(hostile()))).is_none());
    let refused = block_on(second.compile(hostile())).err().unwrap();
    assert!(refused.is_ours() && refused.to_string().contains("the policy worker does not run"), "{refused}");
}

#[test]
fn a_bad_config_is_refused_with_the_place() {
    let start = |config: &str| compiled().instantiate(&init(), config).err().unwrap().to_string();
    assert_eq!(start(r#"{"misbehave": 7}"#), "config: expected value at line 1 column 15");
    assert_eq!(start(r#"{"misbehave": "refuse-to-start"}"#), "config: misbehave is `refuse-to-start`");
    assert!(start(&" ".repeat((64 << 10) + 1)).contains("65537 bytes"));
    assert!(compiled().instantiate(&init(), "").is_ok());
}

#[test]
fn names_cross_once_and_feedback_arrives() {
    let mut instance = misbehaving("none");
    let mut looked_up = Vec::new();
    let mut lookup = Names(|tenant: TenantId| {
        looked_up.push(tenant.0);
        name(tenant)
    });
    let plan = instance.ask(&ask_for(&[5, 2], 1, START), &mut lookup).unwrap();
    assert_eq!(plan.weights, [5, 2]);
    let mut second = ask_for(&[2, 9], 1, START);
    second.feedback = vec![done(4, 1)];
    let plan = instance.ask(&second, &mut lookup).unwrap();
    assert_eq!((plan.weights, plan.lites[0].memo), (vec![2, 9], 1_002));
    assert_eq!(looked_up, [5, 2, 9, 4]);
}

#[test]
fn labels_and_columns_arrive() {
    let mut instance = misbehaving("none");
    let mut ask = ask_for(&[850, 951, 1_500], 1, START);
    for (round, memo) in [(1, 2_000_001), (2, 2_000_002)] {
        for row in &mut ask.frame.lites {
            row.head_offset = Offset(round);
        }
        let plan = instance.ask(&ask, &mut Names(|_| "t".into())).unwrap();
        assert_eq!(plan.lites[0].memo, memo);
        let cap = plan.concurrency.unwrap();
        assert_eq!((u64::from(cap.leases), cap.valid_for), (3 * round, Duration::from_secs(1)));
    }
}

#[test]
fn a_panic_is_reported_with_its_message() {
    let PolicyFault::Trap(text) = fault_of("panic") else { panic!("not a trap") };
    assert!(text.starts_with("panicked at src/harm.rs:") && text.ends_with("deliberate"), "{text}");
}

#[test]
fn misbehaviour_ends_by_the_limit_that_it_meets() {
    assert_eq!(fault_of("spin"), PolicyFault::OutOfFuel { fuel: 1_004_000 });
    assert_eq!(fault_of("recurse"), PolicyFault::Trap("wasm trap: call stack exhausted".into()));
    assert_eq!(fault_of("too-few-answers"), PolicyFault::BadAnswer("0 answers for 1 lite topics".into()));
    assert_eq!(fault_of("unknown-verdict"), PolicyFault::BadAnswer("answer 0 has verdict 99, 0 to 4 exist".into()));
}

#[test]
fn memory_beyond_the_limit_is_named() {
    let fault = fault_of("allocate-all");
    let PolicyFault::Memory { asked, max } = fault else { panic!("{fault}") };
    assert!(asked > max && max == 16 << 20, "{asked}");
}

#[test]
fn a_guest_that_computes_past_its_deadline_is_stopped_even_with_fuel_left() {
    let mut instance = misbehaving("spin");
    let frame = translate::frame(&signal().frame, Vec::new());
    let fault = instance
        .instance
        .running()
        .call(Budget { fuel: u64::MAX, ticks: 3 }, |policy, store| {
            policy.sluicegate_policy_scheduler().call_decide(store, &frame)
        })
        .unwrap_err();
    assert_eq!(fault, PolicyFault::Deadline { ticks: 3 });
}

#[test]
fn an_answer_that_is_too_large_is_refused() {
    let mut instance = misbehaving("huge-plan");
    let frame = translate::frame(&signal().frame, Vec::new());
    let fault = instance
        .instance
        .running()
        .call(Budget { fuel: u64::MAX, ticks: 10_000 }, |policy, store| {
            policy.sluicegate_policy_scheduler().call_decide(store, &frame)
        })
        .unwrap_err();
    assert!(matches!(&fault, PolicyFault::BadAnswer(text) if text.contains("hostcalls")), "{fault}");
    let fault = misbehaving("huge-state").instance.snapshot().unwrap_err();
    assert_eq!(fault, PolicyFault::BadAnswer("a state of 2097158 bytes, at most 1048576 are kept".into()));
}

#[test]
fn a_flood_of_log_lines_harms_nobody() {
    let mut instance = misbehaving("flood-log");
    assert_eq!(instance.ask(&signal(), &mut { NAMES }).unwrap().lites.len(), 1);
    assert_eq!(instance.ask(&ask(), &mut { NAMES }).unwrap().lites[0].memo, 2);
}

#[test]
fn a_policy_that_spins_while_starting_is_refused() {
    let fault = compiled().instantiate(&init(), r#"{"misbehave": "spin-in-init"}"#).err().unwrap();
    assert_eq!(fault, PolicyFault::OutOfFuel { fuel: Budget::RARE.fuel });
}

#[test]
fn the_token_bucket_answers_the_largest_ask_within_its_budget() {
    let config = r#"{"rate_per_second": 1, "overrides": [{"tenant": "x*", "rate_per_second": 5}]}"#;
    let mut instance = Asked::of(compiled_token_bucket(), config);
    for round in 0..20 {
        let tenants: Vec<u64> = (round * 256..(round + 1) * 256).collect();
        let mut ask = ask_for(&tenants, 3, later(Duration::from_millis(round)));
        let feedback = |lite| Feedback {
            cost_measured: lite % 3,
            result: (lite % 3 > 0).then_some(WorkResult::Done),
            ..done(lite % 5_000, lite)
        };
        ask.feedback = (0..1_024).map(feedback).collect();
        assert_eq!(instance.ask(&ask, &mut Names(|tenant| format!("x{tenant}"))).unwrap().lites.len(), 256);
    }
    assert!(instance.instance.snapshot().unwrap().unwrap().data.len() > 10_000);
}

#[test]
fn a_policy_runs_outside_of_a_broker_and_the_same_calls_use_the_same_fuel() {
    let mut workload = Workload::new(7);
    let ada =
        workload.add("ada", Load::poisson(Duration::from_millis(20)).lites(30).service(Duration::from_millis(200)));
    let policy = PolicyLab::open().unwrap().load(token_bucket()).unwrap();
    let run = || {
        let mut trial = policy.start("workers", 7, SIMULATION_START, r#"{"rate_per_second": 20}"#).unwrap();
        let mut fuel = Vec::new();
        let mut decide = |ask: &Ask, facts: &Facts<'_>| {
            let plan = trial.ask(ask, &mut { facts }).map_err(|fault| fault.to_string());
            fuel.push(trial.fuel_used());
            plan
        };
        let simulation = Simulation::new(Group::default());
        let span = Duration::from_mins(1);
        let report = simulation.run(workload.names(), workload.jobs(), Decider::Policy(&mut decide), span);
        (report.digest, report.tenants[&ada].counts.throttled, fuel)
    };
    let (digest, throttled, fuel) = run();
    assert!(throttled > 100 && fuel.iter().all(|&fuel| fuel > 0), "{throttled} {fuel:?}");
    assert_eq!(run(), (digest, throttled, fuel));
}
