//! The thread that makes a guest's time pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wasmtime::Engine;

const TICK: Duration = Duration::from_millis(1);
/// Ticks without a call after which the thread sleeps, so that an idle broker is idle. Longer than any call.
const QUIET_TICKS: u32 = 1_000;

/// Advances an engine's epoch every millisecond while guests are called. Ends when it is dropped.
pub(super) struct Ticker {
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Signals {
    called: AtomicBool,
    asleep: AtomicBool,
    ended: AtomicBool,
}

impl Ticker {
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let signals = Arc::new(Signals::default());
        let shared = Arc::clone(&signals);
        let thread = thread::Builder::new().name("policy-ticker".into()).spawn(move || tick(&engine, &shared))?;
        Ok(Self { signals, thread: Some(thread) })
    }

    /// To be called before each entry into a guest.
    pub(super) fn called(&self) {
        self.signals.called.store(true, Ordering::SeqCst);
        if self.signals.asleep.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.signals.ended.store(true, Ordering::SeqCst);
        self.unpark();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn tick(engine: &Engine, signals: &Signals) {
    let mut quiet = 0;
    while !signals.ended.load(Ordering::SeqCst) {
        if signals.called.swap(false, Ordering::SeqCst) {
            quiet = 0;
        }
        quiet += 1;
        if quiet > QUIET_TICKS {
            signals.asleep.store(true, Ordering::SeqCst);
            // A call that came before it could see `asleep` is seen here.
            if !signals.called.load(Ordering::SeqCst) && !signals.ended.load(Ordering::SeqCst) {
                thread::park();
            }
            signals.asleep.store(false, Ordering::SeqCst);
            quiet = 0;
        }
        thread::park_timeout(TICK);
        engine.increment_epoch();
    }
}
