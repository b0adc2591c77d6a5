//! What there is of each group, whether it is in memory or not: counted as it changes, and written with the change.

use std::collections::HashMap;

use sluicegate_protocol::GroupId;

use crate::id_hash::IdHash;
use crate::store::LevelsRow;

/// The levels of the shard's groups.
#[derive(Debug, Default)]
pub(super) struct Levels(HashMap<GroupId, Level, IdHash>);

#[derive(Debug, Default, Clone, Copy)]
struct Level {
    row: LevelsRow,
    is_changed: bool,
}

impl Levels {
    /// A group begins, with what was written of it.
    pub(super) fn begin(&mut self, group: GroupId, row: LevelsRow) {
        self.0.insert(group, Level { row, is_changed: false });
    }

    /// A group is deleted: what still happens to its rows counts no more.
    pub(super) fn end(&mut self, group: GroupId) {
        self.0.remove(&group);
    }

    pub(super) fn of(&self, group: GroupId) -> LevelsRow {
        self.0.get(&group).map_or_else(LevelsRow::default, |level| level.row)
    }

    /// So many more messages are not settled, or fewer.
    pub(super) fn unsettled(&mut self, group: GroupId, more: i64) {
        self.change(group, |row| &mut row.unsettled, more);
    }

    /// So many more ready rows, or fewer.
    pub(super) fn filed(&mut self, group: GroupId, more: i64) {
        self.change(group, |row| &mut row.filed, more);
    }

    /// So many more wake rows, or fewer.
    pub(super) fn asleep(&mut self, group: GroupId, more: i64) {
        self.change(group, |row| &mut row.asleep, more);
    }

    fn change(&mut self, group: GroupId, of: impl Fn(&mut LevelsRow) -> &mut u64, more: i64) {
        let Some(level) = self.0.get_mut(&group).filter(|_| more != 0) else { return };
        let value = of(&mut level.row);
        *value = value.saturating_add_signed(more);
        level.is_changed = true;
    }

    /// The levels that are to be written.
    pub(super) fn take_changed(&mut self) -> Vec<(GroupId, LevelsRow)> {
        let row = |(group, level): (&GroupId, &mut Level)| {
            std::mem::take(&mut level.is_changed).then_some((*group, level.row))
        };
        self.0.iter_mut().filter_map(row).collect()
    }
}
