//! Between the scheduler's plain data and the contract's records. Answers are checked here.

use std::time::Duration;

use sluicegate_protocol::limits::{PRIORITY_MAX, SUSPEND_MAX, SUSPEND_MIN, WEIGHT_MAX};
use sluicegate_scheduler::{
    Answer, Ask, ConcurrencyCap, Feedback, Frame, LiteView, Plan, TenantView, Verdict, WorkResult,
};

use super::limits::{THROTTLE, VALID_MAX};
use super::types;
use crate::clock::micros;

/// [`types::Answer::band`] that leaves the band to the head's priority.
const BAND_OF_HEAD: u32 = 255;

/// Rows of what happened.
pub(super) fn feedback(ask: &Ask) -> Vec<types::Feedback> {
    let row = |feedback: &Feedback| types::Feedback {
        at_us: feedback.at.as_micros(),
        tenant: feedback.tenant.0,
        lite: feedback.lite.0,
        wait_us: feedback.wait.map_or(u64::MAX, micros),
        service_us: micros(feedback.service),
        retry_after_us: feedback.retry_after.map_or(u64::MAX, micros),
        cost_estimate: feedback.cost_estimate,
        cost_measured: feedback.cost_measured,
        outcome: match feedback.result {
            Some(WorkResult::Done) => 0,
            Some(WorkResult::Retried) => 1,
            Some(WorkResult::DeadLettered) => 2,
            Some(WorkResult::TimedOut) => 3,
            None => 4,
        },
    };
    ask.feedback.iter().map(row).collect()
}

/// The question, with these columns.
pub(super) fn frame(frame: &Frame, columns: Vec<Vec<u64>>) -> types::Frame {
    let group = &frame.group;
    types::Frame {
        now_us: frame.now.as_micros(),
        sequence: frame.sequence,
        seed: frame.seed,
        group: types::GroupView {
            backlog: group.backlog,
            messages_left: group.messages_left,
            cost_left: group.cost_left,
            in_flight: group.in_flight,
            capacity: group.capacity,
            load_ppm: group.load_ppm,
        },
        tenants: frame.tenants.iter().map(tenant).collect(),
        lites: frame.lites.iter().map(lite).collect(),
        columns: (0..).zip(columns).map(|(key, values)| types::Column { key, values }).collect(),
    }
}

fn tenant(view: &TenantView) -> types::TenantView {
    types::TenantView { tenant: view.tenant.0, weight: view.weight, in_flight: view.in_flight, waiting: view.waiting }
}

