//! Modules that no SDK would make, written as text.
//!
//! A core module with the component type of an honest one is what the server turns into a component. So everything that an
//! SDK hides can be done wrong here: each function of the contract is a core function with flat parameters.

use super::guests;

/// A module of the contract's world `module`, by the bodies of its functions.
///
/// `describe`, `advance` and `invoke` return the address of what they say; memory from 32 KiB on is the host's to fill.
pub(crate) struct Bodies<'a> {
    /// How much memory it has, in pages of 64 KiB.
    pub(crate) pages: u32,
    /// Imports, which come first in a module.
    pub(crate) imports: &'a str,
    pub(crate) describe: &'a str,
    pub(crate) begin: &'a str,
    pub(crate) advance: &'a str,
    pub(crate) invoke: &'a str,
    /// Whatever else there is, such as data.
    pub(crate) rest: &'a str,
}

impl Default for Bodies<'_> {
    fn default() -> Self {
        let trap = "unreachable";
        Self { pages: 1, imports: "", describe: trap, begin: "", advance: trap, invoke: trap, rest: "" }
    }
}

impl Bodies<'_> {
    pub(crate) fn module(&self) -> Vec<u8> {
        let Self { pages, imports, describe, begin, advance, invoke, rest } = self;
        let fifteen = "i32 ".repeat(15);
        let text = format!(
            r#"(module
            {imports}
            (memory (export "memory") {pages})
            (global $free (mut i32) (i32.const 32768))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $free (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get 3))))
            (func (export "dacapo:guest/catalog@0.1.0#describe") (result i32) {describe})
            (func (export "dacapo:guest/orchestrator@0.1.0#begin") (param {fifteen}) {begin})
            (func (export "dacapo:guest/orchestrator@0.1.0#advance") (param i32 i32) (result i32) {advance})
            (func (export "dacapo:guest/activity@0.1.0#invoke") (param {fifteen}) (result i32) {invoke})
            (func (export "dacapo:guest/query@0.1.0#ask") (param i32 i32 i32 i32 i32 i32) (result i32) unreachable)
            {rest})"#
        );
        let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"));
        module.extend_from_slice(component_type());
        module
    }

    /// The same with an orchestrator named `Liar` and an activity named `LiarActivity`, whatever `describe` is.
    pub(crate) fn liar(&self) -> Vec<u8> {
        // The description at 0: generator, functions. Each function, at 16 and 52: name, role (of which 0 is an orchestrator), properties.
        let description = words(&[96, 4, 16, 2]);
        let functions = words(&[100, 4, 0, 0, 0, 0, 0, 0, 0, 100, 12, 1, 0, 0, 0, 0, 0, 0]);
        let rest = format!(
            r#"(data (i32.const 0) "{description}") (data (i32.const 16) "{functions}") (data (i32.const 96) "textLiarActivity") {}"#,
            self.rest
        );
        Bodies { describe: "i32.const 0", rest: &rest, ..*self }.module()
    }
}

/// A module of one page with these function bodies, and whatever else stands in `rest`.
pub(crate) fn module(describe: &str, advance: &str, rest: &str) -> Vec<u8> {
    Bodies { describe, advance, rest, ..Bodies::default() }.module()
}

/// A module whose orchestrator `Liar` answers every turn with the progress at address 128.
///
/// `progress` is its bytes: a list of actions (address, length), a custom status (tag, address, length), an outcome (tag, then at
/// offset 24 the end's tag, then its payload). `data` is what these addresses point to.
pub(crate) fn liar(progress: &[u32], data: &str) -> Vec<u8> {
    let rest = format!("{} {data}", at_128(progress));
    Bodies { advance: "i32.const 128", rest: &rest, ..Bodies::default() }.liar()
}

/// These words as data at address 128.
pub(crate) fn at_128(answer: &[u32]) -> String {
    format!(r#"(data (i32.const 128) "{}")"#, words(answer))
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

/// A component with this depth of components in components.
pub(crate) fn nested_components(depth: usize) -> Vec<u8> {
    (0..depth).fold(COMPONENT.to_vec(), |inner, _| [COMPONENT, &section(4, &inner)].concat())
}

/// A component with one type, of a component that has one type, and so on to this depth.
pub(crate) fn nested_types(depth: usize) -> Vec<u8> {
    // A component's type with one declaration, which is a type; the last one has none.
    let types = [&[1], [0x41, 1, 1].repeat(depth).as_slice(), &[0x41, 0]].concat();
    [COMPONENT, &section(7, &types)].concat()
}

/// A component with so many functions that do so many additions each.
pub(crate) fn many_functions(functions: usize, additions: usize) -> Vec<u8> {
    // One local; then it is added to a number and set, as often as wanted; then the end.
    let code = [&[1, 1, 0x7f], [0x20, 0, 0x41, 7, 0x6a, 0x21, 0].repeat(additions).as_slice(), &[0x0b]].concat();
    let body = [to_leb128(code.len()).as_slice(), &code].concat();
    let sections = [
        section(1, &[1, 0x60, 0, 0]), // One type: nothing to nothing.
        section(3, &[to_leb128(functions), vec![0; functions]].concat()),
        section(10, &[to_leb128(functions), body.repeat(functions)].concat()),
    ];
    let module = [b"\0asm\x01\0\0\0".as_slice(), &sections.concat()].concat();
    [COMPONENT, &section(1, &module)].concat()
}

/// How a component begins.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], to_leb128(content.len()).as_slice(), content].concat()
}

fn to_leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Words as a string of the text format.
pub(crate) fn words(words: &[u32]) -> String {
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
