//! Is a data directory as it should be? A check of all that can be read from it, offline: the file, the rows, and each instance by
//! replaying it.
//!
//! Goes on behind whatever is wrong, and changes nothing. Needs no more memory than a page of instances and one history.

mod agreement;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::step::children;
use super::turns::REPLAY_PATIENCE;
use super::{COMPILED, catalog_of};
use crate::host::{CompiledCode, Compiler, Host, ModuleError, NoGuest};
use crate::limits::Limits;
use crate::model::{Digest, Execution, HubName, InstanceId, MessageKey, Parent, TaskId};
use crate::replay;
use crate::store::sqlite::{Amount, Inspector};
use crate::store::{HubRow, InstanceRow, StoreError};

/// How many findings are told one by one; of the others only how many there are.
const FINDINGS_MAX: usize = 100;

/// What was checked, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How many task hubs there are.
    pub hubs: u64,
    /// How many modules by content, each read and hashed.
    pub modules: u64,
    /// How many messages are on their way between instances.
    pub messages: u64,
    /// How many instances there are, each replayed to where it stands.
    pub instances: u64,
    /// How many of them have ended.
    pub ended: u64,
    /// How many events they have.
    pub events: u64,
    /// How many turns were played.
    pub turns: u64,
    /// What is wrong, the first of it.
    pub findings: Vec<Finding>,
    /// How much that is in all.
    pub found: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub check: Check,
    /// Whose it is, if it is one instance's.
    pub instance: Option<(HubName, InstanceId)>,
    /// What is wrong, as a sentence for people.
    pub what: String,
}

/// What there is to check, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The file and its indexes.
    File,
    /// What has to hold between rows.
    Rows,
    /// Modules: their bytes are those of their digests, their catalogs can be read.
    Modules,
    /// Messages between instances.
    Messages,
    /// Rows of instances agree with their histories, in which no task is answered twice or without having been asked for.
    Histories,
    /// Children that instances wait for are there, or something about them is on its way.
    Children,
    /// The module does what the history says.
    Replay,
}

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being checked; [`Check::Replay`] for all that is asked of an instance.
    pub check: Check,
    /// How many are done.
    pub done: u64,
    /// Of how many; 0 if that is not to be said.
    pub of: u64,
}

/// Why there is no report, or none that [`verify`] is content with.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Guests cannot be run.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// Something is wrong.
    #[error("{0}")]
    Unsound(Box<Report>),
}

impl Check {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Rows => "rows",
            Self::Modules => "modules",
            Self::Messages => "messages",
            Self::Histories => "histories",
            Self::Children => "children",
            Self::Replay => "replay",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((hub, id)) = &self.instance {
            write!(f, "instance {id} of task hub {hub}: ")?;
        }
        write!(f, "{} ({})", self.what, self.check.name())
    }
}

/// The findings, a line for each, and how many more there are.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let more = self.found - self.findings.len() as u64;
        if more > 0 {
            writeln!(f, "and {more} more")?;
        }
        let Self { hubs, modules, messages, instances, ended, events, turns, found, .. } = self;
        let verdict = if *found == 0 { "sound".to_owned() } else { format!("not sound, {found} findings") };
        write!(
            f,
            "{verdict}: {instances} instances of {hubs} task hubs ({ended} ended), {events} events, {turns} turns replayed, \
             {modules} modules, {messages} messages on their way"
        )
    }
}

/// As [`examine`], for tests: compiles in this process, and is not content with findings.
///
/// # Errors
/// Those of [`examine`], and [`VerifyError::Unsound`] if anything is wrong.
pub fn verify(data: &Path, limits: &Limits) -> Result<Report, VerifyError> {
    let report = examine(data, limits, Compiler::InProcess, &mut |_| ())?;
    if report.found > 0 { Err(VerifyError::Unsound(Box::new(report))) } else { Ok(report) }
}

