//! Building answers and plans.

use std::time::Duration;

use crate::{Answer, Plan};

impl Answer {
    /// [`Answer::verdict`]: its messages may run.
    pub const SERVE: u32 = 0;
    /// [`Answer::verdict`]: hold it, in memory only.
    pub const THROTTLE: u32 = 1;
    /// [`Answer::verdict`]: hold it, durably.
    pub const SUSPEND: u32 = 2;
    /// [`Answer::verdict`]: the head goes to the dead-letter topic.
    pub const DEAD_LETTER: u32 = 3;
    /// [`Answer::verdict`]: the head is settled without delivery.
    pub const DROP: u32 = 4;
    /// [`Answer::band`]: the head's priority decides.
    pub const BAND_OF_HEAD: u32 = 255;
    /// How long [`Answer::serve`] is valid unless it says otherwise.
    pub const VALID_DEFAULT: Duration = Duration::from_secs(10);

    fn of(verdict: u32) -> Self {
        Self { verdict, band: Self::BAND_OF_HEAD, ..Self::default() }
    }

    /// Its messages may run, in the band of the head's priority, any number in the next 10 s.
    #[must_use]
    pub fn serve() -> Self {
        Self { max_messages: u32::MAX, valid_us: micros(Self::VALID_DEFAULT), ..Self::of(Self::SERVE) }
    }

    /// Hold it this long, in memory only, then ask again: 1 ms to 1 minute.
    #[must_use]
    pub fn throttle(duration: Duration) -> Self {
        Self { duration_us: micros(duration), ..Self::of(Self::THROTTLE) }
    }

    /// Hold it this long, also across a restart, then ask again: 1 ms to 30 days.
    #[must_use]
    pub fn suspend(duration: Duration) -> Self {
        Self { duration_us: micros(duration), ..Self::of(Self::SUSPEND) }
    }

    /// The head goes to the dead-letter topic.
    #[must_use]
    pub fn dead_letter() -> Self {
        Self::of(Self::DEAD_LETTER)
    }

    /// The head is settled without delivery.
    #[must_use]
    pub fn discard() -> Self {
        Self::of(Self::DROP)
    }

    /// Serve it in this band, 0 to 9, instead of the head's priority.
    #[must_use]
    pub fn in_band(self, band: u8) -> Self {
        Self { band: band.min(9).into(), ..self }
    }

    /// Ask again after so many messages, at least 1.
    #[must_use]
    pub fn messages(self, max: u32) -> Self {
        Self { max_messages: max, ..self }
    }

    /// Ask again after this long, at most 1 minute.
    #[must_use]
    pub fn valid_for(self, duration: Duration) -> Self {
        Self { valid_us: micros(duration), ..self }
    }

    /// The reason, an index into the policy's reasons.
    #[must_use]
    pub fn because(self, reason: u32) -> Self {
        Self { reason, ..self }
    }

    /// A word that the next view of this lite topic hands back.
    #[must_use]
    pub fn remember(self, memo: u64) -> Self {
        Self { memo, ..self }
    }
}

/// Answers in the frame's order; weights and concurrency stay as they are.
impl FromIterator<Answer> for Plan {
    fn from_iter<I: IntoIterator<Item = Answer>>(answers: I) -> Self {
        Self { answers: answers.into_iter().collect(), ..Self::default() }
    }
}

impl Plan {
    /// At most so many leases may be open in the group, for this long unless another plan says otherwise: 1 ms to 1 minute.
    #[must_use]
    pub fn concurrency(self, leases: u32, valid_for: Duration) -> Self {
        Self { concurrency: leases.max(1), concurrency_valid_us: micros(valid_for), ..self }
    }

    /// Ask again about so many lite topics that wait in a band that this policy chose, in turn: at most 1,024, and every 10 ms.
    #[must_use]
    pub fn refresh(self, lites: u32) -> Self {
        Self { refresh: lites, ..self }
    }
}

/// At most the highest there is. `Duration::as_micros` has 128 bits, for which a guest has no instructions.
fn micros(duration: Duration) -> u64 {
    const MICROS: u64 = 1_000_000;
    match duration.as_secs() < u64::MAX / MICROS {
        true => duration.as_secs() * MICROS + u64::from(duration.subsec_micros()),
        false => u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_served_lite_topic_runs_in_its_own_band_until_told_otherwise() {
        let answer = Answer::serve();
        assert_eq!((answer.verdict, answer.band, answer.max_messages, answer.valid_us), (0, 255, u32::MAX, 10_000_000));
        let answer = Answer::serve().in_band(12).messages(1).because(2).remember(7);
        assert_eq!((answer.band, answer.max_messages, answer.reason, answer.memo), (9, 1, 2, 7));
    }

    #[test]
    fn a_duration_beyond_the_field_saturates() {
        assert_eq!(Answer::suspend(Duration::MAX).duration_us, u64::MAX);
    }
}
