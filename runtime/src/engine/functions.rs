//! Which module has a function? The current versions of a hub's modules, by what they offer.

use std::collections::HashMap;
use std::sync::Arc;

use crate::host::Catalog;
use crate::model::{Digest, ModuleName, Versions};

/// The code of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Code {
    pub module: Digest,
    /// What writes its history.
    pub made_by: Versions,
}

impl Code {
    /// That of a module whose catalog this is.
    pub(super) fn of(module: Digest, catalog: &Catalog) -> Self {
        let (contract, generator) = (catalog.contract.clone(), catalog.generator.clone());
        Self { module, made_by: Versions { contract, host: env!("CARGO_PKG_VERSION").into(), generator } }
    }
}

/// The functions of a hub, as its modules' current versions offer them. Names are found without regard to case.
#[derive(Default)]
pub(super) struct Functions {
    modules: HashMap<ModuleName, Current>,
    orchestrators: HashMap<String, ModuleName>,
    activities: HashMap<String, ModuleName>,
}

struct Current {
    digest: Digest,
    catalog: Arc<Catalog>,
}

impl Functions {
    /// Makes this the current version of `module`.
    pub(super) fn set(&mut self, module: ModuleName, digest: Digest, catalog: Arc<Catalog>) {
        self.take_names(&module);
        for name in &catalog.orchestrators {
            self.orchestrators.insert(name.to_lowercase(), module.clone());
        }
        for name in &catalog.activities {
            self.activities.insert(name.to_lowercase(), module.clone());
        }
        self.modules.insert(module, Current { digest, catalog });
    }

    /// Takes the functions of `module` away, if its current version is one of `digests`.
    pub(super) fn remove(&mut self, module: &ModuleName, digests: &[Digest]) {
        if self.modules.get(module).is_some_and(|current| digests.contains(&current.digest)) {
            self.modules.remove(module);
            self.take_names(module);
        }
    }

    fn take_names(&mut self, module: &ModuleName) {
        self.orchestrators.retain(|_, owner| owner != module);
        self.activities.retain(|_, owner| owner != module);
    }

    /// The function of `catalog` that another module than `module` has already, and that module.
    pub(super) fn taken<'a>(&self, module: &ModuleName, catalog: &'a Catalog) -> Option<(&'a str, &ModuleName)> {
        catalog.functions().find_map(|name| {
            let lower = name.to_lowercase();
            let owner = self.orchestrators.get(&lower).or_else(|| self.activities.get(&lower))?;
            (owner != module).then_some((name, owner))
        })
    }

    /// What the module offers whose current version this is.
    pub(super) fn catalog(&self, digest: Digest) -> Option<Arc<Catalog>> {
        self.modules.values().find(|current| current.digest == digest).map(|current| current.catalog.clone())
    }

    /// Which code runs new instances of the orchestrator `name`.
    pub(super) fn orchestrator(&self, name: &str) -> Option<Code> {
        let current = &self.modules[self.orchestrators.get(&name.to_lowercase())?];
        Some(Code::of(current.digest, &current.catalog))
    }

    /// Which code runs the activity `name` now.
    pub(super) fn activity(&self, name: &str) -> Option<Digest> {
        let owner = self.activities.get(&name.to_lowercase())?;
        Some(self.modules[owner].digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(orchestrators: &[&str], activities: &[&str]) -> Arc<Catalog> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (contract, generator) = ("0.1.0".into(), "by hand".into());
        Arc::new(Catalog { contract, generator, orchestrators: names(orchestrators), activities: names(activities) })
    }

    #[test]
    fn a_new_version_replaces_the_functions_of_the_old_one() {
        let (bakery, shop): (ModuleName, ModuleName) = ("bakery".parse().unwrap(), "shop".parse().unwrap());
        let mut functions = Functions::default();
        functions.set(bakery.clone(), Digest([1; 32]), catalog(&["BakeBread"], &["Mix", "Bake"]));
        assert_eq!(functions.orchestrator("bakebread").unwrap().module, Digest([1; 32]));
        assert_eq!(functions.taken(&shop, &catalog(&["Sell"], &["MIX"])), Some(("MIX", &bakery)));
        assert_eq!(functions.taken(&bakery, &catalog(&["Mix"], &[])), None);

        functions.set(bakery, Digest([2; 32]), catalog(&["BakeBread"], &["Bake"]));
        assert_eq!(functions.activity("BAKE"), Some(Digest([2; 32])));
        assert_eq!(functions.activity("Mix"), None);
        assert_eq!(functions.taken(&shop, &catalog(&["Sell"], &["MIX"])), None);
    }
    #[test]
    fn a_module_that_goes_leaves_its_names_to_others() {
        let (bakery, shop): (ModuleName, ModuleName) = ("bakery".parse().unwrap(), "shop".parse().unwrap());
        let mut functions = Functions::default();
        functions.set(bakery.clone(), Digest([1; 32]), catalog(&["BakeBread"], &["Mix"]));
        functions.set(shop.clone(), Digest([3; 32]), catalog(&["Sell"], &[]));
        functions.remove(&bakery, &[Digest([9; 32])]);
        assert!(functions.orchestrator("BakeBread").is_some(), "an older version has gone");
        functions.remove(&bakery, &[Digest([2; 32]), Digest([1; 32])]);
        assert!(functions.orchestrator("BakeBread").is_none() && functions.activity("Mix").is_none());
        assert_eq!(functions.taken(&shop, &catalog(&["BakeBread"], &["Mix"])), None);
        assert!(functions.orchestrator("Sell").is_some());
    }
}
