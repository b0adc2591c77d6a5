//! What a host tells a policy beside the frame.

use sluicegate_protocol::{LiteId, TenantId};

use super::job::{Named, Names};
use super::waiting::Waiting;

/// Names, labels and properties: the scheduler knows none of them, its owner does.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub(super) names: &'a Names,
    pub(super) waiting: &'a Waiting,
}

impl<'a> Facts<'a> {
    /// Name and labels of a tenant.
    pub fn tenant(&self, tenant: TenantId) -> &'a Named {
        self.names.of_tenant(tenant)
    }

    /// Name and labels of a lite topic that has labels.
    pub fn lite(&self, lite: LiteId) -> Option<Named> {
        self.names.of_lite(lite)
    }

    /// The value that the head of a lite topic has for a numeric property.
    pub fn number(&self, lite: LiteId, property: &str) -> Option<u64> {
        let head = self.waiting.head(lite)?;
        head.job.numbers.get(self.names.place_of(property)?).copied().flatten()
    }
}
