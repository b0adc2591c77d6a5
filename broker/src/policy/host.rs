//! From uploaded bytes to a policy that can be started.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use sluicegate_protocol::limits::POLICY_BYTES_MAX;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, ResourcesRequired};

use super::alarm::Alarms;
use super::cache::CodeCache;
use super::compiled::{CompiledPolicy, Descriptor};
use super::compiler::{PolicyCompiler, WorkFailed};
use super::engine::{compatibility, engine};
use super::fault::{ConfigRefused, PolicyRejected};
use super::guest::{Guest, GuestLog};
use super::limits::{Budget, MEMORIES_MAX, TABLES_MAX};
use super::program::Program;
use super::schema::{ConfigProblem, Pair};
use super::threads::PolicyThreads;
use super::ticker::Ticker;
use super::wit::{Policy, PolicyPre};
use super::worker::Job;
use super::{raw, world};

/// Policies whose code is kept at hand, whoever uses it: what groups go by stays beside.
const KEPT_MAX: usize = 16;

/// Makes policies of bytes. One per process: it has the engine, the thread that makes guests' time pass, the policy threads, and the code.
pub(crate) struct PolicyHost {
    engine: Engine,
    linker: Linker<Guest>,
    ticker: Arc<Ticker>,
    alarms: Alarms,
    compiler: PolicyCompiler,
    /// None where there is no place for one.
    cache: Option<CodeCache>,
    /// Used lately, newest last, each digest once.
    kept: Mutex<VecDeque<Arc<CompiledPolicy>>>,
    threads: PolicyThreads,
}

/// Why no policy can run at all.
#[derive(Debug, thiserror::Error)]
#[error("policies cannot run here: {0}")]
pub struct NoPolicyHost(String);

impl PolicyHost {
    /// With a directory to keep code in from one process to the next.
    ///
    /// # Errors
    /// The machine cannot run compiled Wasm, or has no thread left.
    pub(crate) fn new(compiler: PolicyCompiler, data_dir: Option<&Path>) -> Result<Arc<Self>, NoPolicyHost> {
        let engine = engine().map_err(|error| NoPolicyHost(format!("{error:#}")))?;
        let mut linker = Linker::new(&engine);
        Policy::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)
            .map_err(|error| NoPolicyHost(format!("{error:#}")))?;
        let ticker = Ticker::start(engine.clone()).map_err(|error| NoPolicyHost(error.to_string()))?;
        let threads = PolicyThreads::start().map_err(|error| NoPolicyHost(error.to_string()))?;
        let cache = data_dir.and_then(|dir| {
            let without =
                |error: std::io::Error| tracing::warn!(%error, "code of policies is not kept, each start compiles it");
            CodeCache::open(dir, compatibility(&engine)).map_err(without).ok()
        });
        let (ticker, alarms, kept) = (Arc::new(ticker), Alarms::default(), Mutex::default());
        Ok(Arc::new(Self { engine, linker, ticker, alarms, compiler, cache, kept, threads }))
    }

    /// Where policies are told that may decide no more.
    pub(crate) fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// A policy that was taken before, if its code is at hand or in the cache. Takes a millisecond.
    pub(crate) async fn known(self: &Arc<Self>, digest: &str) -> Option<Arc<CompiledPolicy>> {
        if let Some(kept) = self.kept(digest) {
            return Some(kept);
        }
        let (host, digest) = (Arc::clone(self), digest.to_owned());
        let loaded = tokio::task::spawn_blocking(move || {
            let code = host.cache.as_ref()?.get(&digest)?;
            // Another version of the broker may be stricter.
            let refused = |error: PolicyRejected| tracing::warn!(policy = digest, %error, "cached code is not used");
            host.assemble(&digest, &code).map_err(refused).ok()
        });
        Some(self.keep(loaded.await.ok()??))
    }

    /// Checks and compiles an uploaded policy, and has it describe itself. Takes a tenth of a second and more, of another process. When
    /// this is dropped, that is killed.
    ///
    /// # Errors
    /// [`PolicyRejected`] says what the bytes are instead, and what would help.
    pub(crate) async fn compile(self: &Arc<Self>, wasm: &[u8]) -> Result<Arc<CompiledPolicy>, PolicyRejected> {
        check_bytes(wasm)?;
        let digest = digest(wasm);
        let code = self.compiler.run(Job::Compile, wasm).await.map_err(PolicyRejected::DoesNotCompile)?;
        let host = Arc::clone(self);
        let assembled = tokio::task::spawn_blocking(move || (host.assemble(&digest, &code), digest, code)).await;
        // It panics for nothing that a component can be, and a runtime that ends has no use for the answer.
        let (compiled, digest, code) = assembled.map_err(|error| PolicyRejected::no_worker(&error))?;
        let compiled = compiled?;
        let schema = &compiled.descriptor.config_schema;
        if !schema.is_empty() {
            let checked = self.compiler.run(Job::CheckSchema, schema.as_bytes()).await;
            checked.map_err(PolicyRejected::BadSchema)?;
        }
        if let Some(cache) = &self.cache
            && let Err(error) = cache.put(&digest, &code)
        {
            tracing::warn!(policy = digest, %error, "compiled code is not kept");
        }
        Ok(self.keep(compiled))
    }

    /// Holds a configuration against its policy's schema. An empty one means the policy's defaults, and whatever a policy without a schema
    /// is given, itself checks.
    ///
    /// # Errors
    /// [`ConfigRefused`] names the place and the rule.
    pub(crate) async fn check_config(&self, policy: &CompiledPolicy, config: &str) -> Result<(), ConfigRefused> {
        let schema = &policy.descriptor.config_schema;
        if schema.is_empty() || config.is_empty() {
            return Ok(());
        }
        let pair = Pair { schema: schema.into(), config: config.into() };
        let pair = serde_json::to_vec(&pair).expect("it is plain text");
        let answer = self.compiler.run(Job::CheckConfig, &pair).await.map_err(ConfigRefused::Unchecked)?;
        let problems: Vec<ConfigProblem> = serde_json::from_slice(&answer)
            .map_err(|error| ConfigRefused::Unchecked(WorkFailed::NoWorker(error.to_string())))?;
        let mut problems = problems.into_iter();
        match problems.next() {
            Some(first) => Err(ConfigRefused::Problems(first, problems.collect())),
            None => Ok(()),
        }
    }

    /// Code to a policy: what it is, then what it says of itself.
    fn assemble(&self, digest: &str, code: &[u8]) -> Result<Arc<CompiledPolicy>, PolicyRejected> {
        let damaged = |error: wasmtime::Error| PolicyRejected::no_worker(&world::one_line(&error));
        let component = raw::runnable(&self.engine, code).map_err(damaged)?;
        check_parts(&component)?;
        let contract = world::check(&component.component_type(), &self.engine)?;
        let linked = self.linker.instantiate_pre(&component).and_then(PolicyPre::new);
        let linked = linked.map_err(|error| world::other_types(&error))?;
        let program = Program { engine: self.engine.clone(), ticker: Arc::clone(&self.ticker), linked };
        let mut running = program.start(GuestLog::default())?;
        let descriptor =
            running.call(Budget::RARE, |policy, store| policy.sluicegate_policy_lifecycle().call_describe(store))?;
        let descriptor = Descriptor::parse(descriptor).map_err(PolicyRejected::BadDescriptor)?;
        let (digest, code_bytes) = (digest.to_owned(), code.len());
        let (alarms, threads) = (self.alarms.clone(), self.threads.clone());
        Ok(Arc::new(CompiledPolicy { program, digest, contract, code_bytes, descriptor, alarms, threads }))
    }

    fn kept(&self, digest: &str) -> Option<Arc<CompiledPolicy>> {
        touch(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner), digest)
    }

    /// Answers what is kept already of this digest, so that there is one of each.
    fn keep(&self, compiled: Arc<CompiledPolicy>) -> Arc<CompiledPolicy> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = touch(&mut kept, &compiled.digest) {
            return kept;
        }
        kept.push_back(Arc::clone(&compiled));
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        compiled
    }
}

