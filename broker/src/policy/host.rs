//! The engine, and which bytes it takes.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use sluicegate_protocol::limits::POLICY_BYTES_MAX;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker, types};
use wasmtime::{Config, Engine, OptLevel};

use super::alarm::Alarms;
use super::compiled::{CompiledPolicy, Descriptor};
use super::fault::PolicyRejected;
use super::guest::{Guest, GuestLog};
use super::limits::{Budget, MEMORY_BYTES_MAX, STACK_BYTES_MAX};
use super::program::Program;
use super::threads::PolicyThreads;
use super::ticker::Ticker;
use super::wit::{Policy, PolicyPre};

/// The contract: package, then interface, `@`, version.
const PACKAGE: &str = "sluicegate:policy/";
pub(super) const VERSION: &str = "0.1.0";
const HOST: &str = "sluicegate:policy/host";
const EXPORTS: [&str; 2] = ["lifecycle", "scheduler"];

/// Compiles policies. One per process: it has the engine, the thread that makes guests' time pass, and the policy threads.
pub(crate) struct PolicyHost {
    engine: Engine,
    linker: Linker<Guest>,
    ticker: Arc<Ticker>,
    alarms: Alarms,
    threads: PolicyThreads,
}

/// Why no policy can run at all.
#[derive(Debug, thiserror::Error)]
#[error("policies cannot run here: {0}")]
pub struct NoPolicyHost(String);

impl PolicyHost {
    /// # Errors
    /// The machine cannot run compiled Wasm, or has no thread left.
    pub(crate) fn new() -> Result<Arc<Self>, NoPolicyHost> {
        let engine = Engine::new(&engine_config()).map_err(|error| NoPolicyHost(format!("{error:#}")))?;
        let mut linker = Linker::new(&engine);
        Policy::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)
            .map_err(|error| NoPolicyHost(format!("{error:#}")))?;
        let ticker = Ticker::start(engine.clone()).map_err(|error| NoPolicyHost(error.to_string()))?;
        let threads = PolicyThreads::start().map_err(|error| NoPolicyHost(error.to_string()))?;
        Ok(Arc::new(Self { engine, linker, ticker: Arc::new(ticker), alarms: Alarms::default(), threads }))
    }

    /// Where policies are told that may decide no more.
    pub(crate) fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Checks and compiles an uploaded policy, and has it describe itself. Takes a tenth of a second: not for a shard.
    ///
    /// # Errors
    /// [`PolicyRejected`] says what the bytes are instead, and what would help.
    pub(crate) fn compile(&self, wasm: &[u8]) -> Result<Arc<CompiledPolicy>, PolicyRejected> {
        check_bytes(wasm)?;
        let component = Component::new(&self.engine, wasm).map_err(|e| PolicyRejected::DoesNotCompile(one_line(&e)))?;
        check_world(&component.component_type(), &self.engine)?;
        let linked = self.linker.instantiate_pre(&component).and_then(PolicyPre::new);
        let linked = linked.map_err(|e| PolicyRejected::OtherTypes { ours: ours(), text: one_line(&e) })?;
        let program = Program { engine: self.engine.clone(), ticker: Arc::clone(&self.ticker), linked };
        let mut running = program.start(GuestLog::default())?;
        let descriptor =
            running.call(Budget::RARE, |policy, store| policy.sluicegate_policy_lifecycle().call_describe(store))?;
        let descriptor = Descriptor::parse(descriptor).map_err(PolicyRejected::BadDescriptor)?;
        let (alarms, threads) = (self.alarms.clone(), self.threads.clone());
        Ok(Arc::new(CompiledPolicy { program, digest: digest(wasm), descriptor, alarms, threads }))
    }
}

/// What names a policy: the SHA-256 of its component, 64 hexadecimal digits.
pub(crate) fn digest(wasm: &[u8]) -> String {
    format!("{:x}", Sha256::digest(wasm))
}

/// Everything that could make two runs differ is off or pinned; what interrupts a guest is on.
fn engine_config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .max_wasm_stack(STACK_BYTES_MAX)
        // Address space, not memory. Thousands of instances must fit.
        .memory_reservation(2 * MEMORY_BYTES_MAX as u64)
        .memory_guard_size(64 << 10)
        .memory_may_move(false)
        .generate_address_map(true)
        .concurrency_support(false);
    config
}

fn check_bytes(wasm: &[u8]) -> Result<(), PolicyRejected> {
    if wasm.len() > POLICY_BYTES_MAX {
        return Err(PolicyRejected::TooLarge { bytes: wasm.len(), max: POLICY_BYTES_MAX });
    }
    if Engine::detect_precompiled(wasm).is_some() {
        return Err(PolicyRejected::Precompiled);
    }
    // Magic, then version and layer: 0 is a core module, 1 a component.
    match wasm.first_chunk() {
        Some([b'\0', b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
        Some([b'\0', b'a', b's', b'm', _, _, 0, 0]) => Err(PolicyRejected::CoreModule),
        _ => Err(PolicyRejected::NotWasm),
    }
}

fn check_world(world: &types::Component, engine: &Engine) -> Result<(), PolicyRejected> {
    for (name, import) in world.imports(engine) {
        check_import(name, &import.ty, engine)?;
    }
    let exports: Vec<_> = world.exports(engine).map(|(name, _)| name).collect();
    for name in &exports {
        check_version(name)?;
    }
    let exported = |part: &&str| exports.iter().any(|name| interface(name).is_some_and(|(own, _)| own == *part));
    if EXPORTS.iter().all(exported) {
        return Ok(());
    }
    let exports = if exports.is_empty() { "nothing".into() } else { exports.join(", ") };
    Err(PolicyRejected::OtherWorld { exports, wanted: "sluicegate:policy/{lifecycle,scheduler}" })
}

fn check_import(name: &str, import: &ComponentItem, engine: &Engine) -> Result<(), PolicyRejected> {
    check_version(name)?;
    let foreign = |name: String| {
        let help = match name.starts_with("wasi:") {
            true => "build it for wasm32-unknown-unknown, as `sluice policy build` does",
            false => "time and seed come with each frame, nothing else can be reached",
        };
        Err(PolicyRejected::ForeignImport { name, offered: "sluicegate:policy/host#log", help })
    };
    match (interface(name), import) {
        (Some(("types", _)), _) => Ok(()),
        (Some(("host", _)), ComponentItem::ComponentInstance(host)) => {
            let other = host.exports(engine).find(|(function, _)| *function != "log");
            other.map_or(Ok(()), |(function, _)| foreign(format!("{HOST}#{function}")))
        }
        _ => foreign(name.into()),
    }
}

/// Versions below 1.0 fit if major and minor are the same.
fn check_version(name: &str) -> Result<(), PolicyRejected> {
    let line = |version: &str| version.rsplit_once('.').map(|(line, _patch)| line.to_owned());
    match interface(name) {
        Some((_, version)) if line(version) != line(VERSION) => {
            Err(PolicyRejected::OtherVersion { theirs: format!("{PACKAGE}*@{version}"), ours: ours() })
        }
        _ => Ok(()),
    }
}

/// Interface and version, if it is one of the contract's.
fn interface(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

fn ours() -> String {
    format!("{PACKAGE}*@{VERSION}")
}

fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
