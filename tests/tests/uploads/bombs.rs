//! Small components that make a compiler work, each in a way of its own.

use wasm_encoder::{
    BlockType, CodeSection, Component, FunctionSection, InstanceSection, MemorySection, MemoryType, Module, ModuleArg,
    ModuleSection, TypeSection, ValType,
};

/// Bytes of a component that a broker takes.
const BYTES_MAX: usize = 1 << 20;

/// A component around one module of which there is one instance.
pub(crate) fn component(module: &Module) -> Vec<u8> {
    let mut component = Component::new();
    component.section(&ModuleSection(module));
    let mut instances = InstanceSection::new();
    instances.instantiate(0, std::iter::empty::<(&str, ModuleArg)>());
    component.section(&instances);
    let bytes = component.finish();
    assert!(bytes.len() <= BYTES_MAX, "{} bytes", bytes.len());
    bytes
}

/// A module with these functions, each without parameters and results.
fn module(functions: impl IntoIterator<Item = wasm_encoder::Function>) -> Module {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let (mut declared, mut code) = (FunctionSection::new(), CodeSection::new());
    for function in functions {
        declared.function(0);
        code.function(&function);
    }
    let mut module = Module::new();
    module.section(&types).section(&declared).section(&code);
    module
}

/// So many functions with so many locals each: every local is a value that the compiler keeps, and takes two bytes in all.
pub(crate) fn locals(functions: u32, locals: u32) -> Vec<u8> {
    let function = |_| {
        let mut function = wasm_encoder::Function::new([(locals, ValType::I64)]);
        function.instructions().end();
        function
    };
    component(&module((0..functions).map(function)))
}

/// One function of loops in loops, where each local changes in the innermost: in each loop, each local is a value of its own.
pub(crate) fn loops(depth: u32, locals: u32) -> Vec<u8> {
    let mut function = wasm_encoder::Function::new([(locals, ValType::I64)]);
    let mut code = function.instructions();
    for _ in 0..depth {
        code.loop_(BlockType::Empty);
    }
    for local in 0..locals {
        code.local_get(local).i64_const(1).i64_add().local_set(local);
    }
    for _ in 0..depth {
        code.i32_const(1).br_if(0).end();
    }
    code.end();
    component(&module([function]))
}

/// One function of blocks in blocks.
pub(crate) fn blocks(depth: u32) -> Vec<u8> {
    let mut function = wasm_encoder::Function::new([]);
    let mut code = function.instructions();
    for _ in 0..depth {
        code.block(BlockType::Empty);
    }
    for _ in 0..=depth {
        code.end();
    }
    component(&module([function]))
}

/// One function of jump tables, whose targets are the same few blocks.
pub(crate) fn tables(tables: u32, targets: u32) -> Vec<u8> {
    let mut function = wasm_encoder::Function::new([(1, ValType::I32)]);
    let mut code = function.instructions();
    for _ in 0..tables {
        code.block(BlockType::Empty).block(BlockType::Empty);
        code.local_get(0).br_table((0..targets).map(|n| n % 2), 0);
        code.end().end();
    }
    code.end();
    component(&module([function]))
}

/// Functions that do nothing.
pub(crate) fn functions(functions: u32) -> Vec<u8> {
    let function = |_| {
        let mut function = wasm_encoder::Function::new([]);
        function.instructions().end();
        function
    };
    component(&module((0..functions).map(function)))
}

/// One function that adds and adds.
pub(crate) fn sums(terms: u32) -> Vec<u8> {
    let mut function = wasm_encoder::Function::new([(64, ValType::I64)]);
    let mut code = function.instructions();
    for term in 0..terms {
        code.local_get(term % 64).local_get((term + 7) % 64).i64_mul().local_set((term + 13) % 64);
    }
    code.end();
    component(&module([function]))
}

/// Types of functions, none of them used.
pub(crate) fn types(types: u32) -> Vec<u8> {
    let mut section = TypeSection::new();
    for n in 0..types {
        section.ty().function((0..n % 8).map(|_| ValType::I64), []);
    }
    let mut module = Module::new();
    module.section(&section);
    component(&module)
}

/// A module with a memory of one page, twice.
pub(crate) fn two_memories() -> Vec<u8> {
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut module = Module::new();
    module.section(&memories);
    let mut component = Component::new();
    component.section(&ModuleSection(&module));
    let mut instances = InstanceSection::new();
    for _ in 0..2 {
        instances.instantiate(0, std::iter::empty::<(&str, ModuleArg)>());
    }
    component.section(&instances);
    component.finish()
}
