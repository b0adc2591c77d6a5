//! From a policy's crate to the component that a broker takes: stock Rust, then componentised here. Another language's own tools
//! make the module, which is then componentised alike.
//!
//! A policy is built for `wasm32-unknown-unknown`, where the standard library asks its host for nothing, so the
//! component imports `host.log` alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use wit_component::{ComponentEncoder, DecodedWasm};

const TARGET: &str = "wasm32-unknown-unknown";

/// What a component of a policy may import, in any version: the broker says more exactly which it takes.
const OWN_PACKAGE: &str = "sluicegate:policy/";

/// Fast, without debug information but with the names of functions, which a trap's report needs.
const PROFILE: [&str; 8] = [
    "opt-level=3",
    "lto=true",
    "codegen-units=1",
    r#"panic="abort""#,
    "debug=false",
    r#"strip="debuginfo""#,
    "incremental=false",
    "overflow-checks=true",
];

/// Where a crate's artefacts go if cargo would put them into its folder: below the user's cache, the same for all policies, so that the SDK is
/// compiled once.
const CACHE: &str = "sluicegate/policy-build";

/// A policy that was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// Where the component is.
    pub(crate) path: PathBuf,
    /// The component.
    pub(crate) component: Vec<u8>,
    /// The interfaces that it imports.
    pub(crate) imports: Vec<String>,
    /// Version of the contract that it was built for.
    pub(crate) contract: String,
}

/// Builds the policy whose crate is in `source` and writes the component to `out`, by default `NAME.wasm` in `source`. If
/// `source` is a file, it is a core module that another compiler made, and `out` must be given.
///
/// Compiler messages go to standard error as they come. Artefacts go where cargo puts them (`CARGO_TARGET_DIR`), but not into `source`.
/// The component does not depend on where the crate, cargo's home and the toolchain are.
///
/// # Errors
/// The crate or the target is not there, the crate does not compile or is no policy, the file cannot be written.
pub(crate) fn build(source: &Path, out: Option<&Path>) -> anyhow::Result<Built> {
    let is_module = source.is_file();
    ensure!(!is_module || out.is_some(), "{} is a module: say where the component goes, --out FILE", source.display());
    let core = if is_module { source.to_path_buf() } else { compile_crate(source)? };
    let core_wasm = std::fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?;
    let component = componentize(&core_wasm)?;
    let imports = imports(&component)?;
    let foreign: Vec<_> = imports.iter().filter(|import| !import.starts_with(OWN_PACKAGE)).cloned().collect();
    ensure!(foreign.is_empty(), "the policy imports {}, a broker offers `host.log` only", foreign.join(", "));
    let contract =
        exports(&component)?.iter().find_map(|name| name.split_once('@').map(|(_, version)| version.to_owned()));
    let path = out.map_or_else(|| source.join(component_name(&core)), Path::to_path_buf);
    std::fs::write(&path, &component).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Built { path, component, imports, contract: contract.context("its exports have no version")? })
}

fn compile_crate(dir: &Path) -> anyhow::Result<PathBuf> {
    let manifest = dir.join("Cargo.toml");
    ensure!(manifest.is_file(), "{} is not there: name the folder of the policy's crate", manifest.display());
    check_target(dir)?;
    compile(dir)
}

/// Wraps a core module as a component: one that was built with `sluicegate-plugin-sdk`, or with bindings that were made
/// from `wit/policy.wit` for another language.
///
/// # Errors
/// The module exports no policy, or imports something else.
pub(crate) fn componentize(core_wasm: &[u8]) -> anyhow::Result<Vec<u8>> {
    let encode = || ComponentEncoder::default().validate(true).module(core_wasm)?.encode();
    let component =
        encode().context("not a policy: does the crate say `export_policy!`, and use nothing of the host?")?;
    // Without a world in its custom section, a module becomes a component that exports nothing.
    ensure!(
        exports(&component)?.iter().any(|name| name.starts_with(OWN_PACKAGE)),
        "the crate exports no policy: implement `Policy` and say `export_policy!(YourPolicy);`; in another language, link \
         the bindings made from wit/policy.wit"
    );
    Ok(component)
}

fn check_target(dir: &Path) -> anyhow::Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(dir).args(["--print", "target-libdir", "--target", TARGET]);
    let printed = rustc.output().context("cannot run rustc: is Rust installed? See https://rustup.rs")?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim());
    ensure!(libraries.is_dir(), "the Rust target {TARGET} is not installed: run `rustup target add {TARGET}`");
    Ok(())
}

