//! How does an instance travel? As one file that holds all that a replay needs: its code, its history, and what is known of it.
//!
//! The file is a tar archive, so that people can open it with tools they know:
//!
//! | file | what it holds |
//! |---|---|
//! | `manifest.json` | a [`Manifest`]: format and version, the instance's row, its hub, who wrote the file |
//! | `history.jsonl` | the events of its present execution as they are stored, one behind the other, a line break behind each; payloads stand in them |
//! | `module.wasm` | the code that runs it by now, as it was uploaded |
//! | `modules/DIGEST.wasm` | code that it has run on before a rewind moved it, as far as that is still stored |
//!
//! Written piece by piece, so that a long history is never held as a whole. [`decode`] takes whatever bytes somebody brings.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType, Header};

use super::hub::{Hub, blocking};
use crate::clock::Clock;
use crate::model::{Digest, Event, HubName, InstanceId, Payload, Started, Tags, time};
use crate::store::sqlite::SqliteStore;
use crate::store::{InstanceRow, Store, StoreError};

/// The version of the format. What is added to a file without harm to those who do not know it raises nothing.
pub const VERSION: u32 = 1;

/// How a manifest says that it is one.
const FORMAT: &str = "dacapo-export";

const MANIFEST: &str = "manifest.json";
const HISTORY: &str = "history.jsonl";
const MODULE: &str = "module.wasm";

/// The largest manifest that is read, in bytes. One holds a custom status and tags, and a hundred digests have 7 KB.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;

/// The most events that are read: four times what a history may have by default. Each takes far more memory than it has bytes.
const EVENTS_MAX: usize = 4_000_000;

/// How many bytes of events are read from the store at a time, about.
const PAGE_BYTES: usize = 8 << 20;

/// How often an instance is looked for that is replaced while it is measured.
const TRIES: usize = 3;

/// What a file says of itself and of its instance. Times are ISO 8601, UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `dacapo-export`.
    pub format: String,
    /// Of the format; see [`VERSION`].
    pub version: u32,
    /// When the file was written.
    pub exported_at: String,
    /// The program that wrote it, and its version.
    pub exported_by: String,
    /// The instance's task hub.
    pub task_hub: HubName,
    /// Its ID.
    pub instance: InstanceId,
    /// The orchestrator's name, as the caller spelled it.
    pub function: String,
    /// Its runtime status, by the name that the wire uses.
    pub status: String,
    /// Why it is suspended, if it is and if it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When its present execution was started.
    pub created_at: String,
    /// When it last got on.
    pub updated_at: String,
    /// What its code last said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_status: Option<Payload>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Which code `module.wasm` is.
    pub module: Digest,
    /// Which code there is beside it, in `modules/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<Digest>,
    /// How many events the history has.
    pub events: u32,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The events, of which the first is `started`.
    pub history: Vec<Event>,
    /// The code by its digest; that of the manifest is among it.
    pub modules: BTreeMap<Digest, Vec<u8>>,
}

