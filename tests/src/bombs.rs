//! Small Wasm modules that are large to parse, to compile or to instantiate, each in a way of its own.

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, Function, FunctionSection, GlobalSection, GlobalType, Instruction,
    MemorySection, MemoryType, Module, RefType, StartSection, TableSection, TableType, TypeSection, ValType,
};

/// Functions that do nothing.
pub fn functions(functions: u32) -> Vec<u8> {
    module((0..functions).map(|_| ended(Function::new([]))))
}

/// So many functions with so many locals each: every local is a value that the compiler keeps, and takes no byte of its own.
pub fn locals(functions: u32, locals: u32) -> Vec<u8> {
    module((0..functions).map(|_| ended(Function::new([(locals, ValType::I64)]))))
}

/// One function of loops in loops, where each local changes in the innermost: in each loop, each local is a value of its own.
pub fn loops(depth: u32, locals: u32) -> Vec<u8> {
    let mut function = Function::new([(locals, ValType::I64)]);
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
    module([ended(function)])
}

/// One function of blocks in blocks.
pub fn blocks(depth: u32) -> Vec<u8> {
    let mut function = Function::new([]);
    let mut code = function.instructions();
    for _ in 0..depth {
        code.block(BlockType::Empty);
    }
    for _ in 0..depth {
        code.end();
    }
    module([ended(function)])
}

/// One function of jump tables, whose targets are the same few blocks.
pub fn jump_tables(tables: u32, targets: u32) -> Vec<u8> {
    let mut function = Function::new([(1, ValType::I32)]);
    let mut code = function.instructions();
    for _ in 0..tables {
        code.block(BlockType::Empty).block(BlockType::Empty);
        code.local_get(0).br_table((0..targets).map(|n| n % 2), 0);
        code.end().end();
    }
    module([ended(function)])
}

/// One function that multiplies and multiplies.
pub fn products(terms: u32) -> Vec<u8> {
    let mut function = Function::new([(64, ValType::I64)]);
    let mut code = function.instructions();
    for term in 0..terms {
        code.local_get(term % 64).local_get((term + 7) % 64).i64_mul().local_set((term + 13) % 64);
    }
    module([ended(function)])
}

/// Types of functions, none of them used.
pub fn types(types: u32) -> Vec<u8> {
    let mut section = TypeSection::new();
    for n in 0..types {
        section.ty().function((0..n % 8).map(|_| ValType::I64), []);
    }
    let mut module = Module::new();
    module.section(&section);
    module.finish()
}

/// A memory of so many pages of 64 KiB.
pub fn memory(pages: u64) -> Vec<u8> {
    let mut section = MemorySection::new();
    section.memory(MemoryType { minimum: pages, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut module = Module::new();
    module.section(&section);
    module.finish()
}

/// A table of so many elements.
pub fn table(elements: u64) -> Vec<u8> {
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
pub fn start(instructions: &[Instruction<'_>]) -> Vec<u8> {
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
    code.function(&ended(body));
    let mut module = Module::new();
    module
        .section(&types)
        .section(&functions)
        .section(&globals)
        .section(&StartSection { function_index: 0 })
        .section(&code);
    module.finish()
}

fn ended(mut function: Function) -> Function {
    function.instructions().end();
    function
}

/// A module with these functions, each without parameters and results.
fn module(bodies: impl IntoIterator<Item = Function>) -> Vec<u8> {
    let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    for body in bodies {
        functions.function(0);
        code.function(&body);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    module.finish()
}
