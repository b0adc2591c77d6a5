//! What must be true of the bands after each event.

use std::collections::BTreeSet;

use super::flow::FlowState;
use super::{BANDS, Bands};
use crate::lite::Lites;
use crate::route::Sessions;
use crate::tenant::Tenants;

impl Bands {
    pub(crate) fn check_invariants(&self, sessions: &Sessions, tenants: &Tenants, lites: &Lites) {
        let (mut queued, mut resting) = (0, 0);
        for (key, flow) in self.flows.iter() {
            assert_eq!(self.flow(tenants, flow.tenant, flow.band), Some(key));
            match flow.state {
                FlowState::Busy => assert!(flow.lanes.is_some()),
                FlowState::Resting => {
                    let queue = self.queue(flow.home.unwrap(), flow.band).unwrap();
                    assert!(flow.lanes.is_none() && queue.resting.contains(&(flow.finish, key)));
                    resting += 1;
                }
                FlowState::Passed => assert!(flow.lanes.is_none() && flow.open > 0),
            }
        }
        for (key, lane) in self.lanes.iter() {
            let flow = self.flow(tenants, lane.tenant, lane.band).unwrap();
            assert_eq!(self.lane(flow, lane.route), Some(key));
            let flow = &self.flows[flow];
            assert!(!lane.lites.is_empty());
            for lite in lane.lites.iter(lites) {
                assert_eq!(lites[lite].place, crate::lite::Place::Ready(flow.band));
                assert_eq!((lites[lite].tenant, lites[lite].route), (flow.tenant, lane.route));
            }
            assert_eq!(lane.queued.is_some(), !tenants[flow.tenant].blocked);
            if let Some(sequence) = lane.queued {
                let queue = self.queue(lane.route, flow.band).unwrap();
                assert!(queue.lanes.contains(&(self.start(key), sequence, key)));
                queued += 1;
            }
        }
        let all_queues = || self.routes.iter().flat_map(|row| row.bands.iter().flatten());
        assert_eq!(queued, all_queues().map(|queue| queue.lanes.len()).sum::<usize>());
        assert_eq!(resting, all_queues().map(|queue| queue.resting.len()).sum::<usize>());
        self.check_fronts(sessions);
        for (key, tenant) in tenants.iter() {
            let flows = self.flows_of(tenants, key);
            assert!(flows.iter().all(|&flow| self.flows[flow].tenant == key));
            let lanes = self.lanes.iter().filter(|(_, lane)| lane.tenant == key);
            assert_eq!(lanes.map(|(_, lane)| lane.lites.len()).sum::<usize>(), tenant.ready as usize);
            assert_eq!(tenant.blocked, tenants.blocked.contains(&tenant.id));
        }
    }

    fn check_fronts(&self, sessions: &Sessions) {
        for band in 0..BANDS {
            let fronts: BTreeSet<_> = sessions.routes().filter_map(|route| self.front_of(route, band)).collect();
            assert_eq!(self.all[band].fronts, fronts);
            let open = sessions.routes().filter(|&route| sessions.is_open_to_members(route));
            let open: BTreeSet<_> = open.filter_map(|route| self.front_in_group(route, band)).collect();
            assert_eq!(self.all[band].open_fronts, open);
        }
    }
}
