//! Policies that want to do harm, in a real broker: their group is served, other groups do not notice, the broker's memory is
//! bounded, and what is said of them names the cause.
//!
//! `SLUICE_HOSTILE_SECONDS` says how long each of them has, and each stretch without it beside which it is measured. The table is
//! printed at the end (`--nocapture`).

mod bombs;
mod cases;
mod run;
mod twins;
mod uploads;

use tokio::sync::Mutex;

/// One test at a time: two would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());
