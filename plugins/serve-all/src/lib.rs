//! Everything may run: what it costs to ask a policy at all.
//!
//! `sluice bench policy` holds the others against it. It has no configuration and keeps nothing.

use sluicegate_plugin_sdk::{Answer, Descriptor, Frame, Init, Plan, Policy, export_policy};

/// The policy.
pub struct ServeAll;

impl Policy for ServeAll {
    type Config = ();
    type State = ();

    fn describe() -> Descriptor {
        Descriptor::new("serve-all", env!("CARGO_PKG_VERSION")).reasons(["served"])
    }

    fn new(_: &Init, (): ()) -> Result<Self, String> {
        Ok(Self)
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        frame.lites.iter().map(|_| Answer::serve()).collect()
    }
}

export_policy!(ServeAll);

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::LiteView;

    use super::*;

    #[test]
    fn everything_may_run_in_its_own_band() {
        let frame = Frame { lites: vec![LiteView::default(); 3], ..Frame::default() };
        assert_eq!(ServeAll.decide(&frame).answers, [Answer::serve(); 3]);
    }
}