/// Why bytes are no export that can be read here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// They are no tar archive, or the archive breaks off.
    #[error("it is no tar archive, or is cut short: {0}")]
    NoArchive(String),
    /// A file is not in the archive.
    #[error("it has no {0}; an export has {MANIFEST}, {HISTORY} and {MODULE}")]
    Missing(&'static str),
    /// A newer version of this program wrote it.
    #[error("it has version {found} of the format, and this program knows versions up to {VERSION}; use a newer one")]
    Newer {
        /// What the manifest says.
        found: u32,
    },
    /// A file in the archive does not hold what it should.
    #[error("its {file} {why}")]
    Malformed {
        /// Which one.
        file: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads an export: bytes from anywhere, which need not be one.
///
/// The history is read and not judged: whether its events can follow one another like that, a replay finds out.
///
/// # Errors
/// As [`ArchiveError`] says.
pub fn decode(bytes: &[u8]) -> Result<Archive, ArchiveError> {
    let mut files = unpack(bytes)?;
    let file = |name: &'static str| files.get(name).ok_or(ArchiveError::Missing(name));
    let manifest = manifest(file(MANIFEST)?)?;
    let history = history(file(HISTORY)?)?;
    let mut modules = BTreeMap::new();
    let named = manifest.modules.iter().map(|digest| (format!("modules/{digest}.wasm"), digest));
    for (name, digest) in std::iter::once((MODULE.to_owned(), &manifest.module)).chain(named) {
        let Some(bytes) = files.remove(&name) else {
            if name == MODULE {
                return Err(ArchiveError::Missing(MODULE));
            }
            continue; // A replay needs only that which runs the instance by now.
        };
        let found = Digest::of(&bytes);
        if found != *digest {
            let why = format!("has the digest {found}, where {MANIFEST} says {digest}");
            return Err(ArchiveError::Malformed { file: name, why });
        }
        modules.insert(found, bytes);
    }
    Ok(Archive { manifest, history, modules })
}

impl Archive {
    /// The first event.
    pub fn started(&self) -> &Started {
        match self.history.first() {
            Some(Event::Started(started)) => started,
            _ => unreachable!("`decode` takes no other history"),
        }
    }
}

/// The plain files of a tar archive that an export may have, by their names. Whatever else is in it does not matter.
fn unpack(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, ArchiveError> {
    let broken = |error: io::Error| ArchiveError::NoArchive(error.to_string());
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let Ok(name) = String::from_utf8(entry.path_bytes().into_owned()) else { continue };
        let name = name.trim_start_matches("./").to_owned();
        let is_ours = [MANIFEST, HISTORY, MODULE].contains(&name.as_str()) || name.starts_with("modules/");
        if !is_ours || entry.header().entry_type() != EntryType::Regular {
            continue;
        }
        let size = entry.size();
        if name == MANIFEST && size > MANIFEST_BYTES_MAX {
            let why = format!("has {size} bytes, and may have {MANIFEST_BYTES_MAX}");
            return Err(ArchiveError::Malformed { file: name, why });
        }
        // No size is believed: a file in an archive is no longer than the archive.
        let mut file = Vec::new();
        entry.read_to_end(&mut file).map_err(broken)?;
        if file.len() as u64 != size {
            return Err(ArchiveError::NoArchive(format!("{name} has {} of {size} bytes", file.len())));
        }
        if files.insert(name.clone(), file).is_some() {
            return Err(ArchiveError::Malformed { file: name, why: "is there twice".into() });
        }
    }
    Ok(files)
}

fn manifest(bytes: &[u8]) -> Result<Manifest, ArchiveError> {
    #[derive(Deserialize)]
    struct Heading {
        format: String,
        version: u32,
    }
    let malformed = |why: String| ArchiveError::Malformed { file: MANIFEST.into(), why };
    let unreadable = |error: serde_json::Error| malformed(format!("cannot be read: {error}"));
    // What else a newer one has in it is not ours to judge.
    let heading: Heading = serde_json::from_slice(bytes).map_err(unreadable)?;
    match heading {
        Heading { format, .. } if format != FORMAT => Err(malformed(format!("has the format {format:?}, not {FORMAT:?}"))),
        Heading { version: 0, .. } => Err(malformed("has version 0, which never was".into())),
        Heading { version: found, .. } if found > VERSION => Err(ArchiveError::Newer { found }),
        _ => serde_json::from_slice(bytes).map_err(unreadable),
    }
}

/// Events behind one another. A payload that somebody sent with line breaks has them still, so lines are not counted on.
fn history(bytes: &[u8]) -> Result<Vec<Event>, ArchiveError> {
    let malformed = |why: String| ArchiveError::Malformed { file: HISTORY.into(), why };
    let mut history = Vec::new();
    for event in serde_json::Deserializer::from_slice(bytes).into_iter::<Event>() {
        let event = event.map_err(|error| malformed(format!("cannot be read from event {} on: {error}", history.len())))?;
        if history.len() == EVENTS_MAX {
            return Err(malformed(format!("has more than {EVENTS_MAX} events")));
        }
        history.push(event);
    }
    match history.first() {
        Some(Event::Started(_)) => Ok(history),
        _ => Err(malformed("does not begin with `started`".into())),
    }
}

/// An instance that is to be written into a file: as it stood when this was made, if nobody takes it away meanwhile.
pub struct Export {
    store: Arc<dyn Store>,
    row: InstanceRow,
    manifest: Manifest,
    history_bytes: u64,
    now_ms: u64,
}

impl Hub {
    /// What an export of an instance writes. `None` if there is no such instance.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn export(&self, id: &InstanceId) -> Result<Option<Export>, StoreError> {
        let (shell, id) = (self.shell.clone(), id.clone());
        let now_ms = shell.machinery.clock.now_ms();
        blocking(move || {
            let row_of = || shell.row_of(&id);
            Export::find(shell.machinery.store.clone(), &shell.row.name, row_of, now_ms)
        })
        .await
    }
}

impl Export {
    /// The same of a data directory that no server has open. `None` if there is no such hub or instance.
    ///
    /// # Errors
    /// If the store cannot be opened or read.
    pub fn offline(data: &Path, hub: &HubName, id: &InstanceId) -> Result<Option<Self>, StoreError> {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(data)?);
        let Some(hub) = store.hubs()?.into_iter().find(|row| row.name == *hub) else { return Ok(None) };
        let reader = store.clone();
        Self::find(store, &hub.name, || reader.instance(hub.key, id), Clock.now_ms())
    }

    fn find(
        store: Arc<dyn Store>,
        hub: &HubName,
        row_of: impl Fn() -> Result<Option<InstanceRow>, StoreError>,
        now_ms: u64,
    ) -> Result<Option<Self>, StoreError> {
        let mut tries = 0;
        loop {
            let Some(row) = row_of()? else { return Ok(None) };
            match Self::measure(store.clone(), hub, row, now_ms) {
                // It was replaced or has continued as new since the row was read, or else it is damaged.
                Err(StoreError::Corrupt(_)) if tries < TRIES => tries += 1,
                measured => return measured.map(Some),
            }
        }
    }

    /// Goes through the history once, since a file in an archive has its length before it.
    fn measure(store: Arc<dyn Store>, hub: &HubName, row: InstanceRow, now_ms: u64) -> Result<Self, StoreError> {
        let mut history_bytes = 0;
        let mut ran_on = Vec::new();
        let mut events = Events::of(store.as_ref(), &row);
        while let Some(page) = events.next_page()? {
            for event in page {
                history_bytes += line(&event).len() as u64;
                match event {
                    Event::Started(Started { module, .. }) | Event::Rewound { module: Some(module), .. } => ran_on.push(module),
                    _ => (),
                }
            }
        }
        ran_on.retain(|digest| *digest != row.module);
        ran_on.sort_unstable();
        ran_on.dedup();
        let mut modules = Vec::new();
        for digest in ran_on {
            if store.module_bytes(digest)?.is_some() {
                modules.push(digest);
            }
        }
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            exported_at: time::exact(now_ms),
            exported_by: concat!("dacapo ", env!("CARGO_PKG_VERSION")).into(),
            task_hub: hub.clone(),
            instance: row.id.clone(),
            function: row.function.clone(),
            status: row.status.name().into(),
            reason: row.reason.clone(),
            created_at: time::exact(row.created_ms),
            updated_at: time::exact(row.updated_ms),
            custom_status: row.custom_status.clone(),
            tags: row.tags.clone(),
            module: row.module,
            modules,
            events: row.length,
        };
        Ok(Self { store, row, manifest, history_bytes, now_ms })
    }

    /// Writes the file. Blocks, for as long as `out` does. Holds one module, and some megabytes of events.
    ///
    /// # Errors
    /// If `out` takes no more, the store cannot be read, or the instance is taken away meanwhile. What was written is of no use then.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut archive = Builder::new(out);
        let manifest = serde_json::to_vec_pretty(&self.manifest).map_err(io::Error::other)?;
        self.append(&mut archive, MANIFEST, manifest.len() as u64, &mut &manifest[..])?;
        let mut lines = Lines { events: Events::of(self.store.as_ref(), &self.row), text: Vec::new(), given: 0 };
        self.append(&mut archive, HISTORY, self.history_bytes, &mut lines)?;
        let others = self.manifest.modules.iter().map(|digest| (format!("modules/{digest}.wasm"), *digest));
        for (name, digest) in std::iter::once((MODULE.to_owned(), self.row.module)).chain(others) {
            let bytes = self.store.module_bytes(digest).map_err(io::Error::other)?;
            let bytes = bytes.ok_or_else(|| io::Error::other(format!("module {digest} is not stored any more")))?;
            self.append(&mut archive, &name, bytes.len() as u64, &mut &bytes[..])?;
        }
        archive.into_inner()?.flush()
    }

    fn append(&self, archive: &mut Builder<&mut dyn Write>, name: &str, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_path(name)?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(self.now_ms / 1_000);
        header.set_cksum();
        let mut counted = Counted { content, left: size };
        archive.append(&header, &mut counted)?;
        if counted.left > 0 {
            return Err(io::Error::other(format!("{name} has become shorter while it was written")));
        }
        Ok(())
    }
}

