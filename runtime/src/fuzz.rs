//! What becomes of bytes that nobody meant to send? Every decoder of what comes from outside is fed with changed inputs of a kept corpus, for
//! a second each in the usual tests, or for as long as `DACAPO_FUZZ_SECONDS` says.
//!
//! No instrumented build is needed: an input is taken up into the corpus in memory, and changed further, if what came of it had not been seen
//! before. `DACAPO_FUZZ_KEEP=1` writes such inputs to the kept corpus too. An input that makes a decoder panic, or compute for long, is
//! written to a file, which `DACAPO_FUZZ_INPUT` names to run nothing but that.

use std::cell::Cell;
use std::collections::HashSet;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// What an input is made of, and so how it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Anything.
    Bytes,
    /// A JSON value; now and then its bytes are changed.
    Json,
}

/// How long a decoder may compute over one input, in CPU time of a debug build on a busy machine. All inputs are small.
const CPU_MAX: Duration = Duration::from_secs(5);

/// The largest input that is made, and the largest that is changed further and kept, in bytes: small ones run fast.
const INPUT_BYTES_MAX: usize = 16 << 10;
const KEPT_BYTES_MAX: usize = 4 << 10;

/// How many inputs are changed further, at most.
const POOL_MAX: usize = 2_000;

/// How often a failing input is tried to be made from fewer changes.
const SIMPLER_MAX: usize = 200;

/// What decoders may take for something special.
const TOKENS: [&str; 38] = [
    "%",
    "%00",
    "%2F",
    "%C3%28",
    "+",
    "&",
    "=",
    "/",
    "//",
    "..",
    "@",
    ":",
    ";",
    ",",
    "\"",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{130}",
    "\u{fffd}",
    "\0",
    "\r\n",
    "null",
    "true",
    "{}",
    "[[[[[[[[",
    "-1",
    "0",
    "1e999",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "99999999999999999999999999",
    "9999-12-31T23:59:59.9999999Z",
    "-9999-01-01",
    "+25:00",
    "\0asm\x01\0\0\0",
    "*/*;q=",
];

