//! Checks what the demo claims against what its clients recorded.
//!
//! Nothing here trusts the broker beyond the dispatch time that a delivery carries.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sluicegate_protocol::{Rate, Timestamp};

use super::ledger::{Delivery, Ledger, Outcome, Wait};
use super::workload::Class;

const SECOND: Duration = Duration::from_secs(1);
/// A second is bound by the quota if this share of its rate was reserved while something waited.
const BOUND_SHARE: f64 = 0.9;
/// The cost quota binds in at least this share of the run's seconds.
const BOUND_SECONDS_MIN: f64 = 0.2;
/// A message that waited less than this did not wait for the quota.
const WAITED: Duration = Duration::from_millis(10);
/// How far around the swap a dispatch gap counts as the swap's.
const SWAP_AROUND: Duration = Duration::from_millis(500);
/// A gap at the swap up to this is never held against it.
const SWAP_GAP_NOTHING: Duration = Duration::from_millis(250);

/// What the records are held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// Requests that were to be sent.
    pub(crate) planned: u64,
    /// Each user's class.
    pub(crate) classes: &'a [Class],
    /// The group's quota of deliveries.
    pub(crate) messages_quota: Rate,
    /// The group's quota of cost.
    pub(crate) cost_quota: Rate,
    /// When the policy took over.
    pub(crate) swap_at: Timestamp,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Audit {
    /// Acknowledged publishes.
    pub(crate) published: u64,
    /// Deliveries, repeated ones too.
    pub(crate) delivered: u64,
    /// Messages that a worker acknowledged.
    pub(crate) acked: u64,
    /// Published, never acknowledged by a worker.
    pub(crate) lost: u64,
    /// Delivered again without cause.
    pub(crate) duplicated: u64,
    /// Dispatched before an earlier message of its lite topic was done with.
    pub(crate) order_violations: u64,
    /// Dispatches that ended a one-second window with more than burst and rate.
    pub(crate) quota_violations: u64,
    /// Seconds in which the cost quota bound.
    pub(crate) quota_bound_seconds: u64,
    /// Seconds from the first arrival to the last dispatch.
    pub(crate) run_seconds: u64,
    /// Acknowledged messages that cost less than was reserved.
    pub(crate) refunds: u64,
    /// Acknowledged messages that cost more.
    pub(crate) debts: u64,
    /// Longest time without a dispatch around the swap, while somebody waited who is not greedy.
    pub(crate) swap_gap: Duration,
    /// What is wrong, in the order of the checks, each in one line.
    pub(crate) violations: Vec<String>,
}

/// Runs every check.
pub(crate) fn audit(ledger: &Ledger, terms: &Terms<'_>) -> Audit {
    let deliveries = ledger.by_dispatch();
    let waits = ledger.waits();
    let mut audit =
        Audit { published: ledger.published.len() as u64, delivered: deliveries.len() as u64, ..Audit::default() };
    audit.check_publishes(ledger, terms);
    audit.check_messages(ledger, &deliveries);
    audit.check_order(&deliveries);
    audit.check_windows("cost", terms.cost_quota, &deliveries, |delivery| u64::from(delivery.cost_estimate));
    audit.check_windows("messages", terms.messages_quota, &deliveries, |_| 1);
    audit.check_bound_seconds(ledger, terms.cost_quota, &deliveries, &waits);
    audit.check_swap(terms, &waits);
    audit
}

impl Audit {
    fn check_publishes(&mut self, ledger: &Ledger, terms: &Terms<'_>) {
        if self.published != terms.planned {
            let text = format!("{} requests were to be sent, {} were acknowledged", terms.planned, self.published);
            self.violations.push(text);
        }
        let mut published = ledger.published.clone();
        published.sort_by_key(|published| (published.user, published.sequence));
        let wrong = published.windows(2).find(|pair| pair[0].user == pair[1].user && pair[0].offset >= pair[1].offset);
        if let Some([first, second]) = wrong {
            self.order_violations += 1;
            self.violations.push(format!(
                "order: user {} sent {} before {}, their offsets are {} and {}",
                first.user, first.sequence, second.sequence, first.offset, second.offset
            ));
        }
    }

