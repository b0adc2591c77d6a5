//! Between the exported functions and the policy. Called by [`export_policy!`](crate::export_policy) only.

use std::cell::RefCell;
use std::panic;
use std::thread::LocalKey;

use crate::{Descriptor, Entity, Feedback, Frame, Init, Level, Plan, Policy, StateBlob, log, parse_config};

/// Where the one instance lives: a guest has one thread.
pub type Slot<P> = RefCell<Option<P>>;

/// Makes the instance that later calls use.
///
/// # Errors
/// The configuration does not parse, or the policy refuses it.
pub fn init<P: Policy>(slot: &'static LocalKey<Slot<P>>, init: &Init, config: &str) -> Result<(), String> {
    report_panics();
    let policy = P::new(init, parse_config(config)?)?;
    slot.set(Some(policy));
    Ok(())
}

/// What the policy says of itself.
pub fn describe<P: Policy>() -> Descriptor {
    report_panics();
    P::describe()
}

/// Names and labels; unknown kinds are of a later contract.
pub fn learn<P: Policy>(slot: &'static LocalKey<Slot<P>>, entities: &[Entity]) {
    let learn = |policy: &mut P, entity: &Entity| match entity.kind {
        Entity::TENANT => policy.learn(entity),
        Entity::LITE => policy.learn_lite(entity),
        _ => {}
    };
    with(slot, |policy| entities.iter().for_each(|entity| learn(policy, entity)));
}

/// What may be forgotten.
pub fn forget<P: Policy>(slot: &'static LocalKey<Slot<P>>, kind: u32, ids: &[u64]) {
    let forget = match kind {
        Entity::TENANT => P::forget,
        Entity::LITE => P::forget_lite,
        _ => return,
    };
    with(slot, |policy| ids.iter().for_each(|id| forget(policy, *id)));
}

/// What became of deliveries.
pub fn observe<P: Policy>(slot: &'static LocalKey<Slot<P>>, feedback: &[Feedback]) {
    with(slot, |policy| feedback.iter().for_each(|feedback| policy.observe(feedback)));
}

/// Decides on a frame.
pub fn decide<P: Policy>(slot: &'static LocalKey<Slot<P>>, frame: &Frame) -> Plan {
    with(slot, |policy| policy.decide(frame))
}

/// The policy's state, encoded.
///
/// # Errors
/// The policy keeps none at present.
pub fn snapshot<P: Policy>(slot: &'static LocalKey<Slot<P>>) -> Result<StateBlob, String> {
    let state = with(slot, |policy| policy.snapshot()).ok_or("the policy keeps no state")?;
    let data = postcard::to_allocvec(&state).map_err(|error| format!("the state does not encode: {error}"))?;
    Ok(StateBlob { schema: P::describe().state_schema, data })
}

/// Goes on from an earlier state.
///
/// # Errors
/// The state is of another schema, or does not fit.
pub fn restore<P: Policy>(slot: &'static LocalKey<Slot<P>>, blob: &StateBlob) -> Result<(), String> {
    let reads = P::describe().state_schema;
    if blob.schema != reads {
        return Err(format!("the state has schema {}, this version reads {reads}", blob.schema));
    }
    let state = postcard::from_bytes(&blob.data).map_err(|error| format!("the state does not decode: {error}"))?;
    with(slot, |policy| policy.restore(state))
}

fn with<P: Policy, R>(slot: &'static LocalKey<Slot<P>>, call: impl FnOnce(&mut P) -> R) -> R {
    slot.with_borrow_mut(|policy| call(policy.as_mut().expect("the broker calls init first")))
}

/// A panic leaves nothing but a trap, so its message goes to the log before.
fn report_panics() {
    panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
}
