//! Serves while the consumers are less than nine tenths busy, else lets all but urgent work wait.
//!
//! Consumers report their load (`Consumer::load` in the Rust client); the highest of a group counts. Messages of priority 9 are
//! urgent. It has no configuration: a start for a policy of your own.

use std::time::Duration;

use sluicegate_plugin_sdk::{Answer, Descriptor, Frame, Init, Plan, Policy, export_policy};

/// The load from which on work waits, in millionths.
const BUSY_PPM: u32 = 900_000;

/// The policy.
pub struct Calm;

impl Policy for Calm {
    type Config = ();
    type State = ();

    fn describe() -> Descriptor {
        Descriptor::new("calm", env!("CARGO_PKG_VERSION")).reasons(["served", "consumers are busy"])
    }

    fn new(_: &Init, (): ()) -> Result<Self, String> {
        Ok(Self)
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        let busy = frame.group.load_ppm >= BUSY_PPM;
        let answers = frame.lites.iter().map(|lite| match busy && lite.priority < 9 {
            true => Answer::throttle(Duration::from_millis(100)).because(1),
            // A load may change at any time: what was allowed is asked again soon.
            false => Answer::serve().valid_for(Duration::from_millis(100)),
        });
        answers.collect()
    }
}

export_policy!(Calm);

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::LiteView;

    use super::*;

    #[test]
    fn only_urgent_work_is_served_while_consumers_are_busy() {
        let mut policy = Calm::new(&Init::default(), ()).unwrap();
        let lite = |priority| LiteView { priority, ..LiteView::default() };
        let mut frame = Frame { lites: vec![lite(4), lite(9)], ..Frame::default() };
        let served = |plan: Plan| plan.answers.iter().map(|answer| answer.reason == 0).collect::<Vec<_>>();
        assert_eq!(served(policy.decide(&frame)), [true, true]);
        frame.group.load_ppm = BUSY_PPM;
        assert_eq!(served(policy.decide(&frame)), [false, true]);
    }
}
