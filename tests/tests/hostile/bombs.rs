//! Small uploads that are large to compile, to parse or to instantiate.

use anyhow::Result;
use sluicegate_tests::bombs;
use sluicegate_tests::component::{with_instances, with_module, with_nested};
use wasm_encoder::{BlockType, Instruction};

/// A name, the component, and whether a broker may take it.
pub(crate) type Bomb = (&'static str, Vec<u8>, Fate);

/// What has to become of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Refused,
    /// It is within all limits where the machine is fast.
    Either,
}

/// All of them, each a policy that is one but for what was put beside it.
pub(crate) fn all(policy: &[u8]) -> Result<Vec<Bomb>> {
    use Fate::{Either, Refused};
    let compiled = [
        ("five thousand functions", bombs::functions(5_000), Either),
        ("200,000 functions", bombs::functions(200_000), Refused),
        ("fifty thousand locals, 200 times", bombs::locals(200, 50_000), Either),
        ("fifty thousand locals, 10,000 times", bombs::locals(10_000, 50_000), Refused),
        ("20,000 loops, each with 20,000 values", bombs::loops(20_000, 20_000), Refused),
        ("250,000 blocks in each other", bombs::blocks(250_000), Either),
        ("eighty jump tables of 10,000", bombs::jump_tables(80, 10_000), Either),
        ("100,000 products", bombs::products(100_000), Either),
        ("120,000 types", bombs::types(120_000), Either),
    ];
    let endless = [Instruction::Loop(BlockType::Empty), Instruction::Br(0), Instruction::End];
    let instantiated = [
        ("a memory of 4 GiB", bombs::memory(65_536), 1),
        ("a table of ten million", bombs::table(10_000_000), 1),
        ("forty instances", bombs::memory(1), 40),
        ("a start function that loops", bombs::start(&endless), 1),
        ("a start function that recurses", bombs::start(&[Instruction::Call(0)]), 1),
    ];
    let mut all: Vec<Bomb> =
        compiled.into_iter().map(|(name, module, fate)| (name, with_module(policy, &module), fate)).collect();
    all.push(("components 2,000 deep", with_nested(policy, 2_000), Either));
    for (name, module, instances) in instantiated {
        all.push((name, with_instances(policy, &module, instances)?, Refused));
    }
    Ok(all)
}