/// A change to an input.
#[derive(Debug, Clone)]
enum Mutation {
    Overwrite(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Flip(Index, u8),
    /// Some of another input in place of what is there.
    Splice(Index, Index, Index, usize),
    Json(JsonMutation),
}

/// A change to the JSON value of an input, if it is one. Its nodes are numbered in the order of their text.
#[derive(Debug, Clone)]
enum JsonMutation {
    /// Takes an element or a member out of a node.
    Remove(Index, Index),
    /// Puts an element there twice.
    Repeat(Index, Index),
    Swap(Index, Index, Index),
    Put(Index, Value),
    /// Adds to a number.
    Nudge(Index, i64),
    /// Puts a node of another input in the place of one.
    Graft(Index, Index, Index),
}

/// An input of the corpus, and what is to be changed of it.
type Plan = (Index, Vec<Mutation>);

fn plans(shape: Shape) -> BoxedStrategy<Plan> {
    let some_bytes = || {
        prop_oneof![proptest::collection::vec(any::<u8>(), 1..5), select(&TOKENS[..]).prop_map(|token| token.as_bytes().to_vec())]
    };
    let index = any::<Index>;
    let of_bytes = prop_oneof![
        (index(), some_bytes()).prop_map(|(at, bytes)| Mutation::Overwrite(at, bytes)),
        (index(), some_bytes()).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (index(), 1..20_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (index(), 1..20_usize, prop_oneof![9 => 1..5_usize, 1 => 5..300_usize])
            .prop_map(|(at, count, times)| Mutation::Repeat(at, count, times)),
        (index(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (index(), index(), index(), 1..100_usize).prop_map(|(other, from, at, count)| Mutation::Splice(other, from, at, count)),
    ];
    let scalar = select(vec![
        Value::Null,
        true.into(),
        0.into(),
        u32::MAX.into(),
        u64::MAX.into(),
        i64::MIN.into(),
        1e308.into(),
        "".into(),
        "\u{0}".into(),
        "x".repeat(300).into(),
        Value::Array(Vec::new()),
        Value::Object(serde_json::Map::new()),
    ]);
    let of_json = prop_oneof![
        (index(), index()).prop_map(|(node, at)| JsonMutation::Remove(node, at)),
        (index(), index()).prop_map(|(node, at)| JsonMutation::Repeat(node, at)),
        (index(), index(), index()).prop_map(|(node, one, other)| JsonMutation::Swap(node, one, other)),
        (index(), scalar).prop_map(|(node, value)| JsonMutation::Put(node, value)),
        (index(), -3..4_i64).prop_map(|(node, by)| JsonMutation::Nudge(node, by)),
        (index(), index(), index()).prop_map(|(other, from, node)| JsonMutation::Graft(other, from, node)),
    ];
    let weight = if shape == Shape::Json { 8 } else { 0 };
    let mutation = prop_oneof![1 => of_bytes, weight => of_json.prop_map(Mutation::Json)];
    (index(), proptest::collection::vec(mutation, 1..8)).boxed()
}

/// The input that `plan` makes of the corpus.
fn make((seed, mutations): &Plan, pool: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seed.get(pool).clone();
    for mutation in mutations {
        mutation.apply(&mut input, pool);
        input.truncate(INPUT_BYTES_MAX);
    }
    input
}

impl Mutation {
    fn apply(&self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let length = input.len();
        let place = |at: &Index| at.index(length + 1);
        let span = |at: &Index, count: usize| at.index(length + 1)..(at.index(length + 1) + count).min(length);
        match self {
            Self::Overwrite(at, bytes) => _ = input.splice(span(at, bytes.len()), bytes.iter().copied()),
            Self::Insert(at, bytes) => _ = input.splice(place(at)..place(at), bytes.iter().copied()),
            Self::Remove(at, count) => _ = input.drain(span(at, *count)),
            Self::Repeat(at, count, times) => {
                let again = input[span(at, *count)].repeat(*times);
                input.splice(place(at)..place(at), again);
            }
            Self::Flip(at, bit) => {
                if let Some(byte) = input.get_mut(place(at)) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Splice(other, from, at, count) => {
                let other = other.get(pool);
                let from = from.index(other.len() + 1);
                let part = &other[from..(from + count).min(other.len())];
                input.splice(span(at, part.len()), part.iter().copied());
            }
            Self::Json(mutation) => {
                if let Ok(mut value) = serde_json::from_slice(input) {
                    mutation.apply(&mut value, pool);
                    *input = value.to_string().into_bytes();
                }
            }
        }
    }
}

impl JsonMutation {
    fn apply(&self, value: &mut Value, pool: &[Vec<u8>]) {
        match self {
            Self::Remove(at, part) => match node(value, at) {
                Value::Array(elements) if !elements.is_empty() => _ = elements.remove(part.index(elements.len())),
                Value::Object(members) if !members.is_empty() => {
                    let name = members.keys().nth(part.index(members.len())).cloned();
                    name.and_then(|name| members.remove(&name));
                }
                _ => (),
            },
            Self::Repeat(at, part) => {
                if let Value::Array(elements) = node(value, at)
                    && !elements.is_empty()
                {
                    let at = part.index(elements.len());
                    elements.insert(at, elements[at].clone());
                }
            }
            Self::Swap(at, one, other) => {
                if let Value::Array(elements) = node(value, at)
                    && !elements.is_empty()
                {
                    let count = elements.len();
                    elements.swap(one.index(count), other.index(count));
                }
            }
            Self::Put(at, new) => *node(value, at) = new.clone(),
            Self::Nudge(at, by) => {
                let node = node(value, at);
                if let Some(number) = node.as_i64() {
                    *node = number.saturating_add(*by).into();
                }
            }
            Self::Graft(other, from, at) => {
                if let Ok(mut other) = serde_json::from_slice::<Value>(other.get(pool).as_slice()) {
                    *node(value, at) = node(&mut other, from).take();
                }
            }
        }
    }
}

fn node<'a>(value: &'a mut Value, at: &Index) -> &'a mut Value {
    let mut number = at.index(count(value));
    nth(value, &mut number).expect("it has so many")
}

/// How many nodes a value has, itself included.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(count).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// The node with this number, which is counted down.
fn nth<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(elements) => elements.iter_mut().find_map(|element| nth(element, number)),
        Value::Object(members) => members.values_mut().find_map(|member| nth(member, number)),
        _ => None,
    }
}

/// Where corpora are kept, a folder for each decoder.
fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(name)
}

/// All that is kept in a folder, by name. What ends with `.wat` is WebAssembly as text.
fn read_corpus(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("list {}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("list the corpus").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds nothing", folder.display());
    let read = |path: &PathBuf| match path.extension() {
        Some(ending) if ending == "wat" => wat::parse_file(path).expect("it is WebAssembly"),
        _ => fs::read(path).expect("read the corpus"),
    };
    paths.iter().map(read).collect()
}

/// What kind of outcome a sentence tells: what it quotes, and its numbers, do not count.
fn kind(outcome: &str) -> String {
    let (mut kind, mut quoted, mut in_number) = (String::new(), None, false);
    for c in outcome.chars().take(1_000) {
        if let Some(end) = quoted {
            quoted = quoted.filter(|_| c != end);
            continue;
        }
        // In any base.
        in_number = c.is_ascii_digit() || (in_number && (c.is_ascii_hexdigit() || c == 'x'));
        match c {
            '"' | '`' => quoted = Some(c),
            _ if in_number => (),
            c => kind.push(c),
        }
    }
    kind
}

/// Runs a decoder over one input: what it makes of it, or how it broke.
fn attempt(run: &impl Fn(&[u8]) -> String, input: &[u8]) -> Result<String, String> {
    let cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let began = cpu();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(input))).map_err(|_| "it panics".to_owned())?;
    let took = cpu() - began;
    if took > CPU_MAX { Err(format!("it computes for {took:?}")) } else { Ok(outcome) }
}

