//! What a guest is told: names and labels once each, then what happened, then the frame. Everything that needs the owner's rows is
//! looked up here, so that a [`Question`] is plain data, which may be answered on another thread, recorded, and asked again.

use serde::{Deserialize, Serialize};
use sluicegate_protocol::{LiteId, TenantId};
use sluicegate_scheduler::{Ask, LiteView};

use super::compiled::Descriptor;
use super::names::Names;
use super::translate;
use super::types;

/// [`types::Entity::kind`] of a tenant.
pub(super) const TENANT: u32 = 1;
/// [`types::Entity::kind`] of a lite topic.
pub(super) const LITE: u32 = 2;

/// Something with a name and labels, as a policy learns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: String,
    /// At most 16.
    pub(crate) labels: Vec<(String, String)>,
}

/// What a policy is told beside numbers that the scheduler has.
pub(crate) trait Directory {
    /// A tenant's name and labels.
    fn tenant(&mut self, tenant: TenantId) -> Known;

    /// Names and labels of those of these lite topics that have labels.
    fn labelled(&mut self, lites: &[LiteId]) -> Vec<(LiteId, Known)>;

    /// For each of these message properties, what the heads of the rows have there: a number, or [`u64::MAX`].
    fn columns(&mut self, properties: &[String], rows: &[LiteView]) -> Vec<Vec<u64>>;
}

/// What one guest knows by name. A new guest knows nothing.
#[derive(Default)]
pub(crate) struct Briefing {
    tenants: Names<TenantId>,
    lites: Names<LiteId>,
}

impl Briefing {
    /// All that the guest has to be told for this ask, taken as told. What it does not know by name is looked up, once each.
    pub(crate) fn question(&mut self, descriptor: &Descriptor, ask: &Ask, directory: &mut dyn Directory) -> Question {
        let tenants = self.tenants.before(tenants_of(ask));
        let mut learnt: Vec<_> =
            tenants.unknown.iter().map(|&tenant| entity(TENANT, tenant.0, directory.tenant(tenant))).collect();
        let forgotten_tenants = tenants.forgotten.iter().map(|tenant| tenant.0).collect();
        let mut forgotten_lites = Vec::new();
        if descriptor.learns_lites {
            let rows = ask.frame.lites.iter().map(|row| row.lite);
            let lites = self.lites.before(rows.chain(ask.feedback.iter().map(|feedback| feedback.lite)));
            forgotten_lites.extend(lites.forgotten.iter().map(|lite| lite.0));
            let labelled = directory.labelled(&lites.unknown).into_iter();
            learnt.extend(labelled.map(|(lite, known)| entity(LITE, lite.0, known)));
        }
        let columns = match descriptor.wants.is_empty() {
            true => Vec::new(),
            false => directory.columns(&descriptor.wants, &ask.frame.lites),
        };
        let (feedback, frame) = (translate::feedback(ask), translate::frame(&ask.frame, columns));
        Question { news: News { forgotten_tenants, forgotten_lites, learnt }, feedback, frame }
    }

    /// What was learnt of tenants is learnt again when they are mentioned.
    pub(super) fn tell_names_again(&mut self) {
        self.tenants.tell_again();
    }
}

/// What a guest is told and asked at once, in the contract's records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Question {
    /// Names, before they are mentioned.
    #[serde(default, skip_serializing_if = "News::is_empty")]
    pub(super) news: News,
    /// What became of deliveries.
    pub(super) feedback: Vec<types::Feedback>,
    /// The rows to decide on.
    pub(super) frame: types::Frame,
}

/// What a guest forgets and learns by name, in this order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct News {
    /// Ids of tenants that it need not know any more.
    pub(super) forgotten_tenants: Vec<u64>,
    /// Ids of lite topics that it need not know any more.
    pub(super) forgotten_lites: Vec<u64>,
    /// Tenants and lite topics that are mentioned and that it does not know.
    pub(super) learnt: Vec<types::Entity>,
}

impl Question {
    /// Everything in it that a guest may have to spend time on.
    pub(super) fn rows(&self) -> usize {
        self.news.rows() + self.feedback.len() + self.frame.lites.len()
    }

    /// The memory that it takes, nearly.
    pub(super) fn bytes(&self) -> usize {
        let types::Frame { tenants, lites, columns, .. } = &self.frame;
        let columns: usize = columns.iter().map(|column| 8 * column.values.len()).sum();
        let rows = size_of_val(&**tenants) + size_of_val(&**lites) + size_of_val(&*self.feedback);
        size_of_val(self) + self.news.bytes() + rows + columns
    }
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.learnt.is_empty() && self.forgotten_tenants.is_empty() && self.forgotten_lites.is_empty()
    }

    /// Everything in it that a guest may have to spend time on.
    pub(super) fn rows(&self) -> usize {
        let labels: usize = self.learnt.iter().map(|entity| entity.labels.len()).sum();
        labels + self.learnt.len() + self.forgotten_tenants.len() + self.forgotten_lites.len()
    }

    /// The memory that it takes, nearly.
    pub(super) fn bytes(&self) -> usize {
        let label = |label: &types::Label| size_of_val(label) + label.key.len() + label.value.len();
        let learnt = self
            .learnt
            .iter()
            .map(|entity| size_of_val(entity) + entity.name.len() + entity.labels.iter().map(label).sum::<usize>());
        learnt.sum::<usize>() + 8 * (self.forgotten_tenants.len() + self.forgotten_lites.len())
    }
}

/// The tenants that an ask mentions.
fn tenants_of(ask: &Ask) -> impl Iterator<Item = TenantId> + Clone {
    let rows = ask.frame.tenants.iter().map(|tenant| tenant.tenant);
    rows.chain(ask.feedback.iter().map(|feedback| feedback.tenant))
}

fn entity(kind: u32, id: u64, known: Known) -> types::Entity {
    let labels = known.labels.into_iter().map(|(key, value)| types::Label { key, value });
    types::Entity { kind, id, name: known.name, labels: labels.collect() }
}
