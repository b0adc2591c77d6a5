//! Small uploads that are large to compile, to parse or to instantiate.

use anyhow::Result;
use sluicegate_tests::component::{with_instances, with_module, with_nested};
use wasm_encoder::{
    CodeSection, ConstExpr, Function, FunctionSection, GlobalSection, GlobalType, Instruction, MemorySection,
    MemoryType, Module, RefType, StartSection, TableSection, TableType, TypeSection, ValType,
};

/// A name, and the component.
pub(crate) type Bomb = (&'static str, Vec<u8>);

/// All of them, each a policy that is one but for what was put beside it.
pub(crate) fn all(policy: &[u8]) -> Result<Vec<Bomb>> {
    Ok(vec![
        ("five thousand functions", with_module(policy, &functions(5_000, |_| {}))),
        ("fifty thousand locals, 200 times", with_module(policy, &locals(200))),
        ("a function of 700 kB", with_module(policy, &one_long_function(70_000))),
        ("a function whose every value lives", with_module(policy, &web(600, 300))),
        ("forty thousand blocks in each other", with_module(policy, &nested_blocks(40_000))),
        ("components 2,000 deep", with_nested(policy, 2_000)),
        ("a memory of 4 GiB", with_instances(policy, &memories(1, 65_536), 1)?),
        ("a table of ten million", with_instances(policy, &table(10_000_000), 1)?),
        ("forty instances", with_instances(policy, &memories(1, 1), 40)?),
        (
            "a start function that loops",
            with_instances(policy, &start(&[Instruction::Loop(EMPTY), Instruction::Br(0), Instruction::End]), 1)?,
        ),
        ("a start function that recurses", with_instances(policy, &start(&[Instruction::Call(0)]), 1)?),
    ])
}

const EMPTY: wasm_encoder::BlockType = wasm_encoder::BlockType::Empty;

fn module_of(bodies: impl Iterator<Item = Function>) -> Module {
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    for body in bodies {
        functions.function(0);
        code.function(&body);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    module
}

fn functions(count: u32, write: impl Fn(&mut Function)) -> Vec<u8> {
    let body = |_| {
        let mut body = Function::new([]);
        write(&mut body);
        body.instruction(&Instruction::End);
        body
    };
    module_of((0..count).map(body)).finish()
}

/// Each in four bytes.
fn locals(functions: u32) -> Vec<u8> {
    let body = |_| {
        let mut body = Function::new([(50_000, ValType::I64)]);
        body.instruction(&Instruction::End);
        body
    };
    module_of((0..functions).map(body)).finish()
}

fn one_long_function(steps: u32) -> Vec<u8> {
    functions(1, |body| {
        for _ in 0..steps {
            let step = [
                Instruction::I64Const(7),
                Instruction::I64Const(9),
                Instruction::I64Mul,
                Instruction::I64Clz,
                Instruction::Drop,
            ];
            for instruction in &step {
                body.instruction(instruction);
            }
        }
    })
}

/// So many locals, all alive over so many loops: what the compiler keeps of it is the product.
fn web(locals: u32, loops: u32) -> Vec<u8> {
    let mut body = Function::new([(locals, ValType::I32)]);
    for _ in 0..loops {
        body.instruction(&Instruction::Loop(EMPTY));
        for local in 0..locals {
            let next = (local + 1) % locals;
            body.instruction(&Instruction::LocalGet(next));
            body.instruction(&Instruction::LocalTee(local));
            body.instruction(&Instruction::BrIf(0));
            if local >= loops.min(8) {
                break;
            }
        }
    }
    for _ in 0..loops {
        body.instruction(&Instruction::End);
    }
    body.instruction(&Instruction::End);
    module_of([body].into_iter()).finish()
}

fn nested_blocks(depth: u32) -> Vec<u8> {
    functions(1, |body| {
        for _ in 0..depth {
            body.instruction(&Instruction::Block(EMPTY));
        }
        for _ in 0..depth {
            body.instruction(&Instruction::End);
        }
    })
}

fn memories(count: u32, pages: u64) -> Vec<u8> {
    let mut section = MemorySection::new();
    for _ in 0..count {
        section.memory(MemoryType {
            minimum: pages,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
    }
    let mut module = Module::new();
    module.section(&section);
    module.finish()
}

fn table(elements: u64) -> Vec<u8> {
    let mut section = TableSection::new();
    section.table(TableType {
        element_type: RefType::FUNCREF,
        minimum: elements,
        maximum: None,
        table64: false,
        shared: false,
    });
    let mut module = Module::new();
    module.section(&section);
    module.finish()
}

/// A module that runs this when it is instantiated, as its function 0.
fn start(instructions: &[Instruction<'_>]) -> Vec<u8> {
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    let mut globals = GlobalSection::new();
    types.ty().function([], []);
    functions.function(0);
    // So that the function is not without effect.
    globals.global(GlobalType { val_type: ValType::I32, mutable: true, shared: false }, &ConstExpr::i32_const(0));
    let mut body = Function::new([]);
    for instruction in [Instruction::GlobalGet(0), Instruction::GlobalSet(0)].iter().chain(instructions) {
        body.instruction(instruction);
    }
    body.instruction(&Instruction::End);
    code.function(&body);
    let mut module = Module::new();
    module
        .section(&types)
        .section(&functions)
        .section(&globals)
        .section(&StartSection { function_index: 0 })
        .section(&code);
    module.finish()
}