/// Feeds a decoder, which tells in a sentence what it made of an input, with changed inputs of the corpus `name`.
///
/// # Panics
/// If the decoder does, or takes too long; the input is then in a file that the message names.
pub(crate) fn fuzz(name: &str, shape: Shape, run: impl Fn(&[u8]) -> String) {
    let test = thread::current().name().unwrap_or("fuzz").to_owned();
    let again =
        |file: &Path| format!("run it again with: DACAPO_FUZZ_INPUT={} cargo test --lib -- --exact {test}", file.display());
    if let Some(file) = env::var_os("DACAPO_FUZZ_INPUT") {
        let outcome = run(&fs::read(&file).expect("read the input"));
        return println!("fuzz {name}: {outcome}");
    }
    let seconds: f64 = env::var("DACAPO_FUZZ_SECONDS").map_or(1.0, |text| text.parse().expect("DACAPO_FUZZ_SECONDS is a number"));
    let keeps = env::var_os("DACAPO_FUZZ_KEEP").is_some();
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the system has randomness");

    let (folder, found) = (corpus(name), Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz"));
    fs::create_dir_all(&found).expect("make a folder for what is found");
    // Should the process die, of a stack that overflows say, what it died of is there.
    let running = found.join(format!("{}.running", test.replace("::", "-")));
    let at_work = File::create(&running).expect("make a file for the input in hand");
    println!("fuzz {name}: if the process dies, {}", again(&running));
    let attempt = |input: &[u8]| {
        at_work.write_all_at(input, 0).and_then(|()| at_work.set_len(input.len() as u64)).expect("write down the input in hand");
        attempt(&run, input)
    };
    let fail = |input: &[u8], how: &str| -> ! {
        let file = found.join(format!("{name}-{}", &crate::model::Digest::of(input).to_string()[..12]));
        fs::write(&file, input).expect("write down what was found");
        let _ = fs::remove_file(&running);
        let file = file.canonicalize().unwrap_or(file);
        panic!("fuzz {name}: {how}; {}", again(&file));
    };

    let mut pool = read_corpus(&folder);
    let kept = pool.len();
    let mut kinds = HashSet::new();
    for input in &pool {
        match attempt(input) {
            Ok(outcome) => _ = kinds.insert(kind(&outcome)),
            Err(how) => fail(input, &how),
        }
    }
    let known = kinds.len();
    let plans = plans(shape);
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let (began, mut runs) = (Instant::now(), 0_u64);
    while began.elapsed().as_secs_f64() < seconds {
        let mut plan = plans.new_tree(&mut runner).expect("nothing is filtered out");
        let input = make(&plan.current(), &pool);
        runs += 1;
        match attempt(&input) {
            Ok(outcome) => {
                if kinds.insert(kind(&outcome)) && pool.len() < POOL_MAX && input.len() <= KEPT_BYTES_MAX {
                    if keeps {
                        let file = folder.join(&crate::model::Digest::of(&input).to_string()[..12]);
                        fs::write(file, &input).expect("keep the input");
                    }
                    pool.push(input);
                }
            }
            Err(how) => {
                let (mut worst, mut how) = (input, how);
                for _ in 0..SIMPLER_MAX {
                    if !plan.simplify() {
                        break;
                    }
                    let simpler = make(&plan.current(), &pool);
                    match attempt(&simpler) {
                        Err(still) => (worst, how) = (simpler, still),
                        Ok(_) if plan.complicate() => (),
                        Ok(_) => break,
                    }
                }
                fail(&worst, &how);
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "fuzz {name}: {runs} runs in {took:.1} s, {:.0} a second; {kept} inputs in the corpus, {} kinds of outcome, {} of them new",
        runs as f64 / took,
        kinds.len(),
        kinds.len() - known
    );
    let _ = fs::remove_file(&running);
}

#[test]
fn outcomes_differ_in_kind_only_if_their_words_do() {
    assert_eq!(kind("17 bytes of \"a 1\" at 0x1f, `x`"), kind("9 bytes of \"\" at 0x000, ``"));
    assert_ne!(kind("17 bytes"), kind("17 bits"));
}

#[test]
fn a_decoder_that_panics_is_found_with_an_input_that_makes_it_panic() {
    let (has_percent, calls) = (|input: &[u8]| input.windows(2).any(|pair| pair == b"%%"), Cell::new(0));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        fuzz("path", Shape::Bytes, |input| {
            calls.set(calls.get() + 1);
            assert!(!has_percent(input), "a percent sign too many");
            String::new()
        });
    }));
    let message = *caught.expect_err("no path of the corpus has two, and some change of them has").downcast::<String>().unwrap();
    let (_, rest) = message.split_once("DACAPO_FUZZ_INPUT=").expect("it says how to run it again");
    let file = rest.split(' ').next().unwrap();
    assert!(has_percent(&fs::read(file).unwrap()) && calls.get() > read_corpus(&corpus("path")).len(), "{message}");
    fs::remove_file(file).unwrap();
}