/// The policy with this digest, which from now on was used last.
fn touch(kept: &mut VecDeque<Arc<CompiledPolicy>>, digest: &str) -> Option<Arc<CompiledPolicy>> {
    let at = kept.iter().position(|kept| kept.digest == digest)?;
    let found = kept.remove(at)?;
    kept.push_back(Arc::clone(&found));
    Some(found)
}

/// Does what others would wait for by themselves, for the start of a broker, and for what runs outside of one. In a thread and a runtime of
/// its own: the caller's thread may be a runtime's, and must not wait there for another task.
///
/// # Errors
/// The system has no thread, or no file descriptor, for it.
pub(crate) fn wait<T: Send>(future: impl Future<Output = T> + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let waiting = std::thread::Builder::new().spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(future))
        });
        waiting?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What names a policy: the SHA-256 of its component, 64 hexadecimal digits.
pub(crate) fn digest(wasm: &[u8]) -> String {
    format!("{:x}", Sha256::digest(wasm))
}

/// The little that is looked at before a worker has parsed the bytes.
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

/// So many memories and tables that an instance would be refused them.
fn check_parts(component: &Component) -> Result<(), PolicyRejected> {
    let Some(ResourcesRequired { num_memories, num_tables, .. }) = component.resources_required() else {
        return Err(PolicyRejected::TooManyParts { what: "modules that it imports".into(), max: 0 });
    };
    let parts = [(num_memories, "memories", MEMORIES_MAX), (num_tables, "tables", TABLES_MAX)];
    match parts.into_iter().find(|(number, _, max)| *number as usize > *max) {
        Some((number, what, max)) => Err(PolicyRejected::TooManyParts { what: format!("{number} {what}"), max }),
        None => Ok(()),
    }
}
