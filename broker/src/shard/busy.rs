//! Which lite topics of a group have open leases, in pages that a start reads before it serves. A lite topic has a place while it
//! has leases; places are given out from the lowest on, so the pages that a batch changes are few.

use std::collections::BTreeSet;

use sluicegate_protocol::LiteId;

use crate::store::BusyRow;

/// Places of one page.
const PAGE: usize = 64;
/// No lite topic has this id.
const FREE: u64 = 0;

/// The places of one group.
#[derive(Debug, Default)]
pub(super) struct Busy {
    places: Vec<u64>,
    free: BTreeSet<u32>,
    /// Pages that are to be written.
    changed: BTreeSet<u32>,
}

impl Busy {
    /// A place for a lite topic that has leases from now on.
    pub(super) fn enter(&mut self, lite: LiteId) -> u32 {
        let place = self.free.pop_first().unwrap_or_else(|| {
            self.places.push(FREE);
            u32::try_from(self.places.len() - 1).expect("fewer leases than that fit in memory")
        });
        self.places[place as usize] = lite.0;
        self.changed.insert(page_of(place));
        place
    }

    /// Its last lease is over. The page says so when it is written for another reason: what a start reads in vain costs little.
    pub(super) fn leave(&mut self, place: u32) {
        self.places[place as usize] = FREE;
        self.free.insert(place);
    }

    /// The pages that changed.
    pub(super) fn take_changed(&mut self) -> Vec<(u32, BusyRow)> {
        let row = |&page: &u32| {
            let first = page as usize * PAGE;
            let end = (first + PAGE).min(self.places.len());
            (page, BusyRow { lites: self.places[first..end].to_vec() })
        };
        let rows = self.changed.iter().map(row).collect();
        self.changed.clear();
        rows
    }
}

fn page_of(place: u32) -> u32 {
    place / u32::try_from(PAGE).expect("a page is small")
}

/// The lite topics of a page.
pub(super) fn lites(row: &BusyRow) -> impl Iterator<Item = LiteId> {
    row.lites.iter().filter(|&&lite| lite != FREE).map(|&lite| LiteId(lite))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_written_pages_name_every_lite_topic_that_has_a_place(
            steps in proptest::collection::vec((0..3_u8, 1..200_u64), 0..600)
        ) {
            let (mut busy, mut places, mut written) = (Busy::default(), BTreeMap::new(), BTreeMap::new());
            for (step, lite) in steps {
                match (step, places.remove(&lite)) {
                    (0 | 1, None) => drop(places.insert(lite, busy.enter(LiteId(lite)))),
                    (0 | 1, Some(place)) => busy.leave(place),
                    (_, before) => {
                        places.extend(before.map(|place| (lite, place)));
                        written.extend(busy.take_changed());
                    }
                }
            }
            written.extend(busy.take_changed());
            let named: BTreeSet<_> = written.values().flat_map(lites).map(|lite| lite.0).collect();
            prop_assert!(places.keys().all(|lite| named.contains(lite)));
            prop_assert_eq!(places.values().collect::<BTreeSet<_>>().len(), places.len());
            prop_assert!(written.values().all(|row| row.lites.len() <= PAGE));
        }
    }
}
