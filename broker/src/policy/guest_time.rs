//! What a group's guest may compute, in processor time: where its frames are answered, and when it is too much.
//!
//! On the shard a guest has a tenth of a core. One that uses it up, or has a frame that is dear by itself, goes on on a policy thread,
//! until it was calm for a while. There it has a quarter of a core; beyond that it rests, and one that needs rests for long is struck.

use std::time::Duration;

use sluicegate_protocol::Timestamp;

use super::limits::{
    CALM_BURST, CALM_FOR, CALM_FRAME_MAX, CALM_PERCENT, OVERSPENT_FOR, SHARD_BURST, SHARD_FRAME_MAX, SHARD_PERCENT,
    THREAD_BURST, THREAD_PERCENT,
};

/// What is owed of calm at most: who computed much for an hour is calm as soon as who did for a second.
const CALM_OWED_MAX: Duration = CALM_BURST.saturating_mul(2);

/// What becomes of the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is answered at once.
    OnShard,
    /// A policy thread answers it.
    OffShard,
    /// Nobody answers it: the guest has used up its time.
    Rest,
    /// The same, and it has been so for too long.
    Overspent,
}

/// The guest time of one group.
#[derive(Debug)]
pub(super) struct GuestTime {
    on_shard: Bucket,
    off_shard: Bucket,
    /// Less than on the shard, so that a guest does not come and go at the limit.
    calm: Bucket,
    is_off_shard: bool,
    /// Since when a guest that is off the shard could be on it.
    calm_since: Timestamp,
    is_resting: bool,
    /// Since when it needs rests, or was struck for it.
    overspends_since: Option<Timestamp>,
}

impl Default for GuestTime {
    fn default() -> Self {
        Self {
            on_shard: Bucket::new(SHARD_PERCENT, SHARD_BURST),
            off_shard: Bucket::new(THREAD_PERCENT, THREAD_BURST),
            calm: Bucket::new(CALM_PERCENT, CALM_BURST),
            is_off_shard: false,
            calm_since: Timestamp::default(),
            is_resting: false,
            overspends_since: None,
        }
    }
}

impl GuestTime {
    /// Where the next frame is answered.
    pub(super) fn turn(&mut self, now: Timestamp) -> Turn {
        if !self.is_off_shard {
            return Turn::OnShard;
        }
        if now >= self.calm_since.plus(CALM_FOR) {
            (self.is_off_shard, self.is_resting, self.overspends_since) = (false, false, None);
            return Turn::OnShard;
        }
        let owed = self.off_shard.owed_at(now);
        if owed.is_zero() {
            self.overspends_since = None;
        }
        // A rest is long enough to be worth it.
        self.is_resting = owed > if self.is_resting { THREAD_BURST / 2 } else { THREAD_BURST };
        if !self.is_resting {
            return Turn::OffShard;
        }
        let since = *self.overspends_since.get_or_insert(now);
        if now.since(since) < OVERSPENT_FOR {
            return Turn::Rest;
        }
        self.overspends_since = Some(now);
        Turn::Overspent
    }

    pub(super) fn is_off_shard(&self) -> bool {
        self.is_off_shard
    }

    pub(super) fn is_resting(&self) -> bool {
        self.is_off_shard && self.is_resting
    }

    /// A frame was answered on the shard.
    pub(super) fn spent_on_shard(&mut self, now: Timestamp, spent: Duration) {
        self.on_shard.add(now, spent);
        if self.on_shard.is_over() || spent > SHARD_FRAME_MAX {
            self.leave_shard(now);
        }
        self.look_calm(now, spent);
    }

    /// A policy thread did something with the guest.
    pub(super) fn spent_off_shard(&mut self, now: Timestamp, spent: Duration) {
        self.off_shard.add(now, spent);
        self.look_calm(now, spent);
    }

    /// The frames of a guest that is made because another failed are answered off the shard at first.
    pub(super) fn leave_shard(&mut self, now: Timestamp) {
        (self.is_off_shard, self.calm_since) = (true, now);
    }

    fn look_calm(&mut self, now: Timestamp, spent: Duration) {
        self.calm.add(now, spent);
        self.calm.owed = self.calm.owed.min(CALM_OWED_MAX);
        if self.calm.is_over() || spent > CALM_FRAME_MAX {
            self.calm_since = now;
        }
    }
}