    /// Nothing lost, nothing twice without cause, bodies under the offsets that their publishers were told.
    fn check_messages(&mut self, ledger: &Ledger, deliveries: &[Delivery]) {
        let sequences: HashMap<(u32, u64), u64> =
            ledger.published.iter().map(|published| ((published.user, published.offset), published.sequence)).collect();
        let mut outcomes: HashMap<(u32, u64), Outcome> = HashMap::new();
        let mut done: HashSet<(u32, u64)> = HashSet::new();
        let mut twice = Vec::new();
        let mut strange = Vec::new();
        for delivery in deliveries {
            let message = (delivery.user, delivery.offset);
            if outcomes.insert(message, delivery.outcome) == Some(Outcome::Acked) {
                self.duplicated += 1;
                twice.push(format!(
                    "duplicated: user {} offset {} was delivered again (attempt {}) after it was acknowledged",
                    delivery.user, delivery.offset, delivery.attempt
                ));
            }
            if sequences.get(&message).is_some_and(|sequence| *sequence != delivery.sequence) {
                self.order_violations += 1;
                strange.push(format!(
                    "order: user {} offset {} carries request {}, the publisher was told request {}",
                    delivery.user, delivery.offset, delivery.sequence, sequences[&message]
                ));
            }
            if delivery.outcome == Outcome::Acked && done.insert(message) {
                self.acked += 1;
                self.refunds += u64::from(delivery.cost_actual < delivery.cost_estimate);
                self.debts += u64::from(delivery.cost_actual > delivery.cost_estimate);
            }
        }
        let lost: Vec<_> = ledger.published.iter().filter(|p| !done.contains(&(p.user, p.offset))).collect();
        self.lost = lost.len() as u64;
        let first_lost = lost.first().map(|p| {
            format!(
                "lost: {} message(s), first user {} offset {}: published, never acked",
                lost.len(),
                p.user,
                p.offset
            )
        });
        self.violations.extend(first_lost);
        self.violations.extend(twice.into_iter().next());
        self.violations.extend(strange.into_iter().next());
    }

    /// One lease at a time in a lite topic: after an ack comes the next offset, after anything else the same.
    fn check_order(&mut self, deliveries: &[Delivery]) {
        let mut due: HashMap<u32, (u64, Option<u64>)> = HashMap::new();
        for delivery in deliveries {
            let (next, open) = due.entry(delivery.user).or_insert((0, None));
            let is_again = *open == Some(delivery.offset);
            // What was delivered twice without cause is counted there.
            let is_repeated_ack = delivery.offset < *next;
            if delivery.offset != *next && !is_again && !is_repeated_ack {
                self.order_violations += 1;
                if self.order_violations == 1 {
                    self.violations.push(format!(
                        "order: user {} offset {} was dispatched at {} while offset {next} was due",
                        delivery.user, delivery.offset, delivery.dispatched_at
                    ));
                }
            }
            *open = Some(delivery.offset);
            if delivery.outcome == Outcome::Acked {
                *next = (*next).max(delivery.offset + 1);
            }
        }
    }

    /// What was reserved in any window of one second is at most burst + rate.
    ///
    /// A refund makes room again, so what deliveries settled in the window gave back is added. The broker applies it
    /// between delivery and settle as the client sees them.
    fn check_windows(&mut self, unit: &str, quota: Rate, deliveries: &[Delivery], reserved: impl Fn(&Delivery) -> u64) {
        let mut refunds: Vec<(Timestamp, u64)> =
            deliveries.iter().map(|delivery| (delivery.delivered_at, refund(unit, delivery))).collect();
        refunds.sort_unstable();
        let refunded: Vec<u64> = std::iter::once(0)
            .chain(refunds.iter().scan(0, |sum, (_, refund)| {
                *sum += refund;
                Some(*sum)
            }))
            .collect();
        let refunded_to = |at: Timestamp| refunded[refunds.partition_point(|(refunded_at, _)| *refunded_at <= at)];

        let allowed = u64::from(quota.burst()) + units_in(quota, SECOND);
        let (mut oldest, mut sum) = (0, 0);
        for delivery in deliveries {
            sum += reserved(delivery);
            while deliveries[oldest].dispatched_at.plus(SECOND) < delivery.dispatched_at {
                sum -= reserved(&deliveries[oldest]);
                oldest += 1;
            }
            if sum <= allowed {
                continue;
            }
            // Deliveries of before the window may settle inside it: look back by the longest service time.
            let from = deliveries[..oldest]
                .iter()
                .rev()
                .take(1_000)
                .filter(|d| d.settled_at >= deliveries[oldest].dispatched_at);
            let before: u64 = from.map(|delivery| refund(unit, delivery)).sum();
            let inside = refunded_to(delivery.dispatched_at) - refunded_to(deliveries[oldest].dispatched_at);
            if sum <= allowed + before + inside {
                continue;
            }
            self.quota_violations += 1;
            if self.quota_violations == 1 {
                self.violations.push(format!(
                    "quota: {sum} {unit} were reserved from {} to {}, at most {allowed} ({quota}) and {} of refunds are allowed",
                    deliveries[oldest].dispatched_at,
                    delivery.dispatched_at,
                    before + inside
                ));
            }
        }
    }

