//! How do modules come in and go, and what is there to know of them? Ours, outside the wire contract.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::description::{Answer, Body, Family, Header, Operation};
use super::error::ApiError;
use super::reply::Reply;
use crate::engine::{DeleteError, Engine, Hub, ModuleVersion, ModuleView, UploadError};
use crate::model::time;
use crate::model::{Digest, HubName, ModuleName};

/// A module in listings.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Module<'a> {
    name: &'a str,
    /// The digest that new instances run on.
    #[schemars(with = "String")]
    current: Digest,
    /// The newest upload first.
    versions: Vec<Version<'a>>,
}

/// One version of a module.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Version<'a> {
    #[schemars(with = "String")]
    digest: Digest,
    #[schemars(extend("format" = "date-time"))]
    uploaded_time: String,
    bytes: u64,
    generator: &'a str,
    orchestrators: &'a [String],
    activities: &'a [String],
    live_instances: u64,
}

/// What an upload has made current.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Uploaded<'a> {
    #[schemars(with = "String")]
    name: &'a ModuleName,
    #[schemars(with = "String")]
    task_hub: &'a HubName,
    #[serde(flatten)]
    version: Version<'a>,
}

/// What a deletion has taken away.
#[derive(Debug, Serialize, JsonSchema)]
struct Deleted {
    #[schemars(with = "Vec<String>")]
    deleted: Vec<Digest>,
}

pub(super) static UPLOAD: Operation = Operation {
    summary: "Upload a module, or make a known version of it current again",
    family: Family::Ours,
    takes: &[],
    body: Body::Module,
    answers: &[
        Answer::json::<Uploaded<'static>>(200, "This version is known; it is the current one again."),
        Answer::json::<Uploaded<'static>>(201, "This version is new, and the current one."),
        Answer::ours(400, "The name breaks its rules, or the bytes are no module that can run here: `invalid_module`."),
        Answer::ours(409, "`function_taken`: another module of the hub has one of its functions."),
        Answer::ours(503, "There is no room for it now, too many are under way, or the store takes no writes.")
            .with(&[Header::RetryAfter]),
    ],
};

/// `PUT /admin/modules/{name}`: takes a module and makes it the current version under its name.
///
/// 201 if this digest is new under this name, 200 if it is known; both with what was taken. 400 if the name is ill-formed or the
/// bytes are no module that can run here, 409 if another module has one of its functions, 413 if it is too large, 503 if there is no
/// room for it now, or the store takes no writes.
pub(super) async fn upload(engine: &Arc<Engine>, hub: &HubName, name: &ModuleName, bytes: Bytes) -> Result<Reply, ApiError> {
    let uploaded = engine.upload(hub, name, bytes).await?;
    let code = if uploaded.new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(Reply::json(code, &Uploaded { name, task_hub: hub, version: (&uploaded.version).into() }))
}

