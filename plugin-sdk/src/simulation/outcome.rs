//! What came of a run, and what a test can claim of it.

use std::fmt;
use std::time::Duration;

use sluicegate_protocol::TenantId;
use sluicegate_scheduler::simulation::{Digest, Names, QuotaUse, Report, TenantReport};

/// What came of a run. It prints as a table; a claim that does not hold says what was found, and shows the table.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_plugin_sdk::simulation::{Load, Simulation};
///
/// let load = Load::every(Duration::from_secs(1)).service(Duration::from_millis(100));
/// let outcome = Simulation::new().tenant("ada", load).run_fair(Duration::from_secs(10));
/// outcome.assert_share("ada", 100.0, 0.0).assert_nobody_starves(Duration::ZERO);
/// assert_eq!(outcome.tenant("ada").counts.done, 10);
/// println!("{outcome}");
/// ```
#[derive(Debug, Clone)]
pub struct Outcome {
    decider: String,
    names: Names,
    report: Report,
}

impl Outcome {
    pub(super) fn new(decider: &str, names: Names, report: Report) -> Self {
        Self { decider: decider.into(), names, report }
    }

    /// Everything: all deliveries, and all tenants second by second.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What a tenant had.
    ///
    /// # Panics
    /// If it published nothing.
    #[must_use]
    #[track_caller]
    pub fn tenant(&self, name: &str) -> &TenantReport {
        let found = self.id_of(name).and_then(|tenant| self.report.tenants.get(&tenant));
        found.unwrap_or_else(|| panic!("{name} published nothing\n{self}"))
    }

    /// The id that the policy saw of a tenant, if there is such a tenant.
    #[must_use]
    pub fn id_of(&self, name: &str) -> Option<TenantId> {
        self.names.find_tenant(name)
    }

    /// From publish to first delivery, of 99 in 100 messages of the tenant. Those that still wait count with their wait so far,
    /// those that expired or were dropped or dead-lettered without a delivery with their wait until then.
    ///
    /// # Panics
    /// If it published nothing.
    #[must_use]
    #[track_caller]
    pub fn wait_p99(&self, tenant: &str) -> Duration {
        self.tenant(tenant).waits.quantile(990)
    }

    /// The tenant's part of what all deliveries cost, in percent.
    ///
    /// # Panics
    /// If it published nothing.
    #[must_use]
    #[track_caller]
    pub fn share(&self, tenant: &str) -> f64 {
        self.tenant(tenant).share * 100.0
    }

    /// The same for two runs that decided the same.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.report.digest
    }

    /// Of a hundred messages of the tenant, 99 waited less than this for their first delivery. See [`wait_p99`](Self::wait_p99) for those
    /// that had none.
    ///
    /// # Panics
    /// If they did not, or none was delivered.
    #[track_caller]
    pub fn assert_wait_p99_below(&self, tenant: &str, bound: Duration) -> &Self {
        let counts = self.tenant(tenant).counts;
        assert!(counts.delivered > 0, "none of {} messages of {tenant} was delivered\n{self}", counts.published);
        let wait = self.wait_p99(tenant);
        assert!(wait < bound, "1 in 100 messages of {tenant} waits {wait:?}, not less than {bound:?}\n{self}");
        self
    }

    /// The tenant had this part of what all deliveries cost, in percent, give or take so many percent points.
    ///
    /// # Panics
    /// If it had not, or it published nothing.
    #[track_caller]
    pub fn assert_share(&self, tenant: &str, percent: f64, tolerance: f64) -> &Self {
        let share = self.share(tenant);
        let is_close = (share - percent).abs() <= tolerance;
        assert!(is_close, "{tenant} has {share:.2} % of what was served, not {percent} ± {tolerance} %\n{self}");
        self
    }

    /// No lite topic waited for longer than this although the group and its tenant had room, the quotas could pay, and nothing said suspend
    /// or throttle.
    ///
    /// # Panics
    /// If one did.
    #[track_caller]
    pub fn assert_nobody_starves(&self, bound: Duration) -> &Self {
        if let Some(worst) = self.report.starvation.filter(|worst| worst.lasted > bound) {
            let (tenant, lite) = (&self.names.of_tenant(worst.tenant).name, worst.lite);
            let lasted = worst.lasted;
            panic!("lite topic {lite} of {tenant} waits {lasted:?} with room for it, more than {bound:?}\n{self}");
        }
        self
    }

    /// Deliveries of every window of time stayed within the group's quotas: burst and rate, by estimated costs corrected when they
    /// were measured.
    ///
    /// # Panics
    /// If they did not, or the group has no quota.
    #[track_caller]
    pub fn assert_quota_kept(&self) -> &Self {
        let quotas = [self.report.messages_quota, self.report.cost_quota];
        assert!(quotas.iter().any(Option::is_some), "the group has no quota\n{self}");
        for QuotaUse { rate, excess, .. } in quotas.into_iter().flatten() {
            assert!(excess == 0, "a window is {excess} units above the quota of {rate}\n{self}");
        }
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { span, asks, utilisation, .. } = &self.report;
        let (busy, fairness) = (utilisation * 100.0, self.report.fairness());
        writeln!(f, "{}: {span:?}, {asks} asks, slots {busy:.1} % busy, fairness {fairness:.3}", self.decider)?;
        let head = ["tenant", "published", "delivered", "waiting", "share", "wait p50", "p99", "max"];
        let [tenant, published, delivered, waiting, share, p50, p99, max] = head;
        writeln!(
            f,
            "{tenant:20} {published:>10} {delivered:>10} {waiting:>10} {share:>8} {p50:>10} {p99:>10} {max:>10}"
        )?;
        for (id, TenantReport { counts, waits, share, .. }) in &self.report.tenants {
            let waits = [waits.quantile(500), waits.quantile(990), waits.max()].map(|wait| format!("{wait:.1?}"));
            let ([p50, p99, max], share) = (waits, format!("{:.2} %", share * 100.0));
            let (name, published) = (&self.names.of_tenant(*id).name, counts.published);
            let (delivered, waiting) = (counts.delivered, counts.waiting);
            writeln!(
                f,
                "{name:20} {published:>10} {delivered:>10} {waiting:>10} {share:>8} {p50:>10} {p99:>10} {max:>10}"
            )?;
        }
        Ok(())
    }
}
