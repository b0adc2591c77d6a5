//! What lower tiers are owed.

/// A delivery, in percent of itself: what a promotion takes.
const DELIVERY: i64 = 100;
/// A promotion that nothing was heard of for this long was not used.
const PROMISED_FOR_US: u64 = 60_000_000;
/// A tier of which no head was told to wait for this long does not wait.
const WAITS_FOR_US: u64 = 60_000_000;

/// One tier's account.
#[derive(Debug, Clone, Copy)]
struct Floor {
    percent: i64,
    /// What it is owed, in percent of a delivery; negative if it had more than its floor.
    credit: i64,
    /// The most that it is owed or owes.
    credit_max: i64,
    /// Promotions of which the end was not heard of.
    promised: i64,
    promised_us: u64,
    waited_us: u64,
}

impl Floor {
    fn is_due(&self) -> bool {
        self.credit - self.promised * DELIVERY >= DELIVERY
    }
}

/// The accounts of all tiers, the first one's included: it has no floor.
#[derive(Debug)]
pub(crate) struct Floors {
    by_tier: Vec<Floor>,
    now_us: u64,
}

impl Floors {
    pub(crate) fn new(percents: impl Iterator<Item = u32>, window_deliveries: u32) -> Self {
        let floor = |percent: u32| Floor {
            percent: i64::from(percent),
            credit: 0,
            credit_max: i64::from(percent) * i64::from(window_deliveries),
            promised: 0,
            promised_us: 0,
            waited_us: 0,
        };
        Self { by_tier: percents.map(floor).collect(), now_us: 0 }
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, now_us: u64) {
        self.now_us = now_us;
        for floor in &mut self.by_tier {
            if now_us.saturating_sub(floor.promised_us) > PROMISED_FOR_US {
                floor.promised = 0;
            }
        }
    }

    /// A delivery of this tier ended: all are owed their part of it.
    pub(crate) fn delivered(&mut self, tier: u8) {
        self.came_back(tier);
        self.by_tier[usize::from(tier)].credit -= DELIVERY;
        for floor in &mut self.by_tier {
            floor.credit = (floor.credit + floor.percent).clamp(-floor.credit_max, floor.credit_max);
        }
    }

    /// A delivery of this tier came back unused: it may have been a promised one.
    pub(crate) fn came_back(&mut self, tier: u8) {
        let floor = &mut self.by_tier[usize::from(tier)];
        floor.promised = (floor.promised - 1).max(0);
        floor.promised_us = self.now_us;
    }

    /// Takes a promotion if the tier is owed one.
    pub(crate) fn promote(&mut self, tier: u8) -> bool {
        let floor = &mut self.by_tier[usize::from(tier)];
        let is_due = floor.is_due();
        if is_due {
            floor.promised += 1;
            floor.promised_us = self.now_us;
        }
        is_due
    }

    /// A head of this tier has to wait. Whether the tier has a floor to wait for.
    pub(crate) fn waits(&mut self, tier: u8) -> bool {
        let floor = &mut self.by_tier[usize::from(tier)];
        floor.waited_us = self.now_us;
        floor.percent > 0
    }

    /// A tier that waits is owed a promotion.
    pub(crate) fn any_due(&self) -> bool {
        let waits = |floor: &Floor| self.now_us.saturating_sub(floor.waited_us) < WAITS_FOR_US;
        self.by_tier.iter().any(|floor| floor.is_due() && waits(floor))
    }

    pub(crate) fn credits(&self) -> impl Iterator<Item = i64> {
        self.by_tier.iter().map(|floor| floor.credit)
    }

    pub(crate) fn restore(&mut self, credits: impl Iterator<Item = i64>) {
        for (floor, credit) in self.by_tier.iter_mut().zip(credits) {
            floor.credit = credit.clamp(-floor.credit_max, floor.credit_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn promotions(floors: &mut Floors, tier: u8) -> usize {
        std::iter::repeat_with(|| floors.promote(tier)).take_while(|is_promoted| *is_promoted).count()
    }

    #[test]
    fn a_tier_is_owed_its_part_of_what_others_had_and_no_more_than_of_a_window() {
        let mut floors = Floors::new([0, 10, 3].into_iter(), 100);
        (0..95).for_each(|_| floors.delivered(0));
        assert_eq!([1, 2].map(|tier| promotions(&mut floors, tier)), [9, 2]);
        (0..1_000).for_each(|_| floors.delivered(0));
        assert_eq!(
            [0, 1, 2].map(|tier| promotions(&mut floors, tier)),
            [0, 1, 1],
            "ten and three, less those promised"
        );
    }

    #[test]
    fn what_a_tier_has_by_itself_counts() {
        let mut floors = Floors::new([0, 10].into_iter(), 100);
        for delivery in 0..1_000 {
            floors.delivered(u8::from(delivery % 10 == 0));
            assert!(!floors.promote(1));
        }
        (0..1_000).for_each(|_| floors.delivered(1));
        (0..109).for_each(|_| floors.delivered(0));
        assert_eq!(promotions(&mut floors, 1), 0, "it had more than its floor of the window before");
        floors.delivered(0);
        assert_eq!(promotions(&mut floors, 1), 1);
    }

    #[test]
    fn a_promotion_that_is_not_used_is_given_again() {
        let mut floors = Floors::new([0, 50].into_iter(), 100);
        floors.advance(SECOND);
        (0..4).for_each(|_| floors.delivered(0));
        assert_eq!(promotions(&mut floors, 1), 2);
        floors.came_back(1);
        assert_eq!(promotions(&mut floors, 1), 1);
        floors.advance(61 * SECOND);
        assert_eq!(promotions(&mut floors, 1), 0);
        floors.advance(62 * SECOND);
        assert_eq!(promotions(&mut floors, 1), 2);
    }

    #[test]
    fn a_tier_without_a_floor_is_owed_nothing() {
        let mut floors = Floors::new([0, 0].into_iter(), 100);
        (0..1_000).for_each(|_| floors.delivered(0));
        assert!(!floors.waits(1) && !floors.promote(1) && !floors.any_due());
    }
}
