//! Finds libclang where RocksDB's build looks for it, and the headers that it needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::output;
use crate::setup::entries;

/// A libclang library, if there is one: in `LIBCLANG_PATH` when that is set, else where the system keeps them.
pub(crate) fn library() -> Option<PathBuf> {
    match std::env::var_os("LIBCLANG_PATH") {
        Some(path) if !path.is_empty() => {
            let path = PathBuf::from(path);
            if path.is_dir() { library_in(&path) } else { Some(path).filter(|path| is_libclang(path) && path.exists()) }
        }
        _ => from_ldconfig().or_else(|| library_dirs().iter().find_map(|dir| library_in(dir))),
    }
}

/// clang's `stddef.h`, if it is there or the user has told bindgen where headers are.
pub(crate) fn headers() -> Option<PathBuf> {
    if let Some(args) = std::env::var_os("BINDGEN_EXTRA_CLANG_ARGS").filter(|args| !args.is_empty()) {
        return Some(args.into());
    }
    // `…/lib/libclang.so` has its headers in `…/lib/clang/<version>/include`.
    let beside = library().and_then(|library| library.parent().map(Path::to_path_buf));
    let dirs = beside.into_iter().chain(library_dirs());
    dirs.flat_map(|dir| entries(dir.join("clang")))
        .map(|version| version.join("include/stddef.h"))
        .find(|header| header.exists())
}

fn is_libclang(path: &Path) -> bool {
    let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    let is_clang = name.starts_with("libclang.") || name.starts_with("libclang-");
    let is_shared = name.contains(".so") || name.contains(".dylib");
    // libclang-cpp is the C++ interface, which bindgen cannot use.
    is_clang && is_shared && !name.starts_with("libclang-cpp")
}

fn library_in(dir: &Path) -> Option<PathBuf> {
    entries(dir).into_iter().find(|path| is_libclang(path))
}

fn from_ldconfig() -> Option<PathBuf> {
    let listed =
        ["ldconfig", "/sbin/ldconfig"].iter().find_map(|ldconfig| output(Command::new(ldconfig).arg("-p")).ok())?;
    listed
        .lines()
        .filter_map(|line| line.split(" => ").nth(1))
        .map(|path| PathBuf::from(path.trim()))
        .find(|path| is_libclang(path) && path.exists())
}

fn library_dirs() -> Vec<PathBuf> {
    let llvm = ["/usr/lib", "/usr/lib64", "/usr/local", "/opt"]
        .into_iter()
        .flat_map(entries)
        .filter(|dir| dir.file_name().and_then(std::ffi::OsStr::to_str).is_some_and(|name| name.starts_with("llvm")));
    let by_version = llvm.flat_map(|dir| [dir.join("lib"), dir.join("lib64")]);
    let multiarch = entries("/usr/lib").into_iter().filter(|dir| dir.to_string_lossy().ends_with("-linux-gnu"));
    let fixed = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/opt/homebrew/opt/llvm/lib",
        "/usr/local/opt/llvm/lib",
        "/Library/Developer/CommandLineTools/usr/lib",
        "/Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib",
    ];
    by_version.chain(multiarch).chain(fixed.into_iter().map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shared_c_library_counts_as_libclang() {
        for name in ["libclang.so", "libclang-14.so.1", "libclang.so.18.1", "libclang.dylib", "libclang-14.0.6.so"] {
            assert!(is_libclang(Path::new(name)), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclangBasic.a", "libclang.a", "libLLVM-14.so"] {
            assert!(!is_libclang(Path::new(name)), "{name}");
        }
    }
}
