//! What a policy in a random history answers: everything that it can, also what it should not.

use std::time::Duration;

use sluicegate_scheduler::{Answer, Ask, ConcurrencyCap, Plan, Verdict};

/// The plan that the seed decides.
pub(crate) fn plan(ask: &Ask, seed: u64, is_wrong_length: bool) -> Plan {
    let mut draws = Draws(seed);
    let throttles_all = draws.below(6) == 0;
    let answers = ask.frame.lites.iter().map(|_| {
        let wait = match draws.below(40) {
            0 => Duration::ZERO,
            1 => Duration::MAX,
            _ => Duration::from_millis(1 + draws.below(20)),
        };
        let verdict = match draws.below(10) {
            0 => Verdict::Throttle(wait),
            _ if throttles_all => Verdict::Throttle(wait),
            1 => Verdict::Suspend(wait),
            2 => Verdict::DeadLetter,
            3 => Verdict::Drop,
            _ => Verdict::Serve {
                band: (draws.below(2) == 0).then(|| u8::try_from(draws.below(12)).expect("below 12")),
                max_messages: u32::try_from(draws.below(3)).expect("below 3"),
            },
        };
        let valid_for = match draws.below(20) {
            0 => Duration::MAX,
            _ => Duration::from_millis(draws.below(30)),
        };
        let reason = u32::try_from(draws.below(4)).expect("below 4");
        Answer { verdict, valid_for, reason, memo: draws.below(3) }
    });
    let mut answers: Vec<Answer> = answers.collect();
    if is_wrong_length && answers.pop().is_none() {
        answers.push(Answer { verdict: Verdict::Drop, valid_for: Duration::ZERO, reason: 0, memo: 0 });
    }
    let told = draws.index(6).min(ask.frame.tenants.len());
    let weights = (0..told).map(|_| [0, 1, 2, 5, 10_000, u32::MAX][draws.index(6)]).collect();
    let has_cap = draws.below(4) == 0;
    let concurrency = has_cap.then(|| ConcurrencyCap {
        leases: u32::try_from(draws.below(9)).expect("below 9"),
        valid_for: Duration::from_millis(draws.below(30)),
    });
    let refresh = [0, 0, 0, 1, 3, u32::MAX][draws.index(6)];
    Plan { lites: answers, weights, concurrency, refresh }
}

struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn index(&mut self, len: u64) -> usize {
        usize::try_from(self.below(len)).expect("it is small")
    }
}