    fn check_bound_seconds(&mut self, ledger: &Ledger, quota: Rate, deliveries: &[Delivery], waits: &[Wait]) {
        let start = ledger.started_at();
        let second = |at: Timestamp| usize::try_from(at.since(start).as_secs()).unwrap_or(usize::MAX);
        let seconds = second(ledger.ended_at()) + 1;
        let mut reserved = vec![0_u64; seconds];
        for delivery in deliveries {
            reserved[second(delivery.dispatched_at)] += u64::from(delivery.cost_estimate);
        }
        let mut waited = vec![false; seconds];
        for wait in waits.iter().filter(|wait| wait.length() >= WAITED) {
            waited[second(wait.arrived_at)..=second(wait.dispatched_at)].fill(true);
        }
        let bound = BOUND_SHARE * units_in(quota, SECOND) as f64;
        let is_bound = |(reserved, waited): &(u64, bool)| *reserved as f64 >= bound && *waited;
        self.run_seconds = seconds as u64;
        self.quota_bound_seconds = reserved.into_iter().zip(waited).filter(is_bound).count() as u64;
        if (self.quota_bound_seconds as f64) < BOUND_SECONDS_MIN * self.run_seconds as f64 {
            self.violations.push(format!(
                "the cost quota bound in {} of {} seconds, at least {:.0} % are claimed",
                self.quota_bound_seconds,
                self.run_seconds,
                BOUND_SECONDS_MIN * 100.0
            ));
        }
    }

    /// The swap holds nothing up: no dispatch gap around it that is out of line with the rest of the run.
    fn check_swap(&mut self, terms: &Terms<'_>, waits: &[Wait]) {
        let gaps = waiting_gaps(waits, terms.classes);
        let is_near = |gap: &&Gap| {
            gap.from <= terms.swap_at.plus(SWAP_AROUND) && gap.from.plus(gap.length).plus(SWAP_AROUND) >= terms.swap_at
        };
        let longest = |gaps: &mut dyn Iterator<Item = &Gap>| gaps.map(|gap| gap.length).max().unwrap_or_default();
        self.swap_gap = longest(&mut gaps.iter().filter(is_near));
        let elsewhere = longest(&mut gaps.iter().filter(|gap| !is_near(gap)));
        if self.swap_gap > SWAP_GAP_NOTHING && self.swap_gap > elsewhere * 2 {
            self.violations.push(format!(
                "swap: nothing was dispatched for {} ms around it while messages waited, elsewhere for {} ms at most",
                self.swap_gap.as_millis(),
                elsewhere.as_millis()
            ));
        }
    }
}

/// A time without a dispatch in which somebody waited.
struct Gap {
    from: Timestamp,
    length: Duration,
}

/// Gaps between dispatches, counted from when the first user waited whom the policy does not hold back.
fn waiting_gaps(waits: &[Wait], classes: &[Class]) -> Vec<Gap> {
    let mut earliest = Timestamp::MAX;
    let mut gaps = Vec::with_capacity(waits.len());
    for index in (1..waits.len()).rev() {
        if classes[waits[index].user as usize] != Class::Greedy {
            earliest = earliest.min(waits[index].arrived_at);
        }
        let from = waits[index - 1].dispatched_at.max(earliest);
        if from < waits[index].dispatched_at {
            gaps.push(Gap { from, length: waits[index].dispatched_at.since(from) });
        }
    }
    gaps
}

/// What a delivery's end gives back to the bucket.
fn refund(unit: &str, delivery: &Delivery) -> u64 {
    match (delivery.outcome, unit) {
        (Outcome::Returned | Outcome::LeaseLost, "messages") => 1,
        (Outcome::Returned | Outcome::LeaseLost, _) => u64::from(delivery.cost_estimate),
        (Outcome::Acked, "messages") => 0,
        (Outcome::Acked, _) => u64::from(delivery.cost_estimate.saturating_sub(delivery.cost_actual)),
    }
}

