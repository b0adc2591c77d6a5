//! What came of a shadow, for people.

use sluicegate_client::admin::{Shadow, ShadowFigures};

use crate::output;

pub(crate) fn describe(shadow: &Shadow) -> String {
    let Shadow { digest, name, since, by, ended_because, figures, .. } = shadow;
    let state = match ended_because {
        Some(because) => format!("ended by its third fault: {because}"),
        None => "is asked".into(),
    };
    let mut table = output::table(&["SHADOW", name]);
    let rows = [
        ("digest", digest.get(..16).unwrap_or(digest).to_owned()),
        ("since", format!("{}, by {by}", output::time(*since))),
        ("state", state),
    ];
    for (name, value) in rows.into_iter().chain(of_figures(figures)) {
        table.add_row([name.to_owned(), value]);
    }
    table.to_string()
}

fn of_figures(figures: &ShadowFigures) -> [(&'static str, String); 11] {
    let per_frame = |micros: u64| format!("{:.1} us", micros as f64 / (figures.frames.max(1)) as f64);
    [
        ("frames compared", figures.frames.to_string()),
        ("frames that it alone answered", figures.frames_alone.to_string()),
        ("frames skipped, it was busy", figures.frames_skipped.to_string()),
        ("faults", figures.faults.to_string()),
        (
            "rows that differ",
            format!("{} of {}: {:.2} %", figures.rows_different, figures.rows, 100.0 * figures.disagreement),
        ),
        (
            "by verdict",
            format!(
                "{}: it serves {}, throttles {}, suspends {}, refuses {} more",
                figures.verdicts_different,
                figures.served_more,
                figures.throttled_more,
                figures.suspended_more,
                figures.refused_more
            ),
        ),
        ("by band", figures.bands_different.to_string()),
        ("by duration", format!("{}, by {} ms in all", figures.durations_different, figures.durations_difference_ms)),
        (
            "weights that differ",
            format!(
                "{} of {}, by {:.2} doublings on average",
                figures.weights_different, figures.tenants, figures.weight_distance
            ),
        ),
        ("concurrencies that differ", figures.concurrencies_different.to_string()),
        (
            "guest time a frame",
            format!("{}, of what decides {}", per_frame(figures.guest_us), per_frame(figures.deciding_guest_us)),
        ),
    ]
}
