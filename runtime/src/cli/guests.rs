//! How does a crate become a module? By cargo, for WebAssembly, small and with names and lines for backtraces.
//!
//! Used by `deploy`, `dev` and `demo` and by the tests, never by a `build.rs`: a cargo inside a cargo must not work in the same
//! target directory.

use std::collections::{HashMap, HashSet};
use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::{self, Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::connection::KEY_VARIABLE;

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

/// A crate of ours or somebody's that can be built as a module.
#[derive(Debug, Clone)]
pub struct Guest {
    dir: PathBuf,
    name: String,
    target: PathBuf,
}

/// What of cargo's output people get to see, on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// All of it, as it comes.
    Progress,
    /// Warnings and errors, when it is done.
    Diagnostics,
}

/// Builds the guest crate in the folder `dir` and returns the module's file, see [`Guest::build`].
///
/// # Errors
/// Those of [`Guest::find`] and [`Guest::build`].
pub fn build(dir: &Path) -> Result<PathBuf> {
    Guest::find(dir)?.build(Shown::Progress)
}

impl Guest {
    /// The crate in the folder `dir`.
    ///
    /// # Errors
    /// If cargo finds no package there, or cannot read its manifest.
    pub fn find(dir: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            packages: Vec<Package>,
            target_directory: PathBuf,
        }

        let given = dir.display();
        let dir = dir.canonicalize().with_context(|| format!("find the crate {given}"))?;
        let manifest = dir.join("Cargo.toml");
        ensure!(manifest.is_file(), "{given} is not the folder of a crate: it has no Cargo.toml");
        let Metadata { packages, target_directory: target } = metadata(&dir, &["--no-deps"], Stdio::inherit())?;
        let package = packages.into_iter().find(|package| package.manifest_path == manifest);
        let name =
            package.with_context(|| format!("{given} has a workspace, but is no crate itself: name the folder of one"))?.name;
        Ok(Self { dir, name, target })
    }

    /// The name of its package.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it lies, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where cargo puts what it builds for this crate; not only modules.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The folders of this crate and of all others that it is built from and that are no one's release: its path dependencies.
    ///
    /// # Errors
    /// If cargo cannot tell. It is quiet about why, since a build says the same.
    pub fn folders(&self) -> Result<Vec<PathBuf>> {
        #[derive(Deserialize)]
        struct Metadata {
            packages: Vec<Package>,
            resolve: Resolve,
        }
        #[derive(Deserialize)]
        struct Resolve {
            nodes: Vec<Node>,
        }
        #[derive(Deserialize)]
        struct Node {
            id: String,
            dependencies: Vec<String>,
        }

        let Metadata { packages, resolve } = metadata(&self.dir, &["--filter-platform", TARGET], Stdio::null())?;
        let needs: HashMap<_, _> = resolve.nodes.into_iter().map(|node| (node.id, node.dependencies)).collect();
        let manifest = self.dir.join("Cargo.toml");
        // A workspace may have members that this one does not need.
        let mut open: Vec<&str> =
            packages.iter().filter(|package| package.manifest_path == manifest).map(|package| package.id.as_str()).collect();
        let mut needed = HashSet::new();
        while let Some(id) = open.pop() {
            if needed.insert(id) {
                open.extend(needs.get(id).into_iter().flatten().map(String::as_str));
            }
        }
        let is_here = |package: &&Package| package.source.is_none() && needed.contains(package.id.as_str());
        Ok(packages.iter().filter(is_here).filter_map(|package| Some(package.manifest_path.parent()?.to_owned())).collect())
    }

    /// Builds the module and returns its file, in `guests` below the crate's target directory.
    ///
    /// The toolchain is the one that is active in the crate's folder; if it lacks the standard library for [`TARGET`], rustup is
    /// asked to add it.
    ///
    /// # Errors
    /// If that cannot be had, the crate does not compile, or it is not a `cdylib`.
    pub fn build(&self, shown: Shown) -> Result<PathBuf> {
        let (dir, manifest) = (self.dir.display(), self.dir.join("Cargo.toml"));
        ensure_target(&self.dir)?;

        let mut cargo = command("cargo", &self.dir);
        cargo.args(["build", "--lib", "--profile", "guest", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
        cargo.arg("--target-dir").arg(self.target.join("guests")).arg("--manifest-path").arg(&manifest);
        for setting in PROFILE {
            cargo.args(["--config", setting]);
        }
        match shown {
            Shown::Progress => cargo.stderr(Stdio::inherit()),
            Shown::Diagnostics => {
                // A pipe is no terminal, but what comes through it is shown on one.
                let colour = if io::stderr().is_terminal() { "always" } else { "never" };
                cargo.args(["--quiet", "--color", colour]).stderr(Stdio::piped())
            }
        };
        let output = run(&mut cargo)?;
        let _ = io::stderr().write_all(&output.stderr); // Nothing, if it was inherited.
        ensure!(output.status.code().is_some(), "cargo was interrupted while it built {dir}");
        ensure!(output.status.success(), "cargo could not build {dir}; what it said is above");
        let messages = String::from_utf8(output.stdout).context("read what cargo has built")?;
        module(&messages, &manifest)
            .with_context(|| format!("{dir} makes no module: its Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`"))
    }
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

/// A package in what cargo says of a crate.
#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    /// `None` if it is neither of a registry nor of a repository.
    source: Option<String>,
}

/// What cargo says of the crate in `dir`.
fn metadata<T: DeserializeOwned>(dir: &Path, arguments: &[&str], stderr: Stdio) -> Result<T> {
    let mut cargo = command("cargo", dir);
    let output = run(cargo.args(["metadata", "--format-version", "1"]).args(arguments).stderr(stderr))?;
    ensure!(output.status.success(), "cargo cannot read the crate {}", dir.display());
    serde_json::from_slice(&output.stdout).context("read what cargo says of the crate")
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
    // Build scripts are other people's code, and run nothing of ours.
    command.env_remove(KEY_VARIABLE);
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
    fn no_build_script_sees_the_key() {
        let cargo = command("cargo", Path::new("."));
        assert!(cargo.get_envs().any(|(name, value)| name == "DACAPO_KEY" && value.is_none()));
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
