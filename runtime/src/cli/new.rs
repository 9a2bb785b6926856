//! `dacapo new`: how does somebody get from nothing to a module that builds, runs and has tests?

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::output::say;
use super::server::shell_path;

/// The guest SDK of the checkout that this program was built from, if it still lies there.
const SDK_OF_CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk");

/// What is written, by its path in the new folder. `{{name}}` and `{{sdk}}` are filled in.
///
/// The manifest has another name here: cargo leaves folders with a `Cargo.toml` out of packages.
const TEMPLATE: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("template/Cargo.toml.in")),
    ("src/lib.rs", include_str!("template/lib.rs")),
    ("README.md", include_str!("template/README.md")),
    (".gitignore", include_str!("template/gitignore")),
];

/// Names that a crate beside Rust's own and the template's dependencies cannot have, and Rust's keywords.
const NAMES_TAKEN: &str = include_str!("template/names-taken.txt");

/// The longest name of a module, in characters: what crates.io takes too.
const NAME_CHARS_MAX: usize = 64;

/// Make the crate of a new module: an orchestrator and two activities to begin with
///
/// It builds, runs and has tests as it is. `dacapo dev` in its folder is the next step.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Example:\n  dacapo new bakery && dacapo dev bakery")]
pub(super) struct New {
    /// The name of the crate, and of the module
    #[arg(value_parser = crate_name)]
    name: String,

    /// The folder to make [default: one of this name, here]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,

    /// The folder of the crate dacapo-guest [default: that of this program's checkout]
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

impl New {
    /// Makes the folder, or leaves everything as it was.
    pub(super) fn run(self) -> Result<()> {
        let Self { name, path, sdk } = self;
        let folder = path.unwrap_or_else(|| PathBuf::from(&name));
        let shown = folder.display();
        let sdk = find_sdk(sdk.as_deref(), Path::new(SDK_OF_CHECKOUT))?;
        ensure!(
            is_free(&folder)?,
            "{shown} is there already and not empty: choose another name, or another folder with --path; nothing was changed"
        );

        let dependency = format!("{{ path = {} }}", toml_text(&sdk)?);
        for (file, text) in TEMPLATE {
            let file = folder.join(file);
            let parent = file.parent().unwrap_or(&folder);
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
            let text = text.replace("{{name}}", &name).replace("{{sdk}}", &dependency);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        }

        say(format_args!(
            "Made the module {name} in {shown}: an orchestrator and two activities, in src/lib.rs.\n\
             Its dependency dacapo-guest comes from {sdk}, as its Cargo.toml says.\n\n\
             Next:\n  cd {folder}\n  dacapo dev",
            sdk = sdk.display(),
            folder = shell_path(&folder)
        ))
    }
}

/// Whether there is no such folder yet, or an empty one.
fn is_free(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("look into {}", folder.display())),
    }
}

/// The folder of the SDK: the one `given`, or else that of the checkout, which may be gone.
fn find_sdk(given: Option<&Path>, of_checkout: &Path) -> Result<PathBuf> {
    match given {
        Some(given) => checked_sdk(given),
        None => checked_sdk(of_checkout).ok().context(
            "the checkout that this program was built from is gone: give the folder `guest-sdk` of another one with --sdk PATH",
        ),
    }
}

/// The absolute path of a folder that has the SDK.
fn checked_sdk(folder: &Path) -> Result<PathBuf> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok().and_then(|text| text.parse::<toml::Table>().ok());
    let name = manifest.as_ref().and_then(|manifest| manifest.get("package")?.get("name")?.as_str());
    ensure!(
        name == Some("dacapo-guest"),
        "{} is not the folder of the crate dacapo-guest, which is `guest-sdk` in a checkout of Dacapo",
        folder.display()
    );
    folder.canonicalize().with_context(|| format!("find {}", folder.display()))
}

fn toml_text(path: &Path) -> Result<toml::Value> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8, so that Cargo.toml cannot name it", path.display()))?;
    Ok(toml::Value::String(text.to_owned()))
}

/// A name that a crate can have, so that cargo will not refuse later.
fn crate_name(name: &str) -> Result<String, String> {
    let is_of_crates = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(is_of_crates) || name.len() > NAME_CHARS_MAX {
        return Err(format!(
            "the name of a crate is made of up to {NAME_CHARS_MAX} ASCII letters, digits, - and _, and begins with a letter"
        ));
    }
    let as_in_code = name.replace('-', "_");
    if NAMES_TAKEN.split_whitespace().any(|taken| taken == as_in_code) {
        return Err("Rust or one of the dependencies has this name already".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cargo_would_refuse_is_refused_at_once() {
        for good in ["greeter", "my-first", "a", "b2_c", "Order"] {
            assert_eq!(crate_name(good).as_deref(), Ok(good));
        }
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        for bad in ["", "2nd", "-x", "a b", "grüße", "a.b", "../up", &long, "fn", "serde", "dacapo-guest", "test"] {
            assert!(crate_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_with_quotes_in_its_name_can_be_named_in_a_manifest() {
        for folder in ["/home/ada/guest-sdk", r#"/home/"ada"\guest'sdk"#] {
            let line = format!("sdk = {{ path = {} }}", toml_text(Path::new(folder)).unwrap());
            let read: toml::Table = line.parse().unwrap();
            assert_eq!(read["sdk"]["path"].as_str(), Some(folder));
        }
    }

    #[test]
    fn without_a_checkout_the_sdk_has_to_be_given() {
        let here = Path::new(SDK_OF_CHECKOUT);
        let found = here.canonicalize().unwrap();
        assert_eq!(find_sdk(None, here).unwrap(), found);
        assert_eq!(find_sdk(Some(here), Path::new("/gone")).unwrap(), found);
        let error = find_sdk(None, Path::new("/gone")).unwrap_err().to_string();
        assert!(error.contains("with --sdk PATH"), "{error}");
    }
}
