//! No upload brings the server down, or makes it blame itself: from the bytes to the answer of `describe`.

use std::sync::Arc;

use super::{CompiledCode, Compiler, Host, ModuleError};
use crate::fuzz::{Shape, fuzz};
use crate::limits::Limits;
use crate::model::Digest;

/// Compiled here and not in a child, which would only hide what happens.
#[test]
fn fuzzed_modules_are_taken_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { residents_max: 1, activities_running_max: 1, turn_cpu_ms_max: 20, ..Limits::default() };
    let host = Host::new(CompiledCode::Kept(&folder.path().join("compiled")), &limits, 1, 1, Compiler::InProcess, Arc::default())
        .unwrap();
    fuzz("module", Shape::Bytes, |bytes| {
        let digest = Digest::of(bytes);
        let made = host.module(digest, || Ok(bytes.to_vec())).map(|module| {
            let catalog = module.catalog();
            assert!(catalog.functions().next().is_some() && catalog.functions().count() <= limits.functions_max as usize);
            format!("{} orchestrators and {} activities", catalog.orchestrators.len(), catalog.activities.len())
        });
        host.forget(digest);
        match made {
            Ok(taken) => taken,
            Err(ModuleError::Invalid(reason)) => reason,
            Err(ModuleError::Internal(why)) => panic!("the server blames itself: {why}"),
        }
    });
}
