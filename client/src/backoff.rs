//! Delays between attempts: doubled each time, with jitter, so that many clients do not return as one.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The delay before the next attempt: half to all of the present step, but what the broker asked for at least.
    pub(crate) fn delay(&mut self, at_least: Option<Duration>) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        step.mul_f64(rand::random_range(0.5..1.0)).max(at_least.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_anew_after_a_reset() {
        let mut backoff = Backoff::new();
        for step_ms in [50_u64, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            let delay = backoff.delay(None);
            let step = Duration::from_millis(step_ms);
            assert!(delay >= step / 2 && delay <= step, "{delay:?} for a step of {step:?}");
        }
        backoff.reset();
        assert!(backoff.delay(None) <= FIRST);
    }

    #[test]
    fn a_delay_is_never_shorter_than_the_broker_asked_for() {
        assert_eq!(Backoff::new().delay(Some(Duration::from_secs(9))), Duration::from_secs(9));
    }
}