/// An event as it stands in a file.
fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("events have string keys and print without errors");
    line.push(b'\n');
    line
}

/// The events that an instance has by its row, page by page.
struct Events<'a> {
    store: &'a dyn Store,
    row: &'a InstanceRow,
    next: u32,
}

impl<'a> Events<'a> {
    fn of(store: &'a dyn Store, row: &'a InstanceRow) -> Self {
        Self { store, row, next: 0 }
    }

    fn next_page(&mut self) -> Result<Option<Vec<Event>>, StoreError> {
        let left = self.row.length - self.next;
        if left == 0 {
            return Ok(None);
        }
        let mut page = self.store.history_from(self.row.execution, self.next, PAGE_BYTES)?;
        page.truncate(left as usize);
        if page.is_empty() {
            return Err(StoreError::Corrupt(format!("the history of instance {} is not whole", self.row.id)));
        }
        self.next += u32::try_from(page.len()).expect("no more than are left");
        Ok(Some(page))
    }
}

/// The same as text.
struct Lines<'a> {
    events: Events<'a>,
    text: Vec<u8>,
    /// How much of the text was read.
    given: usize,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.text.len() {
            let Some(page) = self.events.next_page().map_err(io::Error::other)? else { return Ok(0) };
            self.text.clear();
            self.given = 0;
            page.iter().for_each(|event| self.text.extend(line(event)));
        }
        let count = (&self.text[self.given..]).read(buffer)?;
        self.given += count;
        Ok(count)
    }
}

