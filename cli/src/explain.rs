//! An explanation as a person reads it at three in the morning.

use std::time::Duration;

use sluicegate_client::Timestamp;
use sluicegate_client::admin::{
    Blocker, Bucket, Cause, ExplainedPolicy, Explanation, PolicyRuns, PolicyVerdict, PolicyWord, Rank, SuspensionSource,
};

use crate::group::where_it_runs;
use crate::output::{self, or_dash, span, time_from};

/// The answer in one line, then all that is known.
pub(crate) fn text(why: &Explanation) -> String {
    let mut table = output::table(&[]);
    for blocker in &why.blockers {
        table.add_row(["blocked by", &with_times(blocker, why.at)]);
    }
    for (name, value) in rows(why) {
        table.add_row([name, &value]);
    }
    for lease in &why.leases {
        let (since, until) = (time_from(why.at, lease.dispatched_at), time_from(why.at, lease.deadline));
        let (offset, attempt, session) = (lease.offset, lease.attempt, &lease.session);
        let value = format!(
            "offset {offset}, attempt {attempt}, session {session}, since {since}, until {until} unless it is extended"
        );
        table.add_row(["lease", &value]);
    }
    format!("{}\n{table}", headline(why))
}

fn headline(why: &Explanation) -> String {
    let Explanation { group, name, .. } = why;
    let Some(head) = why.head else {
        let blocked = why.blockers.iter().find(|blocker| is_of_no_head(&blocker.cause));
        let because = blocked.map_or_else(|| "nothing may start".into(), |blocker| cause(&blocker.cause));
        return format!("{name} does not wait in group {group}: {because}");
    };
    let waits = span(why.at.since(head.published_at));
    match why.blockers.first() {
        None => format!("{name} is served to group {group} at the next turn; its head waits for {waits}"),
        Some(first) => format!("{name} waits in group {group} for {waits}: {}", cause(&first.cause)),
    }
}

const fn is_of_no_head(cause: &Cause) -> bool {
    matches!(cause, Cause::Empty | Cause::AllLeased | Cause::Window { .. })
}

fn rows(why: &Explanation) -> Vec<(&'static str, String)> {
    let head = why.head.map(|head| {
        let expires = head.expires_at.map(|at| format!(", expires {}", time_from(why.at, at)));
        format!(
            "offset {}, published {}, priority {}, cost {}, attempts {}{}",
            head.offset,
            time_from(why.at, head.published_at),
            head.priority,
            head.cost,
            head.attempts,
            expires.unwrap_or_default()
        )
    });
    let tenant = match why.weight {
        Some(weight) => format!("{}, weight {weight}", why.tenant),
        None => why.tenant.clone(),
    };
    let mut rows = vec![
        ("policy", why.policy.as_ref().map_or_else(|| "built-in fair scheduling".into(), |of| policy(of, why.at))),
        ("estimated start", or_dash(why.estimated_start.map(|at| time_from(why.at, at)))),
        ("head", or_dash(head)),
        ("backlog", why.backlog.to_string()),
        ("tenant", tenant),
        ("band", or_dash(why.band)),
    ];
    if let (Some(lites), Some(tenants)) = (why.rank_in_tenant, why.rank_in_band) {
        let (lites, tenants) = (rank(lites), rank(tenants));
        rows.push(("before it", format!("{lites} lite topics of its tenant, {tenants} tenants of its band")));
    }
    rows
}

/// A count of those before.
pub(crate) fn rank(rank: Rank) -> String {
    match rank {
        Rank::Exactly(count) => count.to_string(),
        Rank::MoreThan(count) => format!("more than {count}"),
    }
}

fn with_times(blocker: &Blocker, now: Timestamp) -> String {
    let mut text = cause(&blocker.cause);
    if let Some(since) = blocker.since {
        text = format!("{text}, since {}", time_from(now, since));
    }
    match blocker.until {
        Some(until) => format!("{text}, until {}", time_from(now, until)),
        None => text,
    }
}

/// What blocks, without its times.
pub(crate) fn cause(cause: &Cause) -> String {
    match cause {
        Cause::Draining => "the broker is stopping and delivers nothing more".into(),
        Cause::Paused => "an operator paused the group".into(),
        Cause::NoSession => "no connected consumer takes it".into(),
        Cause::Suspended { source } => match source {
            SuspensionSource::Operator => "an operator suspended it".into(),
            SuspensionSource::Policy => "the policy suspended it".into(),
            SuspensionSource::Settle => "a consumer suspended it when it settled".into(),
            SuspensionSource::Retry => "its head failed and waits for its retry".into(),
        },
        Cause::DeliverAt => "its head is to be delivered later".into(),
        Cause::Throttled => "the policy throttles it".into(),
        Cause::Quota { bucket: Bucket::Messages, short } => {
            format!("the message quota is {short} short of the next message")
        }
        Cause::Quota { bucket: Bucket::Cost, short } => {
            format!("the cost quota is {short} units short of the next message")
        }
        Cause::Empty => "nothing waits in it".into(),
        Cause::AllLeased => "all that is in it is being worked on".into(),
        Cause::Window { first } => format!("offset {first} must be settled before anything so far behind it starts"),
        Cause::LiteConcurrency { limit } => format!("it has {limit} open leases, as many as it may"),
        Cause::TenantConcurrency { limit } => format!("its tenant has {limit} open leases, as many as it may"),
        Cause::GroupConcurrency { limit, by_policy: false } => {
            format!("the group has {limit} open leases, as many as it may")
        }
        Cause::GroupConcurrency { limit, by_policy: true } => {
            format!("the group has {limit} open leases, as many as its policy allows")
        }
        Cause::Asking => "the policy is being asked about it".into(),
        Cause::Refused => "the policy refused its head".into(),
        Cause::NoCredit => "all consumers that take it are full".into(),
        Cause::SessionFull { session: Some(session) } => {
            format!("session {session} works on it, is to get the rest too, and is full")
        }
        Cause::SessionFull { session: None } => {
            "the session that works on it is to get the rest too, and is full".into()
        }
        Cause::Turn => "others are served before it".into(),
    }
}

fn policy(policy: &ExplainedPolicy, now: Timestamp) -> String {
    let name = format!("{} ({})", policy.name, policy.digest.get(..12).unwrap_or(&policy.digest));
    if let Some(why) = &policy.suspended_because {
        return format!("{name} does not decide: {why}");
    }
    let name = match policy.runs {
        None | Some(PolicyRuns::OnShard) => name,
        Some(runs) => format!("{name}, {},", where_it_runs(runs)),
    };
    let Some(PolicyWord { at, verdict, reason, overruled }) = &policy.said else {
        return format!("{name} was not asked about it yet");
    };
    let overruled = if *overruled { "; the watchdog let one message through all the same" } else { "" };
    format!("{name} said {}, because: {reason}, at {}{overruled}", said(verdict), time_from(now, *at))
}

fn said(verdict: &PolicyVerdict) -> String {
    match *verdict {
        PolicyVerdict::Serve { band: None, max_messages } => format!("serve {max_messages} messages"),
        PolicyVerdict::Serve { band: Some(band), max_messages } => {
            format!("serve {max_messages} messages in band {band}")
        }
        PolicyVerdict::Throttle { for_ms } => format!("throttle for {}", span(Duration::from_millis(for_ms))),
        PolicyVerdict::Suspend { for_ms } => format!("suspend for {}", span(Duration::from_millis(for_ms))),
        PolicyVerdict::DeadLetter => "dead-letter".into(),
        PolicyVerdict::Drop => "drop".into(),
    }
}