/// One line of cargo's `--message-format=json`.
#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Compiles the crate as a core module and says where that is.
fn compile(dir: &Path) -> anyhow::Result<PathBuf> {
    let place = Place::of(dir)?;
    let mut cargo = Command::new("cargo");
    cargo.current_dir(dir).stderr(Stdio::inherit());
    // `--crate-type` keeps link-time optimisation, which cargo leaves out for a crate that is also an rlib.
    cargo.args(["rustc", "--lib", "--crate-type", "cdylib", "--release", "--target", TARGET]);
    cargo.arg("--message-format=json-render-diagnostics").arg("--target-dir").arg(&place.target_directory);
    for setting in PROFILE {
        cargo.args(["--config", &format!("profile.release.{setting}")]);
    }
    hide_paths(&mut cargo, dir, &place)?;
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo could not build the policy in {}", dir.display());
    let manifest = dir.join("Cargo.toml").canonicalize()?;
    let messages = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let own = |message: &CargoMessage| {
        message.reason == "compiler-artifact" && message.manifest_path.canonicalize().is_ok_and(|path| path == manifest)
    };
    let mut files = messages.filter(own).flat_map(|message| message.filenames);
    match files.find(|file| file.extension().is_some_and(|extension| extension == "wasm")) {
        Some(file) => Ok(file),
        None => bail!("cargo built no Wasm module in {}: a policy's crate is a library (src/lib.rs)", dir.display()),
    }
}

/// What `cargo metadata` says of a crate.
#[derive(Deserialize)]
struct Place {
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

impl Place {
    fn of(dir: &Path) -> anyhow::Result<Self> {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(dir).args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = cargo.output().context("cannot run cargo: is Rust installed? See https://rustup.rs")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let mut place: Self = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
        if place.target_directory.starts_with(dir.canonicalize()?) {
            place.target_directory = cache();
        }
        Ok(place)
    }
}

/// `$XDG_CACHE_HOME`, else `~/.cache`, else where temporary files go.
pub(super) fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE")).map(|home| home.join(".cache"));
    set("XDG_CACHE_HOME").or_else(home).unwrap_or_else(std::env::temp_dir).join(CACHE)
}

/// Has the compiler write no path of this machine into the component, so that its digest is the same wherever it is built.
fn hide_paths(cargo: &mut Command, dir: &Path, place: &Place) -> anyhow::Result<()> {
    let printed = |arguments: &[&str]| {
        let output = Command::new("rustc").current_dir(dir).args(arguments).output().context("cannot run rustc")?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sources = PathBuf::from(printed(&["--print", "sysroot"])?.trim()).join("lib/rustlib/src/rust");
    let version = printed(&["-vV"])?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut hidden = vec![(place.workspace_root.clone(), "/policy".to_owned()), (sources, format!("/rustc/{commit}"))];
    hidden.extend(home.map(|home| (home, "/cargo".to_owned())));
    let flags: Vec<String> =
        hidden.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())).collect();
    // Flags in the environment take the place of all those in configuration files, so ours join them where there are some.
    let separated = |name, separator: char| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(text.split(separator).filter(|flag| !flag.is_empty()).map(str::to_owned).collect::<Vec<_>>())
    };
    if let Some(set) = separated("CARGO_ENCODED_RUSTFLAGS", '\x1f').or_else(|| separated("RUSTFLAGS", ' ')) {
        cargo.env("CARGO_ENCODED_RUSTFLAGS", [set, flags].concat().join("\x1f"));
    } else {
        let flags = serde_json::to_string(&flags)?;
        cargo.arg("--config").arg(format!("target.{TARGET}.rustflags={flags}"));
    }
    Ok(())
}

/// `my_policy.wasm` -> `my-policy.wasm`
fn component_name(core: &Path) -> String {
    let stem = core.file_stem().unwrap_or_default().to_string_lossy();
    format!("{}.wasm", stem.replace('_', "-"))
}

fn imports(component: &[u8]) -> anyhow::Result<Vec<String>> {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        bail!("not a component");
    };
    Ok(resolve.worlds[world].imports.keys().map(|key| resolve.name_world_key(key)).collect())
}

fn exports(component: &[u8]) -> anyhow::Result<Vec<String>> {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component)? else {
        bail!("not a component");
    };
    Ok(resolve.worlds[world].exports.keys().map(|key| resolve.name_world_key(key)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module without functions, as `wat` would write `(module)`.
    const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn a_module_without_a_policy_is_refused_with_the_fix() {
        let error = componentize(EMPTY_MODULE).unwrap_err().to_string();
        assert!(error.contains("export_policy!"), "{error}");
        assert!(componentize(b"nonsense").is_err());
    }

    #[test]
    fn a_folder_without_a_crate_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        let error = build(empty.path(), None).unwrap_err().to_string();
        assert!(error.contains("Cargo.toml is not there"), "{error}");
    }

    #[test]
    fn a_module_is_not_written_over_by_its_component() {
        let directory = tempfile::tempdir().unwrap();
        let module = directory.path().join("policy.wasm");
        std::fs::write(&module, EMPTY_MODULE).unwrap();
        assert!(build(&module, None).unwrap_err().to_string().contains("--out FILE"));
        let error = build(&module, Some(&directory.path().join("component.wasm"))).unwrap_err().to_string();
        assert!(error.contains("link the bindings"), "{error}");
    }

    #[test]
    fn the_token_bucket_builds_and_imports_nothing_but_its_own_contract() {
        let out = tempfile::tempdir().unwrap();
        let dir = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../plugins/token-bucket");
        let built = build(&dir, Some(&out.path().join("policy.wasm"))).unwrap();
        assert_eq!(built.component, std::fs::read(&built.path).unwrap());
        assert_eq!(built.contract, "0.1.0");
        assert!(built.imports.iter().all(|import| import.starts_with("sluicegate:policy/")), "{:?}", built.imports);
    }
}
