//! Compiled code and guests that run it. The one place where Wasm is entered.

use std::sync::Arc;

use wasmtime::{Engine, Store, Trap};

use super::fault::PolicyFault;
use super::guest::{Guest, GuestLog};
use super::limits::{ANSWER_BYTES_MAX, Budget, MEMORY_BYTES_MAX};
use super::ticker::Ticker;
use super::wit::{Policy, PolicyPre};

/// Linked code, ready to be instantiated any number of times.
pub(super) struct Program {
    pub(super) engine: Engine,
    pub(super) ticker: Arc<Ticker>,
    pub(super) linked: PolicyPre<Guest>,
}

impl Program {
    pub(super) fn start(&self, log: GuestLog) -> Result<Running, PolicyFault> {
        let mut store = Store::new(&self.engine, Guest { log, ..Guest::default() });
        store.limiter(|guest| &mut guest.memory);
        store.set_hostcall_fuel(ANSWER_BYTES_MAX);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().overtime.check()));
        let mut entry = Entry { store, ticker: Arc::clone(&self.ticker), budget: Budget::RARE, poisoned: false };
        let policy = entry.enter(Budget::RARE, |store| self.linked.instantiate(store))?;
        Ok(Running { entry, policy })
    }
}

/// A guest. Once it failed it is never entered again.
pub(super) struct Running {
    entry: Entry,
    policy: Policy,
}

impl Running {
    /// Calls exported functions, all within one budget.
    pub(super) fn call<R>(
        &mut self,
        budget: Budget,
        call: impl FnOnce(&Policy, &mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, PolicyFault> {
        self.entry.enter(budget, |store| call(&self.policy, store))
    }

    pub(super) fn log(&mut self) -> &mut GuestLog {
        &mut self.entry.store.data_mut().log
    }

    /// The fuel that the last call had.
    pub(super) fn fuel_max(&self) -> u64 {
        self.entry.budget.fuel
    }

    /// Bytes of its memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.entry.store.data().memory.granted
    }

    /// The fuel that the last call used.
    pub(super) fn fuel_used(&self) -> u64 {
        let left = self.entry.store.get_fuel().expect("the engine counts fuel");
        self.entry.budget.fuel.saturating_sub(left)
    }

    /// The answer was no good: what the guest computes from now on is not to be trusted either.
    pub(super) fn poison(&mut self) {
        self.entry.poisoned = true;
    }
}

struct Entry {
    store: Store<Guest>,
    ticker: Arc<Ticker>,
    budget: Budget,
    poisoned: bool,
}

impl Entry {
    fn enter<R>(
        &mut self,
        budget: Budget,
        call: impl FnOnce(&mut Store<Guest>) -> wasmtime::Result<R>,
    ) -> Result<R, PolicyFault> {
        if self.poisoned {
            return Err(PolicyFault::Poisoned);
        }
        self.budget = budget;
        self.store.set_fuel(budget.fuel).expect("the engine counts fuel");
        self.store.set_epoch_deadline(budget.ticks);
        self.store.data_mut().overtime = super::guest::Overtime::default();
        self.ticker.called();
        call(&mut self.store).map_err(|error| self.fault(&error))
    }

    fn fault(&mut self, error: &wasmtime::Error) -> PolicyFault {
        self.poisoned = true;
        let guest = self.store.data_mut();
        if let Some(asked) = guest.memory.refused {
            return PolicyFault::Memory { asked, max: MEMORY_BYTES_MAX };
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => PolicyFault::OutOfFuel { fuel: self.budget.fuel },
            Some(Trap::Interrupt) => PolicyFault::Deadline { ticks: self.budget.ticks },
            Some(trap) => PolicyFault::Trap(guest.log.last_error.take().unwrap_or_else(|| trap.to_string())),
            // Not the guest's code failed but the host's reading of its answer.
            None => PolicyFault::BadAnswer(format!("{error:#}").replace(char::is_control, " ")),
        }
    }
}
