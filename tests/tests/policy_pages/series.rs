//! What deliveries of a run add up to, in steps of so many seconds.

use std::time::Duration;

use sluicegate_plugin_sdk::simulation::{Delivery, Outcome};

/// Seconds since the start, and a value.
pub(crate) type Points = Vec<(f64, f64)>;

/// Equal steps of a run.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) span: Duration,
    /// Seconds of each.
    pub(crate) step: u32,
}

impl Steps {
    /// Sums over the tenants' deliveries, by when they were delivered, for each second.
    pub(crate) fn per_second(self, outcome: &Outcome, tenants: &[&str], value: impl Fn(&Delivery) -> f64) -> Points {
        let sums = self.gather(outcome, tenants, value, |sum, value| sum + value);
        sums.into_iter().map(|(at, sum)| (at, sum / f64::from(self.step))).collect()
    }

    /// The longest wait for a delivery, from publish, in seconds.
    pub(crate) fn longest_wait(self, outcome: &Outcome, tenants: &[&str]) -> Points {
        self.gather(outcome, tenants, |one| one.wait().as_secs_f64(), f64::max)
    }

    /// Slots that worked for the tenants, on average.
    pub(crate) fn slots(self, outcome: &Outcome, tenants: &[&str]) -> Points {
        let step = f64::from(self.step);
        let works = of(outcome, tenants).map(|one| {
            let end = one.ended.map_or(self.span, |(at, _)| at);
            (one.delivered_at.as_secs_f64(), end.as_secs_f64())
        });
        let works: Vec<_> = works.collect();
        let busy =
            |from: f64| works.iter().map(|(begin, end)| (end.min(from + step) - begin.max(from)).max(0.0)).sum::<f64>();
        self.middles().map(|middle| (middle, busy(middle - step / 2.0) / step)).collect()
    }

    /// The middle of each step, in seconds.
    fn middles(self) -> impl Iterator<Item = f64> {
        let steps = u32::try_from(self.span.as_secs()).expect("less than a century") / self.step;
        (0..steps).map(move |nth| (f64::from(nth) + 0.5) * f64::from(self.step))
    }

    fn gather(
        self,
        outcome: &Outcome,
        tenants: &[&str],
        value: impl Fn(&Delivery) -> f64,
        join: impl Fn(f64, f64) -> f64,
    ) -> Points {
        let mut values = vec![0.0; self.middles().count()];
        for one in of(outcome, tenants) {
            let nth = usize::try_from(one.delivered_at.as_secs() / u64::from(self.step)).expect("few");
            if let Some(so_far) = values.get_mut(nth) {
                *so_far = join(*so_far, value(one));
            }
        }
        self.middles().zip(values).collect()
    }
}

fn of<'a>(outcome: &'a Outcome, tenants: &[&str]) -> impl Iterator<Item = &'a Delivery> {
    let ids: Vec<_> = tenants.iter().map(|tenant| outcome.id_of(tenant).expect("the tenant publishes")).collect();
    outcome.report().deliveries.iter().filter(move |one| ids.contains(&one.tenant))
}
