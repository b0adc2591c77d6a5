//! Faults that leave capsules, and the faults again.

use sluicegate_protocol::admin::PolicyRole;
use tokio::sync::mpsc;

use super::bound::Bound;
use super::*;
use crate::policy::capsule::{Capsule, InvalidCapsule};
use crate::policy::recipe::Recipe;
use crate::policy::replay::{Replayed, Verdict as Again, replay};

/// A policy whose capsules come to this test alone.
struct Failing {
    policy: Bound,
    compiled: Arc<CompiledPolicy>,
    capsules: mpsc::Receiver<Capsule>,
}

impl Failing {
    fn with(config: &str) -> Self {
        let host = PolicyHost::new(PolicyCompiler::Here, None).unwrap();
        let capsules = host.alarms().capsules().unwrap();
        let compiled = block_on(host.compile(hostile())).unwrap();
        let recipe = Recipe { compiled: Arc::clone(&compiled), config: config.into(), init: init() };
        let policy = Bound::of(recipe);
        Self { policy, compiled, capsules }
    }

    fn by(how: &str) -> Self {
        Self::with(&format!(r#"{{"misbehave": "{how}"}}"#))
    }

    fn ask(&mut self, tenants: &[u64], second: u64) -> Plan {
        let now = later(Duration::from_secs(second));
        self.policy.ask(now, &ask_for(tenants, 1, now)).unwrap().unwrap()
    }

    /// Has it fail, and answers the capsule as it is read from its file.
    fn fail(&mut self, second: u64) -> Capsule {
        let strike = self.policy.ask(later(Duration::from_secs(second)), &signal()).unwrap_err();
        let capsule = self.capsules.try_recv().unwrap();
        assert_eq!((&strike.capsule, &strike.fault), (&capsule.header().id, &capsule.failed.fault));
        read_again(&capsule)
    }
}

fn read_again(capsule: &Capsule) -> Capsule {
    Capsule::parse(&text(capsule)).unwrap()
}

fn text(capsule: &Capsule) -> Vec<u8> {
    let mut text = Vec::new();
    capsule.write(&mut text).unwrap();
    text
}

fn told(replayed: &Replayed) -> (usize, usize, Again) {
    (replayed.answered, replayed.same, replayed.verdict)
}

#[test]
fn every_fault_is_had_again_from_its_capsule() {
    for how in ["panic", "spin", "allocate-all", "recurse", "too-few-answers", "unknown-verdict", "huge-plan"] {
        let mut failing = Failing::by(how);
        for tenants in [[5, 2], [2, 9], [901, 5]] {
            failing.ask(&tenants, 0);
        }
        let capsule = failing.fail(0);
        let replayed = replay(&failing.compiled, &capsule);
        assert_eq!(told(&replayed), (3, 3, Again::Reproduced), "{how}: {replayed:?}");
        assert_eq!(replayed.fault.as_ref(), Some(&capsule.header().fault));
    }
}

#[test]
fn a_capsule_says_whose_fault_it_is_and_what_was_said_last() {
    let capsule = Failing::by("panic").fail(7);
    let header = capsule.header();
    assert_eq!(header.id, "1700000007000000-workers-0");
    assert_eq!((header.group.as_str(), header.shard, header.seed, header.strikes), ("workers", 3, 7, 1));
    assert_eq!((header.policy.name.as_str(), header.policy.config.as_str()), ("hostile", r#"{"misbehave": "panic"}"#));
    assert_eq!((header.role, header.questions, header.limits.memory_bytes), (PolicyRole::Deciding, 0, 16 << 20));
    assert!(header.fault.ends_with("deliberate"), "{}", header.fault);
    assert!(capsule.log.last().is_some_and(|line| line.level == 1 && line.text.ends_with("deliberate")));
}

#[test]
fn a_capsule_begins_with_the_last_snapshot_and_the_names_that_were_known_then() {
    let mut failing = Failing::by("panic");
    for second in 0..=10 {
        failing.ask(&[3, second + 4], second);
    }
    // The weights of tenants are the lengths of names that were told before the snapshot.
    assert_eq!(failing.ask(&[3, 5], 11).weights, [3, 5]);
    let capsule = failing.fail(12);
    // The frame of the tenth second came after the snapshot.
    assert_eq!((capsule.tape.start.state.is_some(), capsule.header().questions), (true, 2));
    assert_eq!(told(&replay(&failing.compiled, &capsule)), (2, 2, Again::Reproduced));
    // A second fault begins with the state that the new instance was given, and nothing else.
    let capsule = failing.fail(13);
    assert_eq!((capsule.header().strikes, capsule.tape.told.len(), capsule.tape.asked.len()), (2, 0, 0));
    assert_eq!(replay(&failing.compiled, &capsule).verdict, Again::Reproduced);
}

#[test]
fn what_is_not_the_same_again_is_told() {
    let mut failing = Failing::by("panic");
    failing.ask(&[5, 2], 0);
    failing.ask(&[5, 2], 0);
    let whole = failing.fail(0);

    let mut healed = whole.clone();
    healed.header.policy.config = String::new();
    let replayed = replay(&failing.compiled, &healed);
    assert_eq!((told(&replayed), replayed.fault), ((2, 2, Again::NoFault), None));

    let mut other = whole.clone();
    other.header.policy.config = r#"{"misbehave": "unknown-verdict"}"#.into();
    assert_eq!(replay(&failing.compiled, &other).verdict, Again::OtherFault);

    let mut cut = whole.clone();
    cut.tape.asked.pop_front();
    let replayed = replay(&failing.compiled, &cut);
    assert_eq!(told(&replayed), (1, 0, Again::AnswersDiffer));
    let what = &replayed.differences[0].what;
    assert!(what.starts_with("row 0: verdict 0") && what.ends_with("memo 2"), "{what}");

    // Another policy, which wants no column and learns no lite topic, is asked the same.
    let mut against = whole;
    against.header.policy.config = r#"{"rate_per_second": 1}"#.into();
    let replayed = replay(compiled_token_bucket(), &against);
    assert_eq!((told(&replayed), replayed.fault), ((2, 0, Again::AnswersDiffer), None));
}

#[test]
fn a_long_tape_begins_anew_with_a_small_state() {
    let mut failing = Failing::by("panic");
    let tenants: Vec<u64> = (1..=200).collect();
    for _ in 0..150 {
        failing.ask(&tenants, 0);
    }
    let capsule = failing.fail(0);
    let questions = capsule.header().questions;
    assert!((1..150).contains(&questions) && capsule.tape.start.state.is_some(), "{questions}");
    assert_eq!((capsule.header().questions_cut, capsule.header().names_cut), (0, 0));
    let questions = usize::try_from(questions).unwrap();
    assert_eq!(told(&replay(&failing.compiled, &capsule)), (questions, questions, Again::Reproduced));
}

#[test]
fn what_is_no_capsule_is_refused_with_the_line() {
    let capsule = Failing::by("panic").fail(0);
    let text = text(&capsule);
    let lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let refused = |text: &[u8]| Capsule::parse(text).unwrap_err().to_string();
    assert_eq!(refused(b""), "the capsule is cut off: it has no line `format`");
    assert_eq!(refused(lines[0]), "the capsule is cut off: it has no line `start`");
    assert_eq!(refused(&lines[..2].concat()), "the capsule is cut off: it has no line `failed`");
    assert!(refused(&[lines[0], b"{\"surprise\":1}\n"].concat()).starts_with("line 2: unknown variant `surprise`"));
    let other = br#"{"format":"sluicegate-recording","version":1}"#;
    assert!(refused(other).starts_with("line 1: expected `format` to be \"sluicegate-capsule\""));
    let newer = br#"{"format":"sluicegate-capsule","version":2,"id":7}"#;
    assert!(matches!(Capsule::parse(newer), Err(InvalidCapsule::Version { found: 2 })));
}

#[test]
fn the_oldest_capsules_go_when_there_are_too_many() {
    let directory = tempfile::tempdir().unwrap();
    let cabinet = Cabinet::in_dir(directory.path());
    assert_eq!((cabinet.list().unwrap(), cabinet.read("x").unwrap()), (vec![], None));
    let mut capsule = Failing::by("panic").fail(0);
    for nth in 0..70 {
        capsule.header.id = format!("{nth:016}-workers-{nth}");
        cabinet.keep(&capsule).unwrap();
    }
    let kept: Vec<_> = cabinet.list().unwrap().into_iter().map(|capsule| capsule.header.id).collect();
    let ids: Vec<_> = (6..70).rev().map(|nth| format!("{nth:016}-workers-{nth}")).collect();
    assert_eq!(kept, ids);
    let read = cabinet.read(&ids[0]).unwrap().unwrap();
    assert_eq!(Capsule::parse(&read).unwrap().header().id, ids[0]);
    std::fs::write(directory.path().join("secret.jsonl"), "{}").unwrap();
    assert_eq!(cabinet.read("../secret").unwrap(), None);
    // What somebody else wrote there harms nobody.
    std::fs::write(directory.path().join("capsules/9.jsonl"), "{}").unwrap();
    assert_eq!(cabinet.list().unwrap().len(), 64);
}
