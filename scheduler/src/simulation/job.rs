//! What is to be done, and what it is called.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sluicegate_protocol::limits::{COST_DEFAULT, PRIORITY_DEFAULT};
use sluicegate_protocol::{LiteId, TenantId};

/// A message of a workload, and what will come of it.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_protocol::{LiteId, TenantId};
/// use sluicegate_scheduler::simulation::Job;
///
/// let service = Duration::from_millis(300);
/// let job = Job { cost: 120, measured: 95, service, ..Job::new(Duration::from_secs(1), TenantId(1), LiteId(4)) };
/// assert_eq!(job.priority, 4);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// When it is published, from the start of the simulation.
    pub at: Duration,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it waits. A lite topic is one tenant's.
    pub lite: LiteId,
    /// 0 to 9, 9 first; default 4.
    pub priority: u8,
    /// Estimated cost; default 1.
    pub cost: u64,
    /// What each attempt turns out to cost; default 1.
    pub measured: u64,
    /// How long each attempt takes; default none.
    pub service: Duration,
    /// From publish until it may be delivered; default at once.
    pub deliver_after: Option<Duration>,
    /// From publish until it may no longer be delivered; default never.
    pub expires_after: Option<Duration>,
    /// Attempts that fail before one succeeds; default 0.
    pub failures: u32,
    /// How long a failed attempt asks to be left alone: the delay of its retry; the group's back-off by default.
    pub retry_after: Option<Duration>,
    /// The values of its numeric properties, in the order of [`Names::property`]; those beyond the end are not there.
    pub numbers: Box<[Option<u64>]>,
}

impl Job {
    /// With the defaults.
    pub fn new(at: Duration, tenant: TenantId, lite: LiteId) -> Self {
        Self {
            at,
            tenant,
            lite,
            priority: PRIORITY_DEFAULT,
            cost: COST_DEFAULT,
            measured: COST_DEFAULT,
            service: Duration::ZERO,
            deliver_after: None,
            expires_after: None,
            failures: 0,
            retry_after: None,
            numbers: Box::default(),
        }
    }
}

/// A name, and the labels that go with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Keys and values.
    pub labels: Vec<(String, String)>,
}

/// What tenants, lite topics and properties of a workload are called. Ids are given out here, from 1.
///
/// ```
/// use sluicegate_scheduler::simulation::Names;
///
/// let mut names = Names::default();
/// let gold = names.tenant("gold");
/// assert_eq!(names.tenant("gold"), gold);
/// names.label_tenant(gold, "tier", "1");
/// assert_eq!(names.of_tenant(gold).labels[0].1, "1");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Names {
    tenants: Vec<Named>,
    by_name: HashMap<String, TenantId>,
    lites: u64,
    /// By the first of them: how many lite topics have these labels.
    labelled: BTreeMap<LiteId, (u64, Named)>,
    properties: Vec<String>,
}

impl Names {
    /// The tenant of this name, new if there is none.
    pub fn tenant(&mut self, name: &str) -> TenantId {
        if let Some(&known) = self.by_name.get(name) {
            return known;
        }
        self.tenants.push(Named { name: name.into(), labels: Vec::new() });
        let tenant = TenantId(self.tenants.len() as u64);
        self.by_name.insert(name.into(), tenant);
        tenant
    }

    /// So many lite topics that nobody had before, with ids in a row: the first.
    pub fn next_lites(&mut self, count: u64) -> LiteId {
        let first = LiteId(self.lites.saturating_add(1));
        self.lites = self.lites.saturating_add(count);
        first
    }

    /// The place of a numeric property in [`Job::numbers`], new if there is none.
    pub fn property(&mut self, name: &str) -> usize {
        self.place_of(name).unwrap_or_else(|| {
            self.properties.push(name.into());
            self.properties.len() - 1
        })
    }

    /// A label of a tenant, as a group's settings have them.
    ///
    /// # Panics
    /// If the tenant was not named here.
    pub fn label_tenant(&mut self, tenant: TenantId, key: &str, value: &str) {
        let row = self.row_of(tenant).expect("the tenant was named here");
        self.tenants[row].labels.push((key.into(), value.into()));
    }

    /// Labels for so many lite topics with ids in a row, as their first messages bring them. A number after the name tells several apart.
    pub fn label_lites(&mut self, first: LiteId, count: u64, named: Named) {
        self.labelled.insert(first, (count, named));
    }

    /// What a tenant is called.
    ///
    /// # Panics
    /// If the tenant was not named here.
    pub fn of_tenant(&self, tenant: TenantId) -> &Named {
        &self.tenants[self.row_of(tenant).expect("the tenant was named here")]
    }

    /// The tenant of this name, if there is one.
    pub fn find_tenant(&self, name: &str) -> Option<TenantId> {
        self.by_name.get(name).copied()
    }

    /// Name and labels of a lite topic that has labels.
    pub fn of_lite(&self, lite: LiteId) -> Option<Named> {
        let (first, (count, named)) = self.labelled.range(..=lite).next_back()?;
        let nth = lite.0 - first.0;
        (nth < *count).then(|| match count {
            1 => named.clone(),
            _ => Named { name: format!("{}/{nth}", named.name), labels: named.labels.clone() },
        })
    }

    pub(super) fn place_of(&self, property: &str) -> Option<usize> {
        self.properties.iter().position(|known| known == property)
    }

    fn row_of(&self, tenant: TenantId) -> Option<usize> {
        let row = usize::try_from(tenant.0.checked_sub(1)?).ok()?;
        (row < self.tenants.len()).then_some(row)
    }
}
