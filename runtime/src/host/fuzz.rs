//! No upload brings the server down, or makes it blame itself: from the bytes to the answer of `describe`.

use std::cell::Cell;
use std::env;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::{CompiledCode, Compiler, Host, ModuleError, compiler};
use crate::fuzz::{Shape, fuzz};
use crate::limits::Limits;
use crate::model::Digest;

/// How long the compiler may compute over one small input, in seconds of CPU, and what a child says that has panicked.
const COMPILE_CPU_S_MAX: u64 = 5;
const PANICKED: &str = "(exit status: 101)";

/// Compiled in a child, as uploads are: what makes a component of a core module recurses without end if the packages of its component type need
/// each other (`wit-parser` 0.254 to 0.258), and no thread survives that. A child that panics, or computes for long, is a find all the same.
#[test]
fn fuzzed_modules_are_taken_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        residents_max: 1,
        activities_running_max: 1,
        turn_cpu_ms_max: 20,
        compile_cpu_s_max: COMPILE_CPU_S_MAX,
        ..Limits::default()
    };
    let child = Compiler::Child(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/compiler"));
    let host = Host::new(CompiledCode::Kept(&folder.path().join("compiled")), &limits, 1, 1, child, Arc::default()).unwrap();
    let taken = Cell::new(0);
    fuzz("module", Shape::Bytes, |bytes| {
        let digest = Digest::of(bytes);
        let made = host.module(digest, || Ok(bytes.to_vec())).map(|module| {
            let catalog = module.catalog();
            assert!(catalog.functions().next().is_some() && catalog.functions().count() <= limits.functions_max as usize);
            format!("{} orchestrators and {} activities", catalog.orchestrators.len(), catalog.activities.len())
        });
        host.forget(digest);
        match made {
            Ok(offers) => {
                taken.set(taken.get() + 1);
                offers
            }
            Err(ModuleError::Invalid(reason)) => {
                assert!(!reason.contains(PANICKED) && !reason.contains("compile_cpu_s_max"), "{reason}");
                reason
            }
            Err(ModuleError::Internal(why)) => panic!("the server blames itself: {why}"),
        }
    });
    // Unless nothing but one input is run.
    assert!(
        taken.get() > 0 || env::var_os("DACAPO_FUZZ_INPUT").is_some(),
        "no module of the corpus is taken: is the compiler there?"
    );
}

/// What `tests/fuzz/compiler` runs.
#[test]
#[ignore = "the child process of the test of fuzzed modules"]
fn compiles_as_the_child() {
    let limits = env::var("COMPILE_LIMITS").expect("the limits come in COMPILE_LIMITS");
    let frames = File::options().write(true).open("/dev/fd/3").expect("open what the parent reads");
    compiler::child_main(&limits, frames).expect("compile");
}
