//! The policy in a group, against the broker's own scheduler in virtual time.

use std::time::Duration;

use sluicegate_plugin_sdk::simulation::{Load, Simulation};

use crate::PerTenantTokenBucket;

const A_HUNDRED_A_SECOND: &str = r#"{"rate_per_second": 100, "burst": 200}"#;
const SPAN: Duration = Duration::from_mins(10);

#[test]
fn a_flood_keeps_to_its_rate_and_nobody_else_is_slowed() {
    let load = |load: Load| {
        load.lites(50)
            .cost(5..=15)
            .measured_percent(80..=120)
            .service(Duration::from_millis(100)..=Duration::from_millis(300))
    };
    // Below its rate: 50 units a second on average, of which 100 would be let through.
    let quiet = load(Load::poisson(Duration::from_millis(200)));
    let simulation = Simulation::new().slots(30).tenant("quiet", quiet);
    let alone = simulation.run::<PerTenantTokenBucket>(A_HUNDRED_A_SECOND, SPAN);

    // All slots together take 1,500 units a second.
    let simulation = simulation.tenant("flood", load(Load::at_once(100_000)));
    let beside = simulation.run::<PerTenantTokenBucket>(A_HUNDRED_A_SECOND, SPAN);
    assert_eq!(beside.tenant("quiet").waits, alone.tenant("quiet").waits);
    beside.assert_wait_p99_below("quiet", Duration::from_millis(1)).assert_nobody_starves(Duration::ZERO);

    // Burst and rate, and what its messages in work, at most one in each slot, were estimated wrong.
    let (cost, most) = (beside.tenant("flood").cost, 200 + 100 * SPAN.as_secs());
    assert!(cost <= most + 30 * 3 && cost >= most * 99 / 100, "{cost} units, at most {most} are allowed\n{beside}");

    // Without the policy the flood has what it can take, and the others wait.
    let fair = simulation.run_fair(SPAN);
    assert!(fair.tenant("flood").cost > 4 * most && fair.wait_p99("quiet") > Duration::from_millis(5), "{fair}");
}