/// Checks the data directory `data`, or a copy of one, which no server may have open, and tells `progress` how far it has come. Modules whose
/// compiled code is not there are compiled for this alone, by `compiler`; `limits` are those of the server.
///
/// # Errors
/// If it cannot be checked at all. What is wrong with it is in the report.
pub fn examine(
    data: &Path,
    limits: &Limits,
    compiler: Compiler,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, VerifyError> {
    let store = Inspector::open(data)?;
    // One guest at a time: no room for residents is needed.
    let limits = Limits { residents_max: 1, ..limits.clone() };
    let compiled = data.join(COMPILED);
    let host = Host::new(CompiledCode::Borrowed(&compiled), &limits, 1, 1, compiler, Arc::default())?;
    let mut examination = Examination { store, host, limits, amount: Amount::default(), report: Report::default(), progress };
    examination.run();
    Ok(examination.report)
}

/// A check at work.
struct Examination<'a> {
    store: Inspector,
    host: Host,
    limits: Limits,
    amount: Amount,
    report: Report,
    progress: &'a mut dyn FnMut(Progress),
}

impl Examination<'_> {
    fn run(&mut self) {
        self.step(Check::File, 0, 0);
        match self.store.damage(FINDINGS_MAX) {
            Ok(found) => found.into_iter().for_each(|what| self.note(Check::File, None, what)),
            Err(error) => self.note(Check::File, None, error.to_string()),
        }
        match self.store.amount() {
            Ok(amount) => self.amount = amount,
            Err(error) => self.note(Check::File, None, error.to_string()),
        }
        self.step(Check::Rows, 0, 0);
        let mut found = Vec::new();
        let mut more = 0;
        let checked = self.store.check_rows(&mut |what| if found.len() < FINDINGS_MAX { found.push(what) } else { more += 1 });
        found.into_iter().for_each(|what| self.note(Check::Rows, None, what));
        self.report.found += more;
        if let Err(error) = checked {
            self.note(Check::Rows, None, error.to_string());
        }
        let hubs = self.store.hubs().unwrap_or_else(|error| {
            self.note(Check::Rows, None, error.to_string());
            Vec::new()
        });
        self.report.hubs = hubs.len() as u64;
        self.modules(&hubs);
        self.messages();
        for hub in &hubs {
            self.instances(hub);
        }
    }

    fn step(&mut self, check: Check, done: u64, of: u64) {
        (self.progress)(Progress { check, done, of });
    }

    fn note(&mut self, check: Check, instance: Option<(&HubRow, &InstanceId)>, what: String) {
        self.report.found += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            let instance = instance.map(|(hub, id)| (hub.name.clone(), id.clone()));
            self.report.findings.push(Finding { check, instance, what });
        }
    }

    fn modules(&mut self, hubs: &[HubRow]) {
        let digests = self.store.digests().unwrap_or_else(|error| {
            self.note(Check::Modules, None, error.to_string());
            Vec::new()
        });
        for digest in digests {
            self.step(Check::Modules, self.report.modules, self.amount.modules);
            self.report.modules += 1;
            match self.store.module_bytes(digest) {
                Ok(Some(bytes)) if Digest::of(&bytes) == digest => (),
                Ok(_) => self.note(Check::Modules, None, format!("module {digest} has other bytes than were uploaded")),
                Err(error) => self.note(Check::Modules, None, format!("module {digest} cannot be read: {error}")),
            }
        }
        for hub in hubs {
            match self.store.modules(hub.key) {
                Ok(rows) => {
                    for error in rows.iter().filter_map(|row| catalog_of(row).err()) {
                        self.note(Check::Modules, None, error.to_string());
                    }
                }
                Err(error) => self.note(Check::Modules, None, format!("the modules of hub {}: {error}", hub.name)),
            }
        }
    }

    fn messages(&mut self) {
        let mut after: Option<MessageKey> = None;
        loop {
            self.step(Check::Messages, self.report.messages, self.amount.messages);
            let page = match self.store.messages(after) {
                Ok(page) => page,
                Err(error) => return self.note(Check::Messages, None, error.to_string()),
            };
            let Some((last, _)) = page.last() else { return };
            after = Some(*last);
            for (key, message) in page {
                self.report.messages += 1;
                if let Err(error) = message {
                    self.note(Check::Messages, None, format!("message {} cannot be read: {error}", key.0));
                }
            }
        }
    }

    fn instances(&mut self, hub: &HubRow) {
        let mut after = None;
        loop {
            let page = match self.store.instances(hub.key, after) {
                Ok(page) => page,
                Err(error) => {
                    return self.note(Check::Rows, None, format!("the instances of hub {} cannot be read: {error}", hub.name));
                }
            };
            let Some((last, _)) = page.last() else { return };
            after = Some(*last);
            for (key, row) in page {
                self.step(Check::Replay, self.report.instances, self.amount.instances);
                self.report.instances += 1;
                match row {
                    Ok(row) => self.instance(hub, &row),
                    Err(error) => {
                        let what = format!("the row of instance number {} of hub {} cannot be read: {error}", key.0, hub.name);
                        self.note(Check::Rows, None, what);
                    }
                }
            }
        }
    }

    fn instance(&mut self, hub: &HubRow, row: &InstanceRow) {
        let of = Some((hub, &row.id));
        let history = match self.store.history(row.execution) {
            Ok(history) => history,
            Err(error) => return self.note(Check::Histories, of, error.to_string()),
        };
        self.report.events += history.len() as u64;
        let execution = match Execution::fold(&history) {
            Ok(execution) => execution,
            Err(error) => return self.note(Check::Histories, of, error.to_string()),
        };
        for what in agreement::differences(hub, row, &execution) {
            self.note(Check::Histories, of, what);
        }
        self.report.ended += u64::from(execution.end.is_some());
        for (task, child) in children(&execution) {
            match self.is_on_its_way(hub, row, task, &child) {
                Ok(true) => (),
                Ok(false) => {
                    let what =
                        format!("task {task} waits for sub-orchestration {child}, which is not there, nor is a word of it");
                    self.note(Check::Children, of, what);
                }
                Err(error) => self.note(Check::Children, of, format!("sub-orchestration {child}: {error}")),
            }
        }
        let store = &self.store;
        let module = self.host.module(row.module, || match store.module_bytes(row.module) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(ModuleError::Internal("it is not in the store".into())),
            Err(error) => Err(ModuleError::Internal(error.to_string())),
        });
        let guest = module.map_err(|error| error.to_string()).and_then(|module| {
            module.orchestrator(&self.limits).map_err(|error| match error {
                NoGuest::NoSlot => "all slots are taken".to_owned(),
                NoGuest::Guest(fault) => fault.failure().message.clone(),
                NoGuest::Host(message) => message,
            })
        });
        let mut guest = match guest {
            Ok(guest) => guest,
            Err(why) => return self.note(Check::Replay, of, format!("there is no guest of module {}: {why}", row.module)),
        };
        // As the server gives a guest that it rebuilds.
        guest.set_cpu_ms_max(self.limits.turn_cpu_ms_max.saturating_mul(REPLAY_PATIENCE));
        match replay::replay(&history, &mut guest) {
            Ok(execution) => self.report.turns += u64::from(execution.turns),
            Err(error) => self.note(Check::Replay, of, format!("it does not replay: {error}")),
        }
    }

    /// Whether something will answer this task of an instance: a message is on its way, or the child is there and goes on.
    fn is_on_its_way(&self, hub: &HubRow, row: &InstanceRow, task: TaskId, child: &InstanceId) -> Result<bool, StoreError> {
        if self.store.is_on_its_way(row.execution, task)? {
            return Ok(true);
        }
        let parent = Parent { instance: row.id.clone(), execution: row.execution, task };
        Ok(self.store.parent_of_open(hub.key, child)?.as_ref() == Some(&parent))
    }
}
