//! Which stores does a server work on? The one in its data directory, and further ones that requests name, each with an engine of its own in
//! this process. They share nothing but the machine and the metrics.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use serde::Deserialize;

use super::{Engine, EngineSettings, OpenError, Unready};
use crate::limits::Limits;
use crate::metrics::{Metrics, Sample};
use crate::model::StoreName;

/// A further store, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// Its data directory, which no other store has.
    pub data: PathBuf,
}

/// The engines of a server by the names of their stores. The first is the one that is meant when a request names none.
pub struct Stores(Vec<(StoreName, Arc<Engine>)>);

impl Stores {
    /// Opens the store in the data directory of `settings`, and the `others`, all with the same settings but for the directory, and goes on
    /// with everything that is open there, in the background.
    ///
    /// # Errors
    /// As [`Engine::open`], and if two stores have the same directory, or one has its own in that of another. What was opened before that is closed again.
    pub fn open(settings: EngineSettings, others: &[(StoreName, StoreSettings)]) -> Result<Self, OpenError> {
        let count = u32::try_from(1 + others.len()).unwrap_or(u32::MAX);
        let mut directories: Vec<(StoreName, PathBuf)> = Vec::new();
        let mut stores = Self(Vec::new());
        let first = (StoreName::default_store(), settings.data.as_path());
        for (name, data) in std::iter::once(first).chain(others.iter().map(|(name, other)| (name.clone(), other.data.as_path())))
        {
            if let Some((other, _)) = directories.iter().find(|(_, known)| is_within(known, data) || is_within(data, known)) {
                let (data, other) = (data.to_owned(), other.clone());
                stores.close();
                return Err(OpenError::SameDirectory { data, name, other });
            }
            let settings = EngineSettings { data: data.to_owned(), share: count, ..settings.clone() };
            match Engine::open(settings) {
                Ok(engine) => stores.0.push((name.clone(), engine)),
                Err(error) => {
                    stores.close();
                    return Err(error);
                }
            }
            directories.push((name, data.to_owned()));
        }
        Ok(stores)
    }

    fn first(&self) -> &Arc<Engine> {
        &self.0[0].1
    }

    /// The engine of this store, if it is configured.
    pub fn engine(&self, name: &StoreName) -> Option<&Arc<Engine>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, engine)| engine)
    }

    /// The names of all stores as they are configured, that of the default one first.
    pub fn names(&self) -> impl Iterator<Item = &StoreName> + Clone {
        self.0.iter().map(|(name, _)| name)
    }

    /// The bounds in force, which are the same for all of them.
    pub fn limits(&self) -> &Limits {
        self.first().limits()
    }

    /// What is counted, over all of them.
    pub fn metrics(&self) -> &Metrics {
        self.first().metrics()
    }

    /// What keeps the server from doing all its work, and with which store, if not with the default one. Nothing if it is ready.
    pub fn unready(&self) -> Vec<(Option<&StoreName>, Unready)> {
        let by_name = self.0.iter().enumerate().map(|(number, (name, engine))| ((number > 0).then_some(name), engine));
        by_name.flat_map(|(name, engine)| engine.unready().into_iter().map(move |unready| (name, unready))).collect()
    }

    /// How the server stands, over all of them. Takes each partition's lock for a moment.
    pub fn sample(&self) -> Sample {
        self.0.iter().map(|(_, engine)| engine.sample()).sum()
    }

    /// From here on none of them begins anything new, as [`Engine::drain`] says.
    pub fn drain(&self) {
        self.0.iter().for_each(|(_, engine)| engine.drain());
    }

    /// Stops all of them at once, as [`Engine::close`] does one.
    pub fn close(&self) {
        thread::scope(|scope| {
            for (_, engine) in &self.0 {
                scope.spawn(|| engine.close());
            }
        });
    }
}

/// Whether `inner` leads to the directory `outer` or into it, whatever links are on the way and however much of it is there yet.
fn is_within(outer: &Path, inner: &Path) -> bool {
    let Ok(outer) = fs::canonicalize(outer) else { return false };
    let Ok(inner) = std::path::absolute(inner) else { return false };
    let there = inner.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
    there.is_some_and(|(above, there)| there.join(inner.strip_prefix(above).unwrap_or(Path::new(""))).starts_with(outer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Compiler;

    fn open(data: &Path, others: &[(&str, &Path)]) -> Result<Stores, OpenError> {
        let settings = EngineSettings {
            data: data.to_owned(),
            limits: Limits { residents_max: 10, activities_running_max: 4, ..Limits::default() },
            compiler: Compiler::InProcess,
            surroundings: crate::host::SurroundingsByHub::default(),
            metrics: Arc::default(),
            share: 1,
        };
        let others = others.iter().map(|(name, data)| (name.parse().unwrap(), StoreSettings { data: (*data).to_owned() }));
        Stores::open(settings, &others.collect::<Vec<_>>())
    }

    #[test]
    fn a_directory_belongs_to_one_store() {
        let folder = tempfile::tempdir().unwrap();
        let [data, archive, link] = ["data", "archive", "link"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(&archive, &link).unwrap();
        let Err(error) = open(&data, &[("Archive", &archive), ("Again", &link)]) else { panic!("it was opened twice") };
        let expected = format!(
            "store \"Again\" cannot have the directory {}, which store \"Archive\" has: give it one of its own",
            link.display()
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn no_store_lies_in_the_directory_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        for (outer, inner) in [(data.clone(), data.join("compiled")), (data.join("a/b"), data.join("a"))] {
            let Err(error) = open(&outer, &[("Inner", &inner)]) else { panic!("{} was opened", inner.display()) };
            assert!(error.to_string().starts_with("store \"Inner\" cannot have the directory "), "{error}");
        }
        assert!(!is_within(&data, &folder.path().join("database")), "a name that begins alike is another one");
    }

    #[test]
    fn a_store_is_found_by_its_name_in_any_case() {
        let folder = tempfile::tempdir().unwrap();
        let stores = open(&folder.path().join("data"), &[("Archive", &folder.path().join("archive"))]).unwrap();
        assert_eq!(stores.names().map(StoreName::as_str).collect::<Vec<_>>(), ["Storage", "Archive"]);
        let engine = |name: &str| stores.engine(&name.parse().unwrap());
        assert!(engine("ARCHIVE").is_some() && engine("storage").is_some() && engine("Again").is_none());
        stores.close();
    }
}
