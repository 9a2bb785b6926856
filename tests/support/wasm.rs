//! Modules that no SDK would make, written as text.
//!
//! A core module with the component type of an honest one is what the server turns into a component. So everything that an
//! SDK hides can be done wrong here: each function of the contract is a core function with flat parameters.

use super::guests;

/// A module of the contract's world `module` with these function bodies, and whatever else stands in `rest`.
///
/// `describe` and `advance` return the address of what they say; memory has one page, of which `rest` may fill the first half.
pub(crate) fn module(describe: &str, advance: &str, rest: &str) -> Vec<u8> {
    let fifteen = "i32 ".repeat(15);
    let text = format!(
        r#"(module
            (memory (export "memory") 1)
            (global $free (mut i32) (i32.const 32768))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $free (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get 3))))
            (func (export "dacapo:guest/catalog@0.1.0#describe") (result i32) {describe})
            (func (export "dacapo:guest/orchestrator@0.1.0#begin") (param {fifteen}))
            (func (export "dacapo:guest/orchestrator@0.1.0#advance") (param i32 i32) (result i32) {advance})
            (func (export "dacapo:guest/activity@0.1.0#invoke") (param {fifteen}) (result i32) unreachable)
            (func (export "dacapo:guest/query@0.1.0#ask") (param i32 i32 i32 i32 i32 i32) (result i32) unreachable)
            {rest})"#
    );
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
    module.extend_from_slice(component_type());
    module
}

/// An orchestrator named `Liar` that answers every turn with the progress at address 128.
///
/// `progress` is its bytes: a list of actions (address, length), a custom status (tag, address, length), an outcome (tag, then at
/// offset 24 the end's tag, then its payload). `data` is what these addresses point to.
pub(crate) fn liar(progress: &[u32], data: &str) -> Vec<u8> {
    // The description at 0: generator, functions. Its one function at 16: name, role (of which 0 is an orchestrator), properties.
    let description = words(&[64, 4, 16, 1]);
    let function = words(&[68, 4, 0, 0, 0, 0, 0, 0, 0]);
    let progress = words(progress);
    module(
        "i32.const 0",
        "i32.const 128",
        &format!(
            r#"(data (i32.const 0) "{description}") (data (i32.const 16) "{function}") (data (i32.const 64) "textLiar")
               (data (i32.const 128) "{progress}") {data}"#
        ),
    )
}

/// The same module with one more custom section: another digest, the same behaviour.
pub(crate) fn variant(module: &[u8], mark: &str) -> Vec<u8> {
    let name = format!("variant-{mark}");
    let length = u8::try_from(name.len()).expect("a short name");
    assert!(length < 127, "both lengths have to fit into one byte of LEB128");
    [module, &[0, length + 1, length], name.as_bytes()].concat()
}

/// The same module with other words in its data: another digest, and code that can be told from the first.
pub(crate) fn reworded(module: &[u8], then: &str, now: &str) -> Vec<u8> {
    assert_eq!(then.len(), now.len(), "all else stays in its place");
    let places: Vec<_> = (0..module.len() - then.len()).filter(|&at| module[at..].starts_with(then.as_bytes())).collect();
    let [at] = places[..] else { panic!("{then:?} is there {} times", places.len()) };
    let mut module = module.to_vec();
    module[at..at + now.len()].copy_from_slice(now.as_bytes());
    module
}

/// Words as a string of the text format.
fn words(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect()
}

/// The section of an honest core module that holds its component type, with the header of the section.
fn component_type() -> &'static [u8] {
    let module = guests::core_hello_sequence();
    let mut rest = &module[8..];
    while let Some((&id, body)) = rest.split_first() {
        let (length, body) = leb128(body);
        let header = rest.len() - body.len();
        let section = &rest[..header + length];
        let (name_length, name) = leb128(body);
        if id == 0 && name[..name_length].starts_with(b"component-type") {
            return section;
        }
        rest = &rest[header + length..];
    }
    panic!("the guest has no component type");
}

/// A number in LEB128, and what follows it.
fn leb128(mut bytes: &[u8]) -> (usize, &[u8]) {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (&byte, rest) = bytes.split_first().expect("a number ends");
        bytes = rest;
        number |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return (number, bytes);
        }
    }
}