pub(super) static MODULES: Operation = Operation {
    summary: "List the modules of a hub",
    family: Family::Ours,
    takes: &[],
    body: Body::None,
    answers: &[Answer::json::<Vec<Module<'static>>>(200, "All of them; none if the hub is unknown.")],
};

/// `GET /admin/modules`: 200 with all modules of a hub; none of an unknown one.
pub(super) async fn list(hub: Option<&Hub>) -> Result<Reply, ApiError> {
    let views = all(hub).await?;
    Ok(Reply::json(StatusCode::OK, &views.iter().map(Module::from).collect::<Vec<_>>()))
}

pub(super) static MODULE: Operation = Operation {
    summary: "One module with its versions",
    family: Family::Ours,
    takes: &[],
    body: Body::None,
    answers: &[Answer::json::<Module<'static>>(200, "The module."), Answer::ours(404, "There is none of this name.")],
};

/// `GET /admin/modules/{name}`: 200 with one module, 404 if there is none of this name.
pub(super) async fn one(hub: Option<&Hub>, name: &str) -> Result<Reply, ApiError> {
    let view = find(hub, name).await?;
    Ok(Reply::json(StatusCode::OK, &Module::from(&view)))
}

pub(super) static MODULE_BYTES: Operation = Operation {
    summary: "The bytes of one version of a module",
    family: Family::Ours,
    takes: &[],
    body: Body::None,
    answers: &[
        Answer::other(200, "application/wasm", "The bytes as they were uploaded."),
        Answer::ours(404, "The module has no such version."),
    ],
};

/// `GET /admin/modules/{name}/versions/{digest}`: 200 with the bytes as they were uploaded, 404 if the module has no such
/// version.
pub(super) async fn bytes(hub: Option<&Hub>, name: &str, digest: &str) -> Result<Reply, ApiError> {
    let unknown = || not_found(format!("module {name:?} has no version {digest:?} in this task hub"));
    let view = find(hub, name).await?;
    let digest: Digest = digest.parse().map_err(|_| unknown())?;
    let hub = hub.filter(|_| view.versions.iter().any(|version| version.digest == digest)).ok_or_else(unknown)?;
    let bytes = hub.module_bytes(digest).await.map_err(ApiError::ours_internal)?.ok_or_else(unknown)?;
    Ok(Reply::bytes("application/wasm", bytes.into()))
}

pub(super) static DELETE_MODULE: Operation = Operation {
    summary: "Take a module away, or one version of it",
    family: Family::Ours,
    takes: &[],
    body: Body::None,
    answers: &[
        Answer::json::<Deleted>(200, "These digests are gone."),
        Answer::ours(404, "There is no such module or version."),
        Answer::ours(409, "`in_use`: instances that have not ended run on it. `current`: it is the current one of several."),
        Answer::ours(503, "The store takes no writes now.").with(&[Header::RetryAfter]),
    ],
};

/// `DELETE /admin/modules/{name}` and `DELETE /admin/modules/{name}/versions/{digest}`: takes a module away, or one version of it.
///
/// 200 with the digests that are gone, 404 if there is none; 409 with the code `in_use` while instances that have not ended run on
/// one of them, and with `current` for the current version of a module that has others; 503 while the store takes no writes.
pub(super) async fn delete(engine: &Arc<Engine>, hub: &HubName, name: &str, digest: Option<&str>) -> Result<Reply, ApiError> {
    let unknown = || match digest {
        None => not_found(format!("there is no module {name:?} in this task hub")),
        Some(digest) => not_found(format!("module {name:?} has no version {digest:?} in this task hub")),
    };
    let module = name.parse().map_err(|_| unknown())?;
    let wanted = digest.map(str::parse).transpose().map_err(|_| unknown())?;
    match engine.delete_module(hub, &module, wanted).await {
        Ok(deleted) => Ok(Reply::json(StatusCode::OK, &Deleted { deleted })),
        Err(DeleteError::Unknown) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

async fn all(hub: Option<&Hub>) -> Result<Vec<ModuleView>, ApiError> {
    match hub {
        Some(hub) => hub.modules().await.map_err(ApiError::ours_internal),
        None => Ok(Vec::new()),
    }
}

async fn find(hub: Option<&Hub>, name: &str) -> Result<ModuleView, ApiError> {
    let found = all(hub).await?.into_iter().find(|view| view.name == name);
    found.ok_or_else(|| not_found(format!("there is no module {name:?} in this task hub")))
}

fn not_found(message: String) -> ApiError {
    ApiError::ours(StatusCode::NOT_FOUND, "not_found", message)
}

impl<'a> From<&'a ModuleView> for Module<'a> {
    fn from(view: &'a ModuleView) -> Self {
        Self { name: &view.name, current: view.current, versions: view.versions.iter().map(Version::from).collect() }
    }
}

impl<'a> From<&'a ModuleVersion> for Version<'a> {
    fn from(version: &'a ModuleVersion) -> Self {
        Self {
            digest: version.digest,
            uploaded_time: time::whole_seconds(version.uploaded_ms),
            bytes: version.bytes,
            generator: &version.generator,
            orchestrators: &version.orchestrators,
            activities: &version.activities,
            live_instances: version.live_instances,
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match &error {
            UploadError::Invalid(_) => Self::ours(StatusCode::BAD_REQUEST, "invalid_module", error),
            UploadError::FunctionTaken { .. } => Self::ours(StatusCode::CONFLICT, "function_taken", error),
            UploadError::Crowded => Self::ours_unavailable(error),
            UploadError::Store(cause) => Self::ours_unconfirmed(cause, &error),
            UploadError::Internal(_) => Self::ours_internal(error),
        }
    }
}

impl From<DeleteError> for ApiError {
    fn from(error: DeleteError) -> Self {
        match &error {
            DeleteError::Unknown => not_found(error.to_string()),
            DeleteError::Current => Self::ours(StatusCode::CONFLICT, "current", error),
            DeleteError::InUse { .. } => Self::ours(StatusCode::CONFLICT, "in_use", error),
            DeleteError::Store(cause) => Self::ours_unconfirmed(cause, &error),
            DeleteError::Internal(_) => Self::ours_internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_listed_with_its_versions_and_who_needs_them() {
        let version = ModuleVersion {
            digest: Digest([0xab; 32]),
            uploaded_ms: 1_772_352_000_999,
            bytes: 123,
            generator: "dacapo-guest 0.1.0".into(),
            orchestrators: vec!["Bake".into()],
            activities: vec![],
            live_instances: 2,
        };
        let view = ModuleView { name: "bakery".into(), current: version.digest, versions: vec![version.clone()] };
        let digest = "ab".repeat(32);
        let shown = format!(
            r#""digest":"{digest}","uploadedTime":"2026-03-01T08:00:00Z","bytes":123,"generator":"dacapo-guest 0.1.0","orchestrators":["Bake"],"activities":[],"liveInstances":2"#
        );
        let module = serde_json::to_string(&Module::from(&view)).unwrap();
        assert_eq!(module, format!(r#"{{"name":"bakery","current":"{digest}","versions":[{{{shown}}}]}}"#));
        let (name, hub) = ("bakery".parse().unwrap(), HubName::default_hub());
        let uploaded = Uploaded { name: &name, task_hub: &hub, version: (&version).into() };
        let uploaded = serde_json::to_string(&uploaded).unwrap();
        assert_eq!(uploaded, format!(r#"{{"name":"bakery","taskHub":"DurableFunctionsHub",{shown}}}"#));
    }

    #[test]
    fn every_reason_against_an_upload_has_its_code() {
        let taken = UploadError::FunctionTaken { function: "Bake".into(), owner: "bakery".into() };
        for (error, expected) in [
            (UploadError::Invalid("not wasm".into()), r#"400  {"error":{"code":"invalid_module","message":"not wasm"}}"#),
            (taken, r#"409  {"error":{"code":"function_taken","message":"function \"Bake\" belongs to module \"bakery\""#),
            (UploadError::Internal("disk".into()), r#"500  {"error":{"code":"internal","message":"an internal error"#),
        ] {
            let shown = ApiError::from(error).into_reply().shown();
            assert!(shown.starts_with(expected), "{shown}");
        }
    }
}
