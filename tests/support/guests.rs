//! The modules that tests upload: the examples, the test guests, and a core module that is no component yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace")
}

/// `tests/guests`: well-behaved and hostile functions.
pub(crate) fn test_guests() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| read(&components().join("test_guests.wasm")))
}

/// `examples/hello-sequence`.
pub(crate) fn hello_sequence() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| read(&components().join("hello_sequence.wasm")))
}

/// `examples/word-count`.
pub(crate) fn word_count() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| read(&components().join("word_count.wasm")))
}

/// `examples/hello-sequence` without WASI, which is a core module with a component type.
pub(crate) fn core_hello_sequence() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| read(&build("wasm32-unknown-unknown", &["hello-sequence"]).join("hello_sequence.wasm")))
}

/// Where the components are. The first who asks builds them.
fn components() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| build("wasm32-wasip2", &["test-guests", "hello-sequence", "word-count"]))
}

/// Builds packages of this workspace for `target` and returns the folder with their modules.
///
/// In a target folder of their own: cargo holds a lock on the one that these tests are in.
fn build(target: &str, packages: &[&str]) -> PathBuf {
    let folder = root().join("target/guests");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["build", "--quiet", "--profile", "guest", "--target", target, "--target-dir"]).arg(&folder);
    for package in packages {
        cargo.args(["--package", package]);
    }
    // What is meant for the program under test is not meant for its guests.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let output = cargo.output().expect("run cargo");
    assert!(output.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&output.stderr));
    folder.join(target).join("guest")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}
