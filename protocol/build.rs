//! Generates the protobuf headers with protox, so that no `protoc` has to be installed.

#[cfg(not(feature = "wire"))]
fn main() {}

#[cfg(feature = "wire")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["sluicegate/v1/wire.proto"], ["proto"])?;
    prost_build::Config::new()
        // Ordered maps make frames and snapshots deterministic.
        .btree_map(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
