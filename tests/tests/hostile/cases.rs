//! What hostile policies do, and what is to become of them.

use sluicegate_tests::traffic::Rate;

/// How a case ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected {
    /// It is struck, and the cause says one of these.
    Struck(&'static [&'static str]),
    /// It harms nobody and is not struck.
    Served,
    /// It is near a limit: it may be struck, as the machine and its frames are.
    ServedOrStruck,
    /// It holds everything back, as the contract lets it: what it held comes when an operator takes the policy away.
    Held,
    /// It is not activated, the answer says one of these, and what decided before goes on.
    NotActivated(&'static [&'static str]),
    /// It fails on the state of the one before, which does no harm: it starts without, the log says one of these, and it is not struck.
    StartsCold(&'static [&'static str]),
}

/// A policy that misbehaves, and the traffic that it is to decide on.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Of the hostile guest.
    pub(crate) config: &'static str,
    pub(crate) expected: Expected,
    pub(crate) rate: Rate,
}

const FUEL: &str = "used up its fuel";
const TIME: &str = "still computing";
const STACK: &str = "call stack exhausted";
const MEMORY: &str = "bytes of memory";
const PANIC: &str = "deliberate";
const TRAP: &str = "unreachable";

use Expected::{Held, NotActivated, Served, ServedOrStruck, StartsCold, Struck};

/// Serves, and has a state.
pub(crate) const HARMLESS: &str = r#"{"messages":1}"#;

const fn case(name: &'static str, config: &'static str, expected: Expected) -> Case {
    Case { name, config, expected, rate: Rate::CALM }
}

/// The same at more messages, for what happens every thousand frames.
const fn busy(name: &'static str, config: &'static str, expected: Expected) -> Case {
    Case { name, config, expected, rate: Rate { messages_per_ms: 4, ..Rate::CALM } }
}

/// All of them but those that take long.
pub(crate) const CASES: &[Case] = &[
    case("does no harm", r#"{"always":true,"messages":1}"#, Served),
    case("endless loop", r#"{"misbehave":"spin","always":true,"messages":1}"#, Struck(&[FUEL])),
    case("endless recursion", r#"{"misbehave":"recurse","always":true,"messages":1}"#, Struck(&[STACK])),
    case("memory bomb", r#"{"misbehave":"allocate-all","always":true,"messages":1}"#, Struck(&[MEMORY])),
    case("memory leak", r#"{"misbehave":"leak","always":true,"messages":1}"#, Struck(&[MEMORY])),
    case("panic", r#"{"misbehave":"panic","always":true,"messages":1}"#, Struck(&[PANIC])),
    case("trap without a word", r#"{"misbehave":"trap","always":true,"messages":1}"#, Struck(&[TRAP])),
    case("too few answers", r#"{"misbehave":"too-few-answers","always":true}"#, Struck(&["0 answers for"])),
    case("too many answers", r#"{"misbehave":"too-many-answers","always":true}"#, Struck(&["answers for"])),
    case("too many weights", r#"{"misbehave":"too-many-weights","always":true}"#, Struck(&["weights for"])),
    case("unknown verdict", r#"{"misbehave":"unknown-verdict","always":true}"#, Struck(&["verdict 99"])),
    case(
        "huge plan",
        r#"{"misbehave":"huge-plan","always":true,"messages":1}"#,
        Struck(&[FUEL, "hostcalls", "weights for"]),
    ),
    case("extreme values", r#"{"misbehave":"extremes","always":true}"#, Served),
    case("throttles for ever", r#"{"misbehave":"throttle-forever","always":true}"#, Held),
    case("slow each time", r#"{"misbehave":"slow","turns":40000,"always":true,"messages":1}"#, ServedOrStruck),
    case("waits for memory", r#"{"misbehave":"slow-memory","turns":20000,"always":true,"messages":1}"#, ServedOrStruck),
    case("churns its heap", r#"{"misbehave":"churn","turns":800,"always":true,"messages":1}"#, ServedOrStruck),
    case("floods the log", r#"{"misbehave":"flood-log","during":"any","always":true,"messages":1}"#, ServedOrStruck),
    case("panic in learn", r#"{"misbehave":"panic","during":"learn","messages":1}"#, Struck(&[PANIC])),
    case("loop in learn", r#"{"misbehave":"spin","during":"learn","messages":1}"#, Struck(&[FUEL])),
    case("trap in observe", r#"{"misbehave":"trap","during":"observe","messages":1}"#, Struck(&[TRAP])),
    case(
        "memory bomb in observe",
        r#"{"misbehave":"allocate-all","during":"observe","messages":1}"#,
        Struck(&[MEMORY]),
    ),
    busy("panic in snapshot", r#"{"misbehave":"panic","during":"snapshot","messages":1}"#, Struck(&[PANIC])),
    busy("loop in snapshot", r#"{"misbehave":"spin","during":"snapshot","messages":1}"#, Struck(&[FUEL, TIME])),
    busy("huge snapshot", r#"{"misbehave":"huge-state","messages":1}"#, Struck(&["a state of"])),
    case("panic in init", r#"{"misbehave":"panic","during":"init"}"#, NotActivated(&[PANIC])),
    case("trap in init", r#"{"misbehave":"trap","during":"init"}"#, NotActivated(&[TRAP])),
    case("loop in init", r#"{"misbehave":"spin","during":"init"}"#, NotActivated(&[FUEL, TIME])),
    case("recursion in init", r#"{"misbehave":"recurse","during":"init"}"#, NotActivated(&[STACK])),
    case("memory bomb in init", r#"{"misbehave":"allocate-all","during":"init"}"#, NotActivated(&[MEMORY])),
    case("refuses a state", r#"{"misbehave":"refuse-to-restore"}"#, StartsCold(&["not in the mood"])),
    case("panic in restore", r#"{"misbehave":"panic","during":"restore"}"#, StartsCold(&[PANIC])),
    case("trap in restore", r#"{"misbehave":"trap","during":"restore"}"#, StartsCold(&[TRAP])),
    case("loop in restore", r#"{"misbehave":"spin","during":"restore"}"#, StartsCold(&[FUEL, TIME])),
    case("recursion in restore", r#"{"misbehave":"recurse","during":"restore"}"#, StartsCold(&[STACK])),
    case("memory bomb in restore", r#"{"misbehave":"allocate-all","during":"restore"}"#, StartsCold(&[MEMORY])),
];

/// A policy is told to forget tenants when it knows a hundred thousand.
pub(crate) const LONG_CASES: &[Case] = &[Case {
    name: "panic in forget",
    config: r#"{"misbehave":"panic","during":"forget","messages":1}"#,
    expected: Struck(&[PANIC]),
    rate: Rate { lites: 110_000, ..Rate::FULL },
}];

/// What any call of `describe` can do, and what the refusal of the upload says.
pub(crate) const DESCRIPTIONS: &[(&str, &[&str])] = &[
    ("spin", &[FUEL, TIME]),
    ("recurse", &[STACK]),
    ("allocate-all", &[MEMORY]),
    ("panic", &[PANIC]),
    ("trap", &[TRAP]),
    ("long", &["version must be at most", "hostcalls"]),
    ("forged", &["without control characters"]),
];