/// No more than what a header has announced; and how much of that is missing.
struct Counted<'a> {
    content: &'a mut dyn Read,
    left: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.content.read(&mut buffer[..room])?;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::execution::tests::{ended, scheduled, started, turn};
    use crate::store::memory::MemoryStore;
    use crate::store::suite::World;

    /// A tar archive of these files.
    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, *bytes).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn text(events: &[Event]) -> Vec<u8> {
        events.iter().flat_map(line).collect()
    }

    /// An instance of three events, as the store of tests has it.
    fn exported() -> Vec<u8> {
        let store = MemoryStore::new();
        let world = World::new(&store);
        store.commit(&[world.create(1, "loaf")]).unwrap();
        store.commit(&[world.advance(1, 1)]).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let row = || store.instance(world.hub, &"loaf".parse().unwrap());
        let export = Export::find(store.clone(), &HubName::default_hub(), row, 1_772_352_000_120).unwrap().unwrap();
        let mut bytes = Vec::new();
        export.write(&mut bytes).unwrap();
        assert_eq!(store.history(export.row.execution).unwrap(), decode(&bytes).unwrap().history);
        bytes
    }

    #[test]
    fn what_was_exported_is_read_again() {
        let archive = decode(&exported()).unwrap();
        let Manifest { instance, status, exported_at, events, module, .. } = &archive.manifest;
        assert_eq!((instance.as_str(), status.as_str(), *events as usize), ("loaf", "Running", archive.history.len()));
        assert_eq!(exported_at, "2026-03-01T08:00:00.12Z");
        assert_eq!(archive.modules.keys().collect::<Vec<_>>(), [module]);
        assert!(matches!(&archive.history[0], Event::Started(_)));
    }

    #[test]
    fn payloads_keep_their_line_breaks_and_files_that_others_packed_are_read() {
        let input = Payload::parse("{\n  \"grams\":\n750 }".into()).unwrap();
        let history = [Event::Started(Started { input, ..started() }), turn(1_000, 0), scheduled(0, "Mix"), ended()];
        let wasm = b"\0asm";
        let manifest = Manifest {
            module: Digest::of(wasm),
            modules: vec![Digest::of(b"older"), Digest::of(b"gone")],
            ..decode(&exported()).unwrap().manifest
        };
        let older = format!("./modules/{}.wasm", Digest::of(b"older"));
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let files: [(&str, &[u8]); 5] = [
            ("notes.txt", b"what was it?"),
            ("./module.wasm", wasm),
            (&older, b"older"),
            ("./history.jsonl", &text(&history)),
            ("./manifest.json", &manifest),
        ];
        let archive = decode(&packed(&files)).unwrap();
        assert_eq!(archive.history, history);
        assert_eq!(archive.modules.len(), 2);
    }

    #[test]
    fn what_is_no_export_is_refused_with_what_is_wrong() {
        let good = decode(&exported()).unwrap();
        let check = |change: &dyn Fn(&mut serde_json::Value), history: &[u8], wasm: &[u8], expected: &str| {
            let mut manifest = serde_json::to_value(&good.manifest).unwrap();
            change(&mut manifest);
            let manifest = manifest.to_string().into_bytes();
            let bytes = packed(&[(MANIFEST, &manifest), (HISTORY, history), (MODULE, wasm)]);
            let error = decode(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let (history, wasm) = (text(&good.history), &good.modules[&good.manifest.module][..]);
        let same = |_: &mut serde_json::Value| ();
        check(&|manifest| manifest["version"] = 2.into(), &history, wasm, "version 2 of the format");
        check(&|manifest| manifest["version"] = 0.into(), &history, wasm, "never was");
        check(&|manifest| manifest["format"] = "zip".into(), &history, wasm, "format \"zip\"");
        check(&|manifest| manifest["instance"] = "a/b".into(), &history, wasm, "must not contain");
        check(&|manifest| manifest["events"] = "many".into(), &history, wasm, "its manifest.json cannot be read");
        check(&same, b"", wasm, "does not begin with `started`");
        check(&same, b"{\"resumed\":{\"at_ms\":1}}", wasm, "does not begin with `started`");
        check(&same, &[&history[..], b"{\"baked\":{}}"].concat(), wasm, "cannot be read from event 3 on: unknown variant");
        check(&same, &history, b"other", "module.wasm has the digest");
        for (bytes, expected) in [
            (Vec::new(), "it has no manifest.json"),
            (b"what is this?".to_vec(), "no tar archive"),
            (packed(&[(MANIFEST, b"{}"), (MANIFEST, b"{}")]), "is there twice"),
            (packed(&[(MANIFEST, b"{}")]), "its manifest.json cannot be read"),
        ] {
            let error = decode(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn no_beginning_of_a_file_passes_for_a_whole_one_and_no_broken_byte_panics() {
        let bytes = exported();
        let whole = decode(&bytes).unwrap();
        // The last two blocks say that there is no more.
        for length in (0..bytes.len() - 1_024).step_by(7) {
            let cut = decode(&bytes[..length]);
            assert!(cut.is_err() || cut == Ok(whole.clone()) && length > bytes.len() - 1_536, "{length} of {}", bytes.len());
        }
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x55;
            let _ = decode(&broken);
        }
    }

    #[test]
    fn fuzzed_exports_are_read_or_refused() {
        crate::fuzz::fuzz("export", crate::fuzz::Shape::Bytes, |bytes| match decode(bytes) {
            Ok(_) => "export".into(),
            Err(error) => error.to_string(),
        });
    }
}