/// Units that a rate gives in a time, rounded down.
fn units_in(quota: Rate, time: Duration) -> u64 {
    let units = u128::from(quota.units()) * time.as_nanos() / quota.period().as_nanos();
    u64::try_from(units).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Published;
    use super::*;

    /// Two users, three messages each, dispatched every 100 ms from second 10 on, each within its quota.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for index in 0..6_u64 {
            let (user, sequence) = (u32::try_from(index % 2).unwrap(), index / 2);
            let at = |millis: u64| Timestamp::from_millis(10_000 + index * 100 + millis);
            ledger.published.push(Published {
                user,
                sequence,
                offset: sequence,
                arrived_at: at(0),
                receipt_at: at(2),
                cost_estimate: 100,
            });
            ledger.deliveries.push(Delivery {
                user,
                sequence,
                offset: sequence,
                attempt: 1,
                dispatched_at: at(50),
                delivered_at: at(51),
                settled_at: at(80),
                outcome: Outcome::Acked,
                cost_estimate: 100,
                cost_actual: if index == 0 { 90 } else { 120 },
            });
        }
        ledger
    }

    fn audited(ledger: &Ledger, cost_quota: &str) -> Audit {
        let terms = Terms {
            planned: 6,
            classes: &[Class::Greedy, Class::Light],
            messages_quota: "100/s".parse().unwrap(),
            cost_quota: cost_quota.parse().unwrap(),
            swap_at: Timestamp::from_millis(10_300),
        };
        audit(ledger, &terms)
    }

    #[test]
    fn a_run_that_keeps_its_promises_has_no_violation() {
        let expected = Audit {
            published: 6,
            delivered: 6,
            acked: 6,
            quota_bound_seconds: 1,
            run_seconds: 1,
            refunds: 1,
            debts: 5,
            swap_gap: Duration::from_millis(50),
            ..Audit::default()
        };
        assert_eq!(audited(&ledger(), "600/s"), expected);
    }

    #[test]
    fn a_lost_message_is_named() {
        let mut ledger = ledger();
        ledger.deliveries.pop();
        let audit = audited(&ledger, "500/s");
        assert_eq!((audit.lost, audit.acked), (1, 5));
        assert_eq!(audit.violations, ["lost: 1 message(s), first user 1 offset 2: published, never acked"]);
    }

    #[test]
    fn a_repetition_needs_a_cause() {
        let mut ledger = ledger();
        let again = |first: &Delivery| {
            let at = first.dispatched_at.plus(Duration::from_millis(40));
            Delivery { attempt: 2, dispatched_at: at, ..*first }
        };
        let repeated = again(&ledger.deliveries[5]);
        ledger.deliveries.push(repeated);
        let audit = audited(&ledger, "700/s");
        assert_eq!((audit.duplicated, audit.order_violations), (1, 0));
        assert_eq!(
            audit.violations,
            ["duplicated: user 1 offset 2 was delivered again (attempt 2) after it was acknowledged"]
        );

        ledger.deliveries[5].outcome = Outcome::LeaseLost;
        assert_eq!(audited(&ledger, "700/s").violations, Vec::<String>::new());
    }

    #[test]
    fn a_message_that_overtakes_is_named() {
        let mut ledger = ledger();
        ledger.deliveries[2].dispatched_at = Timestamp::from_millis(10_460);
        let audit = audited(&ledger, "600/s");
        assert_eq!(audit.order_violations, 1);
        assert_eq!(audit.violations, ["order: user 0 offset 2 was dispatched at 10.450000 while offset 1 was due"]);
    }

    #[test]
    fn an_offset_with_another_body_is_named() {
        let mut ledger = ledger();
        ledger.deliveries[1].sequence = 2;
        assert_eq!(
            audited(&ledger, "600/s").violations,
            ["order: user 1 offset 0 carries request 2, the publisher was told request 0"]
        );
    }

    #[test]
    fn more_than_burst_and_rate_in_a_second_is_named() {
        let audit = audited(&ledger(), "300/s burst 200");
        assert_eq!(audit.quota_violations, 1);
        assert_eq!(
            audit.violations,
            ["quota: 600 cost were reserved from 10.050000 to 10.550000, \
                 at most 500 (300/s burst 200) and 10 of refunds are allowed"]
        );
    }

    #[test]
    fn a_quota_that_does_not_bind_is_named() {
        assert_eq!(
            audited(&ledger(), "5000/s").violations,
            ["the cost quota bound in 0 of 1 seconds, at least 20 % are claimed"]
        );
    }

    #[test]
    fn a_gap_at_the_swap_is_named_only_while_somebody_waited() {
        let mut held = ledger();
        for delivery in &mut held.deliveries[3..] {
            delivery.dispatched_at = delivery.dispatched_at.plus(Duration::from_millis(400));
        }
        let audit = audited(&held, "300/s burst 300");
        assert_eq!(audit.swap_gap, Duration::from_millis(450));
        assert_eq!(
            audit.violations,
            ["swap: nothing was dispatched for 450 ms around it while messages waited, elsewhere for 100 ms at most"]
        );
        for published in &mut held.published[3..] {
            published.arrived_at = published.arrived_at.plus(Duration::from_millis(400));
        }
        assert_eq!(audited(&held, "300/s burst 300").violations, Vec::<String>::new());
    }
}
