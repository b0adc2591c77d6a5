//! Nothing is delivered of a lite topic that is suspended, in a group that is paused, or to who did not subscribe.

use std::collections::HashMap;

use sluicegate_client::Timestamp;

use super::{Breach, name};
use crate::history::{Hold, Record};

pub(super) fn broken(record: &Record) -> Vec<Breach> {
    let mut holds = HashMap::<usize, Vec<&Hold>>::new();
    for hold in &record.holds {
        holds.entry(hold.lite).or_default().push(hold);
    }
    let holds: HashMap<_, _> = holds.into_iter().map(|(lite, holds)| (lite, Times::new(holds, window_of))).collect();
    let pauses = Times::new(record.pauses.iter().collect(), |pause| *pause);
    let mut broken = Vec::new();
    for delivered in &record.deliveries {
        let (at, place) = (delivered.at, delivered.place);
        if let Some(hold) = holds.get(&place.0).and_then(|holds| holds.around(at)) {
            let what = format!("{} came in the {:?} hold until {}", name(record, delivered), hold.source, hold.until);
            broken.push(Breach::of(place, what));
        }
        if pauses.around(at).is_some() {
            broken.push(Breach::of(place, format!("{} came while the group was paused", name(record, delivered))));
        }
        let Some(life) = record.lites.get(place.0) else {
            let what = format!("{} is of a lite topic that was never published to", name(record, delivered));
            broken.push(Breach::of(place, what));
            continue;
        };
        let subscriptions = &record.sessions[delivered.session].subscriptions;
        if !subscriptions.iter().any(|own| own.matches(&life.name) && own.from <= at && at <= own.until) {
            let what = format!("{} came to who did not subscribe to it", name(record, delivered));
            broken.push(Breach::of(place, what));
        }
    }
    broken
}

fn window_of(hold: &Hold) -> (Timestamp, Timestamp) {
    (hold.from, hold.until)
}

/// Windows of time, to be asked for one that is strictly around an instant.
struct Times<'a, T> {
    /// By their beginning, each with the longest of those up to it.
    begun: Vec<(Timestamp, usize)>,
    windows: Vec<(Timestamp, Timestamp)>,
    items: Vec<&'a T>,
}

impl<'a, T> Times<'a, T> {
    fn new(mut items: Vec<&'a T>, window: impl Fn(&T) -> (Timestamp, Timestamp)) -> Self {
        items.sort_by_key(|item| window(item).0);
        let windows: Vec<_> = items.iter().map(|item| window(item)).collect();
        let mut longest = 0;
        let begun = windows.iter().enumerate().map(|(index, (from, until))| {
            if *until > windows[longest].1 {
                longest = index;
            }
            (*from, longest)
        });
        Self { begun: begun.collect(), windows, items }
    }

    fn around(&self, at: Timestamp) -> Option<&'a T> {
        let begun = self.begun.partition_point(|(from, _)| *from < at);
        let (_, longest) = self.begun[..begun].last()?;
        (self.windows[*longest].1 > at).then(|| self.items[*longest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_found_in_the_longest_window_that_began_before_it() {
        let pauses = [(Timestamp(10), Timestamp(50)), (Timestamp(20), Timestamp(30)), (Timestamp(60), Timestamp(70))];
        let times = Times::new(pauses.iter().collect(), |pause| *pause);
        let around = |at| times.around(Timestamp(at)).map(|pause| pause.0.0);
        assert_eq!([5, 10, 11, 35, 50, 55, 65].map(around), [None, None, Some(10), Some(10), None, None, Some(60)]);
    }
}
