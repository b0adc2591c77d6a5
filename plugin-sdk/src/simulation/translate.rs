//! Between the scheduler's plain data and the contract's records, as the broker does it. What is out of range the scheduler clamps.

use std::time::Duration;

use sluicegate_scheduler as scheduler;
use sluicegate_scheduler::simulation::{Facts, Named};
use sluicegate_scheduler::{ConcurrencyCap, Verdict, WorkResult};

use crate::{Answer, Column, Descriptor, Entity, Feedback, Frame, GroupView, Label, LiteView, Plan, TenantView};

/// Something with a name.
pub(super) fn entity(kind: u32, id: u64, named: Named) -> Entity {
    let labels = named.labels.into_iter().map(|(key, value)| Label { key, value });
    Entity { kind, id, name: named.name, labels: labels.collect() }
}

/// What became of a delivery.
pub(super) fn feedback(feedback: &scheduler::Feedback) -> Feedback {
    Feedback {
        at_us: feedback.at.as_micros(),
        tenant: feedback.tenant.0,
        lite: feedback.lite.0,
        wait_us: feedback.wait.map_or(u64::MAX, micros),
        service_us: micros(feedback.service),
        retry_after_us: feedback.retry_after.map_or(u64::MAX, micros),
        cost_estimate: feedback.cost_estimate,
        cost_measured: feedback.cost_measured,
        outcome: match feedback.result {
            Some(WorkResult::Done) => Feedback::DONE,
            Some(WorkResult::Retried) => Feedback::RETRIED,
            Some(WorkResult::DeadLettered) => Feedback::DEAD_LETTERED,
            Some(WorkResult::TimedOut) => Feedback::TIMED_OUT,
            None => Feedback::RETURNED,
        },
    }
}

/// The question, with the columns that the policy wants.
pub(super) fn frame(frame: &scheduler::Frame, facts: &Facts<'_>, descriptor: &Descriptor) -> Frame {
    let scheduler::GroupView { backlog, in_flight, capacity, load_ppm, messages_left, cost_left } = frame.group;
    let column = |(key, property): (u32, &String)| {
        let values = frame.lites.iter().map(|row| facts.number(row.lite, property).unwrap_or(u64::MAX));
        Column { key, values: values.collect() }
    };
    Frame {
        now_us: frame.now.as_micros(),
        sequence: frame.sequence,
        seed: frame.seed,
        group: GroupView { backlog, messages_left, cost_left, in_flight, capacity, load_ppm },
        tenants: frame.tenants.iter().map(tenant).collect(),
        lites: frame.lites.iter().map(lite).collect(),
        columns: (0..).zip(&descriptor.wants).map(column).collect(),
    }
}

fn tenant(view: &scheduler::TenantView) -> TenantView {
    TenantView { tenant: view.tenant.0, weight: view.weight, in_flight: view.in_flight, waiting: view.waiting }
}

fn lite(view: &scheduler::LiteView) -> LiteView {
    LiteView {
        lite: view.lite.0,
        head_offset: view.head_offset.0,
        head_age_us: micros(view.head_age),
        head_cost: view.head_cost,
        expires_in_us: view.expires_in.map_or(u64::MAX, micros),
        backlog: view.backlog,
        last_service_us: view.last_service.map_or(u64::MAX, micros),
        memo: view.memo,
        tenant: view.tenant,
        in_flight: view.in_flight,
        attempts: view.attempts,
        priority: view.priority.into(),
    }
}

/// The plan for a frame.
///
/// # Errors
/// What makes it a fault in the broker: lengths that do not match the frame's, a verdict that does not exist.
pub(super) fn plan(plan: &Plan, frame: &scheduler::Frame, descriptor: &Descriptor) -> Result<scheduler::Plan, String> {
    if plan.answers.len() != frame.lites.len() {
        return Err(format!("{} answers for {} lite topics", plan.answers.len(), frame.lites.len()));
    }
    if !plan.weights.is_empty() && plan.weights.len() != frame.tenants.len() {
        return Err(format!("{} weights for {} tenants", plan.weights.len(), frame.tenants.len()));
    }
    let reasons = u32::try_from(descriptor.reasons.len()).unwrap_or(u32::MAX);
    let answers = plan.answers.iter().enumerate();
    let cap = ConcurrencyCap { leases: plan.concurrency, valid_for: Duration::from_micros(plan.concurrency_valid_us) };
    Ok(scheduler::Plan {
        lites: answers.map(|(row, answer)| checked(row, answer, reasons)).collect::<Result<_, _>>()?,
        weights: plan.weights.clone(),
        concurrency: (plan.concurrency != 0).then_some(cap),
        refresh: plan.refresh,
    })
}

fn checked(row: usize, answer: &Answer, reasons: u32) -> Result<scheduler::Answer, String> {
    let duration = Duration::from_micros(answer.duration_us);
    let verdict = match answer.verdict {
        Answer::SERVE => Verdict::Serve { band: band(answer.band), max_messages: answer.max_messages },
        Answer::THROTTLE => Verdict::Throttle(duration),
        Answer::SUSPEND => Verdict::Suspend(duration),
        Answer::DEAD_LETTER => Verdict::DeadLetter,
        Answer::DROP => Verdict::Drop,
        other => return Err(format!("answer {row} has verdict {other}, 0 to 4 exist")),
    };
    let valid_for = Duration::from_micros(answer.valid_us);
    Ok(scheduler::Answer { verdict, valid_for, reason: answer.reason.min(reasons), memo: answer.memo })
}

fn band(band: u32) -> Option<u8> {
    (band != Answer::BAND_OF_HEAD).then(|| u8::try_from(band).unwrap_or(u8::MAX))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