fn lite(view: &LiteView) -> types::LiteView {
    types::LiteView {
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

/// The plan for a frame, with values clamped to their ranges.
///
/// # Errors
/// Lengths that do not match the frame's, a verdict that does not exist.
pub(super) fn plan(plan: &types::Plan, frame: &types::Frame, reasons: usize) -> Result<Plan, String> {
    if plan.answers.len() != frame.lites.len() {
        return Err(format!("{} answers for {} lite topics", plan.answers.len(), frame.lites.len()));
    }
    if !plan.weights.is_empty() && plan.weights.len() != frame.tenants.len() {
        return Err(format!("{} weights for {} tenants", plan.weights.len(), frame.tenants.len()));
    }
    let answers = plan.answers.iter().enumerate();
    Ok(Plan {
        lites: answers.map(|(row, answer)| checked(row, answer, reasons)).collect::<Result<_, _>>()?,
        weights: plan.weights.iter().map(|weight| (*weight).min(WEIGHT_MAX)).collect(),
        concurrency: (plan.concurrency != 0).then_some(ConcurrencyCap {
            leases: plan.concurrency,
            valid_for: Duration::from_micros(plan.concurrency_valid_us),
        }),
        refresh: plan.refresh,
    })
}

fn checked(row: usize, answer: &types::Answer, reasons: usize) -> Result<Answer, String> {
    let duration = Duration::from_micros(answer.duration_us);
    let verdict = match answer.verdict {
        0 => Verdict::Serve { band: band(answer.band), max_messages: answer.max_messages.max(1) },
        1 => Verdict::Throttle(duration.clamp(*THROTTLE.start(), *THROTTLE.end())),
        2 => Verdict::Suspend(duration.clamp(SUSPEND_MIN, SUSPEND_MAX)),
        3 => Verdict::DeadLetter,
        4 => Verdict::Drop,
        other => return Err(format!("answer {row} has verdict {other}, 0 to 4 exist")),
    };
    Ok(Answer {
        verdict,
        valid_for: Duration::from_micros(answer.valid_us).min(VALID_MAX),
        reason: answer.reason.min(u32::try_from(reasons).unwrap_or(u32::MAX)),
        memo: answer.memo,
    })
}

fn band(band: u32) -> Option<u8> {
    let clamped = u8::try_from(band).unwrap_or(PRIORITY_MAX).min(PRIORITY_MAX);
    (band != BAND_OF_HEAD).then_some(clamped)
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
    use sluicegate_scheduler::GroupView;

    use super::*;

    fn frame_of_one() -> Frame {
        let lite = LiteView {
            lite: LiteId(1),
            tenant: 0,
            head_offset: Offset(0),
            head_age: Duration::ZERO,
            head_cost: 1,
            priority: 4,
            expires_in: None,
            backlog: 1,
            in_flight: 0,
            attempts: 0,
            last_service: None,
            memo: 0,
        };
        Frame {
            now: Timestamp(0),
            sequence: 0,
            seed: 0,
            group: GroupView::default(),
            tenants: vec![TenantView { tenant: TenantId(1), weight: 1, in_flight: 0, waiting: 1 }],
            lites: vec![lite],
        }
    }

    fn answer(verdict: u32) -> types::Answer {
        types::Answer {
            verdict,
            band: 200,
            max_messages: 0,
            reason: 77,
            duration_us: u64::MAX,
            valid_us: u64::MAX,
            memo: 5,
        }
    }

    fn plan_of(answers: Vec<types::Answer>, weights: Vec<u32>) -> Result<Plan, String> {
        let answers = types::Plan {
            answers,
            weights,
            concurrency: 3,
            concurrency_valid_us: 2_000,
            refresh: 7,
            columns: Vec::new(),
        };
        plan(&answers, &frame(&frame_of_one(), Vec::new()), 2)
    }

    #[test]
    fn values_out_of_range_are_clamped() {
        let serve = Verdict::Serve { band: Some(9), max_messages: 1 };
        let cap = ConcurrencyCap { leases: 3, valid_for: Duration::from_millis(2) };
        for (verdict, expected) in [
            (0, serve),
            (1, Verdict::Throttle(Duration::from_mins(1))),
            (2, Verdict::Suspend(SUSPEND_MAX)),
            (3, Verdict::DeadLetter),
            (4, Verdict::Drop),
        ] {
            let plan = plan_of(vec![answer(verdict)], vec![70_000]).unwrap();
            let row = Answer { verdict: expected, valid_for: VALID_MAX, reason: 2, memo: 5 };
            assert_eq!(plan, Plan { lites: vec![row], weights: vec![10_000], concurrency: Some(cap), refresh: 7 });
        }
        let head = plan_of(vec![types::Answer { band: 255, ..answer(0) }], vec![]).unwrap();
        assert_eq!(head.lites[0].verdict, Verdict::Serve { band: None, max_messages: 1 });
    }

    #[test]
    fn a_plan_of_another_shape_is_refused() {
        assert_eq!(plan_of(vec![], vec![]).unwrap_err(), "0 answers for 1 lite topics");
        assert_eq!(plan_of(vec![answer(0)], vec![1, 2]).unwrap_err(), "2 weights for 1 tenants");
        assert_eq!(plan_of(vec![answer(5)], vec![]).unwrap_err(), "answer 0 has verdict 5, 0 to 4 exist");
    }
}