/// Time that was used, and passes at a part of a core.
#[derive(Debug)]
struct Bucket {
    percent: u32,
    burst: Duration,
    owed: Duration,
    at: Timestamp,
}

impl Bucket {
    fn new(percent: u32, burst: Duration) -> Self {
        Self { percent, burst, owed: Duration::ZERO, at: Timestamp::default() }
    }

    fn owed_at(&self, now: Timestamp) -> Duration {
        let passed = now.since(self.at).saturating_mul(self.percent) / 100;
        self.owed.saturating_sub(passed)
    }

    fn add(&mut self, now: Timestamp, spent: Duration) {
        self.owed = self.owed_at(now).saturating_add(spent);
        self.at = self.at.max(now);
    }

    fn is_over(&self) -> bool {
        self.owed > self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_tenth_of_a_core_is_answered_on_the_shard_for_ever() {
        let mut time = GuestTime::default();
        for frame in 0..100_000 {
            assert_eq!(time.turn(at(frame)), Turn::OnShard);
            time.spent_on_shard(at(frame), micros(100));
        }
    }

    #[test]
    fn more_goes_off_the_shard_within_a_hundred_milliseconds_and_comes_back_when_it_was_calm() {
        let mut time = GuestTime::default();
        let left = (0..1_000).find(|&frame| {
            time.spent_on_shard(at(frame), micros(200));
            time.turn(at(frame)) == Turn::OffShard
        });
        assert_eq!(left, Some(99));
        // As much as is allowed on the shard is not calm.
        for frame in 100..20_000 {
            time.spent_off_shard(at(frame), micros(100));
            assert_eq!(time.turn(at(frame)), Turn::OffShard);
        }
        let back = (20_000..40_000).find(|&frame| {
            time.spent_off_shard(at(frame), micros(40));
            time.turn(at(frame)) == Turn::OnShard
        });
        // Half a second until it is calm, which it then is for ten.
        assert_eq!(back, Some(30_498));
    }

    #[test]
    fn one_dear_frame_is_enough_to_leave_the_shard() {
        let mut time = GuestTime::default();
        time.spent_on_shard(at(0), micros(1_001));
        assert_eq!(time.turn(at(1)), Turn::OffShard);
        assert_eq!(time.turn(at(9_999)), Turn::OffShard);
        assert_eq!(time.turn(at(10_000)), Turn::OnShard);
    }

    #[test]
    fn a_quarter_of_a_core_is_answered_off_the_shard_for_ever() {
        let mut time = GuestTime::default();
        time.leave_shard(at(0));
        for frame in 0..30_000 {
            time.spent_off_shard(at(4 * frame), micros(1_000));
            assert_eq!(time.turn(at(4 * frame)), Turn::OffShard);
        }
    }

    #[test]
    fn more_rests_and_is_struck_when_it_does_not_end() {
        let mut time = GuestTime::default();
        time.leave_shard(at(0));
        let mut turns = Vec::new();
        for now in 0..25_000 {
            let turn = time.turn(at(now));
            if turns.last().is_none_or(|&(_, last)| last != turn) {
                turns.push((now, turn));
            }
            if turn == Turn::OffShard {
                time.spent_off_shard(at(now), micros(1_000));
            }
        }
        // A third of a second at full speed, then it rests for half a second and works for a sixth.
        assert_eq!(turns[..4], [(0, Turn::OffShard), (334, Turn::Rest), (836, Turn::OffShard), (1_003, Turn::Rest)]);
        let struck: Vec<_> = turns.iter().filter(|(_, turn)| *turn == Turn::Overspent).map(|(now, _)| *now).collect();
        assert_eq!(struck.len(), 2, "{struck:?}");
        assert!(struck[0] >= 10_334 && struck[1] >= struck[0] + 10_000, "{struck:?}");
    }

    #[test]
    fn a_burst_of_some_seconds_is_no_strike() {
        let mut time = GuestTime::default();
        time.leave_shard(at(0));
        for now in 0..120_000 {
            // Five seconds in twenty.
            let wants = now % 20_000 < 5_000;
            match time.turn(at(now)) {
                Turn::OffShard | Turn::OnShard if wants => time.spent_off_shard(at(now), micros(1_000)),
                Turn::Overspent => panic!("struck after {now} ms"),
                _ => {}
            }
            if wants && !time.is_off_shard() {
                time.leave_shard(at(now));
            }
        }
    }
}
