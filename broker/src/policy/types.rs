//! The records of `wit/policy.wit`, where each field is explained.
//!
//! `bindgen!` would make them of that file; it takes these instead, since it has no way to say how a record crosses. That they are
//! what a guest takes them for is checked when the guest is loaded.

use std::mem::MaybeUninit;

use serde::{Deserialize, Serialize};
use wasmtime::component::__internal::{InterfaceType, LiftContext, LowerContext};
use wasmtime::component::{ComponentType, Lift, Lower};

use super::row::row;

row! {
    /// A lite topic with a head.
    LiteView {
        lite "lite": u64,
        head_offset "head-offset": u64,
        head_age_us "head-age-us": u64,
        head_cost "head-cost": u64,
        expires_in_us "expires-in-us": u64,
        backlog "backlog": u64,
        last_service_us "last-service-us": u64,
        memo "memo": u64,
        tenant "tenant": u32,
        in_flight "in-flight": u32,
        attempts "attempts": u32,
        priority "priority": u32,
    }
}

row! {
    /// The unit of fairness.
    TenantView {
        tenant "tenant": u64,
        weight "weight": u32,
        in_flight "in-flight": u32,
        waiting "waiting": u32,
    }
}

row! {
    /// What became of one delivery.
    Feedback {
        at_us "at-us": u64,
        tenant "tenant": u64,
        lite "lite": u64,
        wait_us "wait-us": u64,
        service_us "service-us": u64,
        retry_after_us "retry-after-us": u64,
        cost_estimate "cost-estimate": u64,
        cost_measured "cost-measured": u64,
        outcome "outcome": u32,
    }
}

row! {
    /// The answer for one lite topic.
    Answer {
        verdict "verdict": u32,
        band "band": u32,
        max_messages "max-messages": u32,
        reason "reason": u32,
        duration_us "duration-us": u64,
        valid_us "valid-us": u64,
        memo "memo": u64,
    }
}

/// One question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Frame {
    #[component(name = "now-us")]
    pub now_us: u64,
    pub sequence: u64,
    pub seed: u64,
    pub group: GroupView,
    pub tenants: Vec<TenantView>,
    pub lites: Vec<LiteView>,
    pub columns: Vec<Column>,
}

/// The scarce compute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ComponentType, Lower, Lift)]
#[component(record)]
pub struct GroupView {
    pub backlog: u64,
    #[component(name = "messages-left")]
    pub messages_left: u64,
    #[component(name = "cost-left")]
    pub cost_left: u64,
    #[component(name = "in-flight")]
    pub in_flight: u32,
    pub capacity: u32,
    #[component(name = "load-ppm")]
    pub load_ppm: u32,
}

/// The answer to one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Plan {
    pub answers: Vec<Answer>,
    pub weights: Vec<u32>,
    pub concurrency: u32,
    #[component(name = "concurrency-valid-us")]
    pub concurrency_valid_us: u64,
    pub refresh: u32,
    pub columns: Vec<Column>,
}

/// One number for each lite topic of a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Column {
    pub key: u32,
    pub values: Vec<u64>,
}

/// Something with a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Entity {
    pub kind: u32,
    pub id: u64,
    pub name: String,
    pub labels: Vec<Label>,
}

/// What a name is labelled with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Label {
    pub key: String,
    pub value: String,
}

/// The policy's own state.
#[derive(Debug, Clone, PartialEq, ComponentType, Lower, Lift)]
#[component(record)]
pub struct StateBlob {
    pub schema: u32,
    pub data: Vec<u8>,
}

/// What a policy says of itself.
#[derive(Debug, Clone, PartialEq, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Descriptor {
    pub name: String,
    pub version: String,
    #[component(name = "config-schema")]
    pub config_schema: String,
    pub reasons: Vec<String>,
    pub wants: Vec<String>,
    pub learns: Vec<u32>,
    #[component(name = "state-schema")]
    pub state_schema: u32,
}

/// For whom an instance decides.
#[derive(Debug, Clone, PartialEq, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Binding {
    pub group: String,
    pub shard: u32,
    pub seed: u64,
    #[component(name = "now-us")]
    pub now_us: u64,
}

/// What offers the interface: it has no functions, so everyone does.
pub trait Host {}

impl<H> Host for H {}

/// The same for functions that need a store.
pub trait HostWithStore<T> {}

impl<T, H> HostWithStore<T> for H {}

/// Nothing to offer.
///
/// # Errors
/// None.
#[expect(clippy::unnecessary_wraps, reason = "the generated bindings ask for it")]
pub fn add_to_linker<T, D>(_: &mut wasmtime::component::Linker<T>, _: fn(&mut T) -> D::Data<'_>) -> wasmtime::Result<()>
where
    T: 'static,
    D: wasmtime::component::HasData,
{
    Ok(())
}
