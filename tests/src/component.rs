//! Components as bytes: policies that are changed without their source, to be what no compiler makes.

use anyhow::{Context, Result, ensure};

const HEADER_BYTES: usize = 8;
const CORE_MODULE: u8 = 1;
const CORE_INSTANCE: u8 = 2;
const COMPONENT: u8 = 4;

/// A component that has nothing in it.
pub const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

/// The bytes with each occurrence of a text replaced by another of the same length.
///
/// # Errors
/// The lengths differ, or the text is not there.
pub fn replaced(component: &[u8], from: &str, to: &str) -> Result<Vec<u8>> {
    ensure!(from.len() == to.len() && from != to, "`{from}` and `{to}` have other lengths");
    let mut bytes = component.to_vec();
    let mut found = 0;
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from.as_bytes()) {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        found += 1;
    }
    ensure!(found > 0, "`{from}` is not in the component");
    Ok(bytes)
}

/// The component with a module beside its own, which nothing uses: it is compiled with it.
pub fn with_module(component: &[u8], module: &[u8]) -> Vec<u8> {
    with_section(component, CORE_MODULE, module)
}

/// The same, and so many instances are made of it with the component.
///
/// # Errors
/// The component is not one.
pub fn with_instances(component: &[u8], module: &[u8], instances: u32) -> Result<Vec<u8>> {
    let index = u32::try_from(sections(component)?.filter(|section| *section == CORE_MODULE).count())?;
    let component = with_module(component, module);
    let mut section = Vec::new();
    write_leb(&mut section, instances);
    for _ in 0..instances {
        // Instantiate the module with nothing.
        section.push(0);
        write_leb(&mut section, index);
        write_leb(&mut section, 0);
    }
    Ok(with_section(&component, CORE_INSTANCE, &section))
}

/// The component with another one inside it, that has one inside it, and so on.
pub fn with_nested(component: &[u8], depth: u32) -> Vec<u8> {
    let inner = (1..depth).fold(EMPTY.to_vec(), |inner, _| with_section(EMPTY, COMPONENT, &inner));
    with_section(component, COMPONENT, &inner)
}

fn with_section(component: &[u8], id: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = component.to_vec();
    bytes.push(id);
    write_leb(&mut bytes, u32::try_from(contents.len()).expect("a section is shorter than 4 GiB"));
    bytes.extend_from_slice(contents);
    bytes
}

/// The kinds of its sections.
fn sections(component: &[u8]) -> Result<impl Iterator<Item = u8>> {
    let mut rest = component.get(HEADER_BYTES..).context("a component has a header")?;
    let mut kinds = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = read_leb(after).context("a section has a length")?;
        kinds.push(*kind);
        rest = after.get(length as usize..).context("a section is as long as it says")?;
    }
    Ok(kinds.into_iter())
}

fn write_leb(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

fn read_leb(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_they_are_written() {
        for value in [0, 1, 127, 128, 300, 65_535, u32::MAX] {
            let mut bytes = Vec::new();
            write_leb(&mut bytes, value);
            bytes.push(7);
            assert_eq!(read_leb(&bytes), Some((value, &[7][..])));
        }
    }

    #[test]
    fn a_module_is_found_where_it_was_put() {
        let module = b"\0asm\x01\0\0\0";
        let twice = with_instances(&with_module(EMPTY, module), module, 3).unwrap();
        assert_eq!(sections(&twice).unwrap().collect::<Vec<_>>(), [CORE_MODULE, CORE_MODULE, CORE_INSTANCE]);
        assert!(sections(&twice[..twice.len() - 1]).is_err());
    }
}
