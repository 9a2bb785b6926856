//! How does a crate become a module? By cargo, for WebAssembly, small and with names and lines for backtraces.
//!
//! Used by `demo` and by the tests, never by a `build.rs`: a cargo inside a cargo must not work in the same target directory.

use std::env;
use std::path::{self, Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// What guests are built for.
pub const TARGET: &str = "wasm32-wasip2";

/// The profile `guest`, so that a crate in anybody's workspace needs none; in ours it says the same.
const PROFILE: [&str; 6] = [
    "profile.guest.inherits = 'release'",
    "profile.guest.opt-level = 's'",
    "profile.guest.lto = true",
    "profile.guest.codegen-units = 1",
    "profile.guest.panic = 'abort'",
    "profile.guest.debug = 'line-tables-only'",
];

/// What a user may have set for every cargo. All else that begins with `CARGO` or `RUST` was set by a cargo around this program,
/// for the machine that it builds for, and would make guests that differ with how the program was run.
const VARIABLES_KEPT: [&str; 11] = [
    "CARGO_BUILD_JOBS",
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TARGET_DIR",
    "CARGO_TERM_",
    "RUSTUP_",
    "RUST_BACKTRACE",
    "RUST_LOG",
];

/// Builds the guest crate in the folder `dir` and returns the module's file, in `guests` below the crate's target directory.
///
/// Cargo's progress goes to standard error. The toolchain is the one that is active in `dir`; if it lacks the standard library
/// for [`TARGET`], rustup is asked to add it.
///
/// # Errors
/// If that cannot be had, the crate does not compile, or it is not a `cdylib`.
pub fn build(dir: &Path) -> Result<PathBuf> {
    let dir = dir.canonicalize().with_context(|| format!("find the crate {}", dir.display()))?;
    let manifest = dir.join("Cargo.toml");
    ensure_target(&dir)?;
    let target = target_directory(&dir)?;

    let mut cargo = command("cargo", &dir);
    cargo.args(["build", "--lib", "--profile", "guest", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.arg("--target-dir").arg(target.join("guests")).arg("--manifest-path").arg(&manifest);
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    let output = run(cargo.stderr(Stdio::inherit()))?;
    ensure!(output.status.success(), "cargo could not build {}; what it said is above", dir.display());
    let messages = String::from_utf8(output.stdout).context("read what cargo has built")?;
    module(&messages, &manifest).with_context(|| {
        format!("{} makes no module: its Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`", dir.display())
    })
}

/// Sees to it that the toolchain has what guests need.
fn ensure_target(dir: &Path) -> Result<()> {
    let output = run(command("rustc", dir).args(["--print", "target-libdir", "--target", TARGET]).stderr(Stdio::piped()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rustc in {} does not know {TARGET}: {}", dir.display(), said.trim());
    if Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir() {
        return Ok(());
    }
    let added = command("rustup", dir).args(["target", "add", TARGET]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    if !added.is_ok_and(|status| status.success()) {
        let toolchain = env::var("RUSTUP_TOOLCHAIN").map(|name| format!(" --toolchain {name}")).unwrap_or_default();
        bail!(
            "the Rust toolchain has no standard library for {TARGET}, and it could not be added; add it with\n  \
             cd '{}' && rustup target add{toolchain} {TARGET}",
            dir.display()
        );
    }
    Ok(())
}

/// Where cargo would build the crate in `dir`.
fn target_directory(dir: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }

    let mut cargo = command("cargo", dir);
    let output = run(cargo.args(["metadata", "--no-deps", "--format-version", "1"]).stderr(Stdio::inherit()))?;
    ensure!(output.status.success(), "cargo finds no crate in {}; what it said is above", dir.display());
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("read what cargo says of the crate")?;
    Ok(metadata.target_directory)
}

/// The module among what cargo says it has built.
fn module(messages: &str, manifest: &Path) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Artifact {
        manifest_path: PathBuf,
        filenames: Vec<PathBuf>,
    }

    // Messages of other kinds have no such fields.
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let files = artifacts.filter(|artifact| artifact.manifest_path == manifest).flat_map(|artifact| artifact.filenames);
    files.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

/// A command of the toolchain that is active in `dir`.
fn command(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_of_another_build) {
            command.env_remove(name);
        }
    }
    // Given from where this program was started, not from `dir`.
    if let Some(target) = env::var_os("CARGO_TARGET_DIR").and_then(|target| path::absolute(target).ok()) {
        command.env("CARGO_TARGET_DIR", target);
    }
    command
}

fn is_of_another_build(variable: &str) -> bool {
    let of_rust = variable.starts_with("CARGO") || variable.starts_with("RUST");
    of_rust && !VARIABLES_KEPT.iter().any(|kept| variable.starts_with(kept))
}

fn run(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).output().with_context(|| format!("run {program}, which comes with Rust (https://rustup.rs)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_found_among_what_cargo_has_built() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/w/sdk/Cargo.toml","filenames":["/w/target/libsdk.rlib","/w/target/x.wasm"]}
{"reason":"compiler-message","manifest_path":"/w/guest/Cargo.toml","message":{}}
{"reason":"compiler-artifact","manifest_path":"/w/guest/Cargo.toml","filenames":["/w/target/a.d","/w/target/guest.wasm"]}
{"reason":"build-finished","success":true}"#;
        let found = |manifest: &str| module(messages, Path::new(manifest));
        assert_eq!(found("/w/guest/Cargo.toml"), Some("/w/target/guest.wasm".into()));
        assert_eq!(found("/w/other/Cargo.toml"), None);
    }

    #[test]
    fn a_cargo_around_this_one_leaves_no_trace_but_users_keep_their_settings() {
        for removed in
            ["CARGO", "CARGO_PKG_NAME", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOCFLAGS"]
        {
            assert!(is_of_another_build(removed), "{removed}");
        }
        for kept in ["PATH", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_INDEX"] {
            assert!(!is_of_another_build(kept), "{kept}");
        }
    }
}
