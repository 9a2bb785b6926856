//! The modules that tests upload: the examples, the test guests, and a core module that is no component yet.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use dacapo::cli::guests;

type Module = OnceLock<Vec<u8>>;

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace")
}

/// `tests/guests`: well-behaved and hostile functions.
pub(crate) fn test_guests() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("tests/guests"))
}

/// `examples/hello-sequence`.
pub(crate) fn hello_sequence() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("examples/hello-sequence"))
}

/// `examples/word-count`.
pub(crate) fn word_count() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("examples/word-count"))
}

/// `examples/human-approval`.
pub(crate) fn human_approval() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("examples/human-approval"))
}

/// `examples/saga`.
pub(crate) fn saga() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("examples/saga"))
}

/// `examples/monitor`.
pub(crate) fn monitor() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("examples/monitor"))
}

/// `examples/flaky-fan-out`.
pub(crate) fn flaky_fan_out() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("examples/flaky-fan-out"))
}

/// `examples/sub-orchestrations`.
pub(crate) fn sub_orchestrations() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("examples/sub-orchestrations"))
}

/// `examples/durable-http`.
pub(crate) fn durable_http() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| build("examples/durable-http"))
}

/// `examples/hello-sequence` without WASI, which is a core module with a component type.
pub(crate) fn core_hello_sequence() -> &'static [u8] {
    static BYTES: Module = Module::new();
    BYTES.get_or_init(|| {
        const TARGET: &str = "wasm32-unknown-unknown";
        // In a target folder of their own: cargo holds a lock on the one that these tests are in.
        let folder = root().join("target/guests");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(["build", "--quiet", "--package", "hello-sequence", "--profile", "guest"]);
        cargo.args(["--target", TARGET, "--target-dir"]).arg(&folder);
        let output = cargo.output().expect("run cargo");
        assert!(output.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&output.stderr));
        read(&folder.join(TARGET).join("guest/hello_sequence.wasm"))
    })
}

fn build(folder: &str) -> Vec<u8> {
    read(&guests::build(&root().join(folder)).unwrap_or_else(|error| panic!("{error:#}")))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}
