//! The HTML report: one file that opens from disk, without scripts, fonts or a network.

use askama::Template;

use super::plots::{Run, colours, rate_svg, waits_svg};
use super::summary::{ClassSummary, Summary};
use super::table::{change, duration, grouped};
use super::workload::Class;

/// How a run was made, in words, beside what the plan says.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Where the requests come from.
    pub(crate) source: String,
    /// Name and version of the policy, its digest.
    pub(crate) policy: String,
    /// The broker's version.
    pub(crate) version: String,
    /// The command line that repeats the run.
    pub(crate) command: String,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    colours: String,
    waits_svg: String,
    rate_svg: String,
    summary: &'a Summary,
    light: &'a ClassSummary,
    facts: Vec<(&'static str, String)>,
    claims: Vec<Claim>,
}

/// One line of what was checked.
struct Claim {
    holds: bool,
    text: String,
}

/// Writes the page.
///
/// # Errors
/// A picture cannot be drawn.
pub(crate) fn html(run: Run<'_>, summary: &Summary, setup: &Setup) -> anyhow::Result<String> {
    let page = Page {
        colours: colours(),
        waits_svg: waits_svg(run)?,
        rate_svg: rate_svg(run)?,
        summary,
        light: summary.classes.iter().find(|class| class.name == Class::Light.name()).expect("every class is there"),
        facts: facts(run, setup),
        claims: claims(summary),
    };
    Ok(page.render()?)
}

fn claims(summary: &Summary) -> Vec<Claim> {
    let claim = |holds, text| Claim { holds, text };
    let light = &summary.classes[summary.classes.len() - 1].wait_ms;
    vec![
        claim(
            summary.lost == 0,
            format!(
                "{} published, {} acknowledged, {} lost",
                grouped(summary.published),
                grouped(summary.acked),
                summary.lost
            ),
        ),
        claim(
            summary.duplicated == 0,
            format!("{} deliveries, {} repeated without cause", grouped(summary.delivered), summary.duplicated),
        ),
        claim(
            summary.order_violations == 0,
            format!("{} violations of order within a lite topic", summary.order_violations),
        ),
        claim(
            summary.quota_violations == 0,
            format!("{} one-second windows above burst + rate, of messages or cost", summary.quota_violations),
        ),
        claim(
            summary.quota_bound_seconds * 5 >= summary.run_seconds,
            format!(
                "the cost quota bound in {} of {} seconds (at least 20 % are claimed)",
                summary.quota_bound_seconds, summary.run_seconds
            ),
        ),
        claim(
            light.after.p99 < light.before.p99,
            format!(
                "light users' p99 wait: {} before the swap, {} after",
                duration(light.before.p99),
                duration(light.after.p99)
            ),
        ),
    ]
}

fn facts(run: Run<'_>, setup: &Setup) -> Vec<(&'static str, String)> {
    let plan = run.plan;
    let seconds = plan.settings.length.as_secs();
    let users = format!(
        "{}, one lite topic and tenant each; drawn by a Zipf law with exponent {} from {} (seed {}), since the trace names none",
        plan.users.len(),
        plan.settings.exponent,
        plan.settings.users,
        plan.settings.seed
    );
    vec![
        ("Requests", format!("{} from the {}", grouped(plan.arrivals.len() as u64), setup.source)),
        ("Arrivals", format!("within {seconds} s, {:.1} times as fast as in the trace", plan.compression)),
        ("Users", users),
        (
            "Classes",
            "greedy: the few who together ask for half of the cost; light: the many who together ask for a fifth; regular: those between"
                .into(),
        ),
        (
            "Cost",
            format!(
                "tokens; estimated as prompt + {} (the trace's median answer), corrected at settle by what was generated",
                plan.generated_median
            ),
        ),
        (
            "Quotas",
            format!(
                "cost {}, messages {}; the requests ask for {:.2} times the cost quota",
                plan.cost_quota,
                plan.messages_quota,
                plan.offered_load()
            ),
        ),
        ("Workers", format!("{} at once, each holds its lease for a time derived from the tokens", plan.workers)),
        ("Policy", format!("{}, activated while traffic flowed, taken off after the last arrival so that the rest drains", setup.policy)),
        ("Its configuration", plan.policy.to_json()),
        ("Broker", setup.version.clone()),
        ("Repeat", setup.command.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::audit::{Terms, audit};
    use super::super::generator::{Mix, generate};
    use super::super::plots::overview_svg;
    use super::super::rehearsal::{START, rehearse};
    use super::super::workload::{Plan, Settings};
    use super::*;

    #[test]
    fn the_page_stands_alone_and_says_where_its_requests_come_from() {
        let settings = Settings::default();
        let trace = generate(Mix::Code, settings.requests_max(), 1);
        let plan = Plan::new(&trace, settings).unwrap();
        let ledger = rehearse(&plan);
        let swap_at = START.plus(plan.swap_after);
        let classes: Vec<_> = plan.users.iter().map(|user| user.class).collect();
        let terms = Terms {
            planned: plan.arrivals.len() as u64,
            classes: &classes,
            messages_quota: plan.messages_quota,
            cost_quota: plan.cost_quota,
            swap_at,
        };
        let summary = Summary::new(&plan, &ledger, swap_at, &audit(&ledger, &terms));
        let setup = Setup {
            source: trace.source.to_string(),
            policy: "token-bucket 0.1.0".into(),
            version: "0.1.0 <&>".into(),
            command: "cargo xtask demo".into(),
        };
        let run = Run { plan: &plan, ledger: &ledger, swap_at };
        let page = html(run, &summary, &setup).unwrap();
        let overview = overview_svg(run).unwrap();
        if let Some(dir) = std::env::var_os("SLUICE_REPORT_DIR") {
            std::fs::write(std::path::Path::new(&dir).join("report.html"), &page).unwrap();
            std::fs::write(std::path::Path::new(&dir).join("overview.svg"), &overview).unwrap();
        }
        assert!(page.contains("built-in generator (seed 1)"));
        assert!(page.contains("0.1.0 &#60;&#38;&#62;"));
        for text in [&page, &overview] {
            let without_namespace = text.replace("http://www.w3.org/2000/svg", "");
            for outside in ["http:", "https:", "<script", "<link", "@import", "url(", "#01FE"] {
                assert!(!without_namespace.contains(outside), "{outside}");
            }
        }
    }
}
