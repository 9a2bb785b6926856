//! What would a store do that fails just now? The store of tests: in memory, deterministic, failing where it is told to.
//!
//! [`MemoryStore::reopen`] gives what a restarted process would find, and locks the old one out, as a new owner does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::de::DeserializeOwned;

use super::schema::{HUB_KEY_MAX, PARTITIONS};
use super::{
    Change, Commit, CommitOutcome, Deletion, DueRow, EncodedLines, EncodedMessage, Filter, HubRow, InstanceRow, Listed, LogPage,
    ModuleRow, NAMED_MAX, NOTHING_LEFT, NewInstance, Position, Progress, Store, StoreError, Upload, Uploaded, message_is_there,
    to_delete,
};
use crate::model::{
    Digest, Event, ExecutionKey, HubKey, HubName, InstanceId, InstanceKey, LogRecord, Message, MessageKey, ModuleName, Payload,
    RuntimeStatus, TaskId,
};

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written, and the store says so with [`StoreError::Other`]. The next write may go through.
    Refuse,
    /// There is no space: nothing is written, and the store says so with [`StoreError::Full`]. The next write may go through.
    Full,
    /// A sync fails before anything is on disk: [`StoreError::Poisoned`], now and until the store is reopened.
    Poison,
    /// A sync fails, but everything is on disk: the same error, yet the write is there after reopening.
    RefuseAfterWriting,
}

/// A store in memory. Clones of its contents are shared between all that were reopened from one another.
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
    epoch: i64,
    orders: Mutex<Orders>,
}

/// What tests want of the writes to come.
#[derive(Default)]
struct Orders {
    writes: u64,
    faults: BTreeMap<u64, Fault>,
    poisoned: bool,
}

/// What survives.
#[derive(Default)]
struct Disk {
    epoch: i64,
    hubs: Vec<HubRow>,
    bytes: BTreeMap<Digest, Vec<u8>>,
    /// In the order of upload.
    versions: Vec<(HubKey, ModuleRow)>,
    /// The JSON of one commit, by execution and number of its first event.
    history: BTreeMap<(ExecutionKey, u32), String>,
    progress: BTreeMap<(ExecutionKey, TaskId), Payload>,
    rest: Rest,
}

/// What a batch changes, besides what it appends to histories. Small enough in tests to be copied before each.
#[derive(Default, Clone)]
struct Rest {
    instances: BTreeMap<InstanceKey, (HubKey, InstanceRow)>,
    ids: BTreeMap<(HubKey, InstanceId), InstanceKey>,
    /// With the instance that is gone with the execution, if it is.
    superseded: BTreeMap<ExecutionKey, Option<InstanceKey>>,
    log: BTreeMap<InstanceKey, VecDeque<LogRow>>,
    inbox: BTreeMap<MessageKey, EncodedMessage>,
}

/// A row of the table `log`.
#[derive(Clone)]
struct LogRow {
    line: u64,
    count: u32,
    upto: usize,
    lines: String,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::on(Arc::default())
    }
}

impl MemoryStore {
    /// An empty store, which fails nowhere.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a restarted process finds: everything that was written, and no faults. This one is refused from now on.
    pub fn reopen(&self) -> Self {
        Self::on(Arc::clone(&self.disk))
    }

    /// Makes the next write fail; or the one after those that are to fail already.
    pub fn fail_next(&self, fault: Fault) {
        let mut orders = self.orders();
        let next = orders.faults.last_key_value().map_or(0, |(at, _)| at + 1).max(orders.writes);
        orders.faults.insert(next, fault);
    }

    /// Makes the write fail before which there were `writes` others, see [`Self::writes`].
    pub fn fail_at(&self, writes: u64, fault: Fault) {
        self.orders().faults.insert(writes, fault);
    }

    /// How many writes were tried since it was opened: batches, uploads and sweeps, whatever became of them.
    pub fn writes(&self) -> u64 {
        self.orders().writes
    }

    /// The JSON of what was appended to a history, commit by commit, but for the first `known` ones.
    pub fn history_rows(&self, execution: ExecutionKey, known: usize) -> Vec<String> {
        self.disk().events(execution).skip(known).cloned().collect()
    }

    fn on(disk: Arc<Mutex<Disk>>) -> Self {
        let epoch = {
            let mut disk = disk.lock().expect(NO_PANIC);
            disk.epoch += 1;
            disk.epoch
        };
        Self { disk, epoch, orders: Mutex::default() }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().expect(NO_PANIC)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect(NO_PANIC)
    }

    /// One write, with what was ordered for it. `work` must change nothing if it fails.
    fn write<T>(&self, work: impl FnOnce(&mut Disk) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let poisoned = || StoreError::Poisoned("a sync that failed on demand".into());
        let mut orders = self.orders();
        let at = orders.writes;
        orders.writes += 1;
        let fault = orders.faults.remove(&at);
        if orders.poisoned {
            return Err(poisoned());
        }
        let mut disk = self.disk();
        if disk.epoch != self.epoch {
            return Err(StoreError::Fenced { epoch: self.epoch });
        }
        orders.poisoned = matches!(fault, Some(Fault::Poison | Fault::RefuseAfterWriting));
        match fault {
            None => work(&mut disk),
            Some(Fault::Refuse) => Err(StoreError::Other("a write that failed on demand".into())),
            Some(Fault::Full) => Err(StoreError::Full),
            Some(Fault::Poison) => Err(poisoned()),
            Some(Fault::RefuseAfterWriting) => work(&mut disk).and_then(|_| Err(poisoned())),
        }
    }
}

const NO_PANIC: &str = "nothing panics while it holds the store";

impl Store for MemoryStore {
    fn commit(&self, batch: &[Commit]) -> Result<Vec<CommitOutcome>, StoreError> {
        self.write(|disk| {
            // Later commits of a batch see what earlier ones did, and an error takes all of it back.
            let before = disk.rest.clone();
            let mut appended = Vec::new();
            let result: Result<_, StoreError> = batch.iter().map(|commit| disk.commit(commit, &mut appended)).collect();
            if result.is_err() {
                disk.rest = before;
                appended.iter().for_each(|row| drop(disk.history.remove(row)));
            }
            result
        })
    }

    fn upload(&self, upload: &Upload<'_>) -> Result<Uploaded, StoreError> {
        self.write(|disk| {
            let hub = disk.make_hub(upload.hub)?;
            disk.bytes.entry(upload.digest).or_insert_with(|| upload.bytes.to_vec());
            let mut known = false;
            for (_, row) in disk.versions.iter_mut().filter(|(of, row)| *of == hub && row.name == *upload.name) {
                row.current = row.digest == upload.digest;
                known |= row.current;
            }
            if known {
                return Ok(Uploaded::Known);
            }
            let row = ModuleRow {
                name: upload.name.clone(),
                digest: upload.digest,
                current: true,
                uploaded_ms: upload.at_ms,
                bytes: upload.bytes.len() as u64,
                catalog: upload.catalog.to_owned(),
            };
            disk.versions.push((hub, row));
            Ok(Uploaded::New)
        })
    }

    fn delete_module(&self, hub: HubKey, name: &ModuleName, digest: Option<Digest>) -> Result<Deletion, StoreError> {
        let mut versions = self.modules(hub)?;
        versions.retain(|row| row.name == *name);
        self.write(|disk| {
            let digests = match to_delete(&versions, digest) {
                Ok(digests) => digests,
                Err(refusal) => return Ok(refusal),
            };
            for digest in &digests {
                let users: Vec<_> = disk
                    .rows(hub, None)
                    .filter(|row| !row.status.is_ended() && row.module == *digest)
                    .map(|row| &row.id)
                    .collect();
                if !users.is_empty() {
                    let some = users.iter().take(NAMED_MAX).map(|id| (*id).clone()).collect();
                    return Ok(Deletion::InUse { digest: *digest, count: users.len() as u64, some });
                }
            }
            disk.versions.retain(|(of, row)| (*of, &row.name) != (hub, name) || !digests.contains(&row.digest));
            Ok(Deletion::Done(digests))
        })
    }

    fn discard_modules(&self) -> Result<Vec<Digest>, StoreError> {
        self.write(|disk| {
            let is_used = |digest: &Digest| {
                disk.versions.iter().any(|(_, row)| row.digest == *digest)
                    || disk.rest.instances.values().any(|(_, row)| row.module == *digest)
            };
            let unused: Vec<_> = disk.bytes.keys().filter(|digest| !is_used(digest)).copied().collect();
            unused.iter().for_each(|digest| drop(disk.bytes.remove(digest)));
            Ok(unused)
        })
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.write(|_| Ok(()))
    }

    fn due(
        &self,
        hub: HubKey,
        from_ms: Option<u64>,
        until_ms: u64,
        after: Option<&DueRow>,
        max: usize,
    ) -> Result<Vec<DueRow>, StoreError> {
        let disk = self.disk();
        let open = disk.rows(hub, None).filter(|row| !row.status.is_ended());
        let timed = open.filter_map(|row| Some(DueRow { wake_ms: row.wake.ms()?, key: row.key, id: row.id.clone() }));
        let order = |row: &DueRow| (row.wake_ms, row.key);
        let mut due: Vec<_> = timed
            .filter(|row| from_ms.is_none_or(|from| row.wake_ms > from) && row.wake_ms <= until_ms)
            .filter(|row| after.is_none_or(|after| order(row) > order(after)))
            .collect();
        due.sort_by_key(order);
        due.truncate(max);
        Ok(due)
    }

    fn inbox(&self, hub: HubKey, after: Option<MessageKey>, max: usize) -> Result<Vec<Message>, StoreError> {
        let (first, _) = MessageKey::range(hub, 0);
        let (_, end) = MessageKey::range(hub, PARTITIONS - 1);
        let disk = self.disk();
        let messages = disk.rest.inbox.range(first..end).filter(|(key, _)| after.is_none_or(|after| **key > after));
        let parse = |(key, message): (&MessageKey, &EncodedMessage)| {
            let body = serde_json::from_str(&message.json).map_err(|error| StoreError::Corrupt(error.to_string()))?;
            Ok(Message { key: *key, to: message.to.clone(), body })
        };
        messages.take(max).map(parse).collect()
    }

    fn discard_messages(&self, keys: &[MessageKey]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.write(|disk| {
            keys.iter().for_each(|key| drop(disk.rest.inbox.remove(key)));
            Ok(())
        })
    }

    fn last_message(&self, first: MessageKey, end: MessageKey) -> Result<Option<MessageKey>, StoreError> {
        Ok(self.disk().rest.inbox.range(first..end).next_back().map(|(key, _)| *key))
    }

    fn save_progress(&self, progress: &[Progress]) -> Result<(), StoreError> {
        if progress.is_empty() {
            return Ok(());
        }
        self.write(|disk| {
            disk.progress.extend(progress.iter().map(|said| ((said.execution, said.task), said.payload.clone())));
            Ok(())
        })
    }

    fn progress(&self, execution: ExecutionKey, task: TaskId) -> Result<Option<Payload>, StoreError> {
        Ok(self.disk().progress.get(&(execution, task)).cloned())
    }

    fn sweep_progress(&self, rows_max: usize) -> Result<usize, StoreError> {
        let stale: Vec<_> = {
            let disk = self.disk();
            let open = disk.rest.instances.values().filter(|(_, row)| !row.status.is_ended());
            let needed: BTreeSet<_> = open.map(|(_, row)| row.execution).collect();
            disk.progress.keys().filter(|(execution, _)| !needed.contains(execution)).take(rows_max).copied().collect()
        };
        if stale.is_empty() {
            return Ok(0);
        }
        self.write(|disk| {
            stale.iter().for_each(|row| drop(disk.progress.remove(row)));
            Ok(stale.len())
        })
    }

    fn close(&self) {}

    fn wal_bytes(&self) -> u64 {
        0
    }

    fn hubs(&self) -> Result<Vec<HubRow>, StoreError> {
        Ok(self.disk().hubs.clone())
    }

    fn modules(&self, hub: HubKey) -> Result<Vec<ModuleRow>, StoreError> {
        let disk = self.disk();
        let newest_first = disk.versions.iter().rev().filter(|(of, _)| *of == hub);
        let mut rows: Vec<_> = newest_first.map(|(_, row)| row.clone()).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name).then(b.uploaded_ms.cmp(&a.uploaded_ms)));
        Ok(rows)
    }

    fn module_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.disk().bytes.get(&digest).cloned())
    }

    fn live_instances(&self, hub: HubKey) -> Result<Vec<(Digest, u64)>, StoreError> {
        let mut counts = BTreeMap::new();
        for row in self.disk().rows(hub, None).filter(|row| !row.status.is_ended()) {
            *counts.entry(row.module).or_default() += 1;
        }
        Ok(counts.into_iter().collect())
    }

    fn instance(&self, hub: HubKey, id: &InstanceId) -> Result<Option<InstanceRow>, StoreError> {
        let disk = self.disk();
        let key = disk.rest.ids.get(&(hub, id.clone()));
        Ok(key.map(|key| disk.rest.instances[key].1.clone()))
    }

    fn instances(&self, hub: HubKey, after: Option<InstanceKey>, max: usize) -> Result<Vec<InstanceRow>, StoreError> {
        Ok(self.disk().rows(hub, after).take(max).cloned().collect())
    }

    fn list(&self, hub: HubKey, filter: &Filter, after: Option<&Position>, max: usize) -> Result<Listed, StoreError> {
        let disk = self.disk();
        let mut rows: Vec<_> = disk.rows(hub, None).filter(|row| filter.matches(row)).collect();
        let by_id = !filter.id_prefix.is_empty();
        let order = |at: &Position| (if by_id { 0 } else { at.created_ms }, at.id.clone());
        rows.sort_by_key(|row| order(&Position::behind(row)));
        rows.retain(|row| after.is_none_or(|after| order(&Position::behind(row)) > order(after)));
        let next = if rows.len() > max { rows[..max].last().map(|row| Position::behind(row)) } else { None };
        Ok(Listed { rows: rows.into_iter().take(max).cloned().collect(), next })
    }

    fn history(&self, execution: ExecutionKey) -> Result<Vec<Event>, StoreError> {
        let disk = self.disk();
        let mut events = Vec::new();
        for json in disk.events(execution) {
            events.append(&mut parse(json)?);
        }
        Ok(events)
    }

    fn history_from(&self, execution: ExecutionKey, from: u32, bytes_max: usize) -> Result<Vec<Event>, StoreError> {
        let mut bytes = 0;
        let mut events = Vec::new();
        for event in self.history(execution)?.into_iter().skip(from as usize) {
            if bytes >= bytes_max && !events.is_empty() {
                break;
            }
            bytes += serde_json::to_string(&event).expect("events print without errors").len();
            events.push(event);
        }
        Ok(events)
    }

    fn first_event(&self, execution: ExecutionKey) -> Result<Option<Event>, StoreError> {
        Ok(self.history(execution)?.into_iter().next())
    }

    fn last_event(&self, execution: ExecutionKey) -> Result<Option<Event>, StoreError> {
        Ok(self.history(execution)?.pop())
    }

    fn log(&self, instance: InstanceKey, from: u64) -> Result<LogPage, StoreError> {
        let disk = self.disk();
        let mut page = LogPage::default();
        for row in disk.rest.log.get(&instance).into_iter().flatten() {
            let records: Vec<LogRecord> = parse(&row.lines)?;
            page.lines.extend((row.line..).zip(records).filter(|(number, _)| *number >= from));
            page.next = row.line + u64::from(row.count);
        }
        Ok(page)
    }

    fn last_execution(&self, first: ExecutionKey, end: ExecutionKey) -> Result<Option<ExecutionKey>, StoreError> {
        let disk = self.disk();
        let of_history = disk.history.range((first, 0)..(end, 0)).next_back().map(|((execution, _), _)| *execution);
        let superseded = disk.rest.superseded.range(first..end).next_back().map(|(execution, _)| *execution);
        let of_progress =
            disk.progress.range((first, TaskId(0))..(end, TaskId(0))).next_back().map(|((execution, _), _)| *execution);
        Ok(of_history.max(superseded).max(of_progress))
    }

    fn purge(&self, rows: &[InstanceRow]) -> Result<usize, StoreError> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.write(|disk| {
            let mut purged = 0;
            for row in rows.iter().filter(|row| row.status.is_ended()) {
                let stored = disk.rest.instances.get(&row.key);
                if let Some((hub, _)) = stored.filter(|(_, now)| (now.execution, now.length) == (row.execution, row.length)) {
                    disk.rest.ids.remove(&(*hub, row.id.clone()));
                    disk.rest.instances.remove(&row.key);
                    disk.rest.superseded.insert(row.execution, Some(row.key));
                    purged += 1;
                }
            }
            Ok(purged)
        })
    }

    fn sweep(&self, rows_max: usize) -> Result<usize, StoreError> {
        self.write(|disk| {
            let mut room = rows_max;
            while room > 0
                && let Some((execution, instance)) = disk.next_superseded()
            {
                let rows = disk.history.range((execution, 0)..=(execution, u32::MAX)).rev().take(room);
                for row in rows.map(|(row, _)| *row).collect::<Vec<_>>() {
                    disk.history.remove(&row);
                    room -= 1;
                }
                if let Some(lines) = instance.and_then(|instance| disk.rest.log.get_mut(&instance)) {
                    room -= lines.drain(..room.min(lines.len())).count();
                }
                if room > 0 {
                    disk.forget(execution);
                    room -= 1;
                }
            }
            Ok(rows_max - room)
        })
    }
}

impl Disk {
    fn make_hub(&mut self, name: &HubName) -> Result<HubKey, StoreError> {
        if let Some(hub) = self.hubs.iter().find(|hub| hub.name == *name) {
            return Ok(hub.key);
        }
        let key = HubKey(u32::try_from(self.hubs.len()).expect("far fewer hubs") + 1);
        assert!(key.0 <= HUB_KEY_MAX, "far fewer hubs");
        self.hubs.push(HubRow { key, name: name.clone(), partitions: PARTITIONS });
        Ok(key)
    }

    /// The next execution that no instance points at and of which something is left.
    fn next_superseded(&self) -> Option<(ExecutionKey, Option<InstanceKey>)> {
        let mut superseded = self.rest.superseded.iter().filter(|(_, instance)| **instance != Some(NOTHING_LEFT));
        superseded.next().map(|(execution, instance)| (*execution, *instance))
    }

    /// Takes the note away that an execution is superseded, or keeps it in the place of a lower one if it has the highest number.
    fn forget(&mut self, execution: ExecutionKey) {
        let (first, end) = execution.hub_range();
        let next = execution.next();
        let superseded = &mut self.rest.superseded;
        if self.history.range((next, 0)..(end, 0)).next().is_some() || superseded.range(next..end).next().is_some() {
            superseded.remove(&execution);
        } else {
            superseded.retain(|of, instance| !(first..execution).contains(of) || *instance != Some(NOTHING_LEFT));
            superseded.insert(execution, Some(NOTHING_LEFT));
        }
    }

    fn rows(&self, hub: HubKey, after: Option<InstanceKey>) -> impl Iterator<Item = &InstanceRow> {
        let after = after.unwrap_or(InstanceKey(i64::MIN));
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.rest.instances.range(behind).filter(move |(_, (of, _))| *of == hub).map(|(_, (_, row))| row)
    }

    fn events(&self, execution: ExecutionKey) -> impl Iterator<Item = &String> {
        self.history.range((execution, 0)..=(execution, u32::MAX)).map(|(_, json)| json)
    }

    /// One commit, whose row of history is noted in `appended`. An error may leave a part of it.
    fn commit(&mut self, commit: &Commit, appended: &mut Vec<(ExecutionKey, u32)>) -> Result<CommitOutcome, StoreError> {
        let seq = match &commit.change {
            Change::Create(new) => {
                if let Some(status) = self.create(commit, new)? {
                    return Ok(CommitOutcome::Refused(status));
                }
                0
            }
            Change::Continue { from, expected_length, module, created_ms, custom_status, wake } => {
                let conflict = StoreError::Conflict { execution: *from, expected: *expected_length };
                let entry = self.rest.instances.get_mut(&commit.instance);
                let entry = entry.filter(|(_, row)| (row.execution, row.length) == (*from, *expected_length));
                let (hub, row) = entry.ok_or(conflict)?;
                if !self.versions.iter().any(|(of, version)| (*of, version.digest) == (*hub, *module)) {
                    return Err(StoreError::NoModule(*module));
                }
                row.execution = commit.execution;
                row.length = commit.events.count;
                row.module = *module;
                row.status = RuntimeStatus::Running;
                (row.created_ms, row.updated_ms) = (*created_ms, *created_ms);
                row.wake = *wake;
                if custom_status.is_some() {
                    row.custom_status.clone_from(custom_status);
                }
                self.rest.superseded.insert(*from, None);
                0
            }
            Change::Reopen { expected_length, status, module, updated_ms, wake } => {
                let entry = self.rest.instances.get_mut(&commit.instance);
                let entry = entry.filter(|(_, row)| {
                    (row.execution, row.length, row.status) == (commit.execution, *expected_length, RuntimeStatus::Failed)
                });
                let conflict = StoreError::Conflict { execution: commit.execution, expected: *expected_length };
                let (hub, row) = entry.ok_or(conflict)?;
                if !self.versions.iter().any(|(of, version)| (*of, version.digest) == (*hub, *module)) {
                    return Err(StoreError::NoModule(*module));
                }
                row.length += commit.events.count;
                row.status = *status;
                row.module = *module;
                row.updated_ms = *updated_ms;
                row.wake = *wake;
                *expected_length
            }
            Change::Advance { expected_length, status, updated_ms, custom_status, wake, reason } => {
                let row = self.rest.instances.get_mut(&commit.instance).map(|(_, row)| row);
                let row = row.filter(|row| (row.execution, row.length) == (commit.execution, *expected_length));
                let row = row.ok_or(StoreError::Conflict { execution: commit.execution, expected: *expected_length })?;
                row.length += commit.events.count;
                if row.status != *status {
                    row.reason.clone_from(reason);
                }
                row.status = *status;
                row.updated_ms = *updated_ms;
                row.wake = wake.unwrap_or(row.wake);
                if custom_status.is_some() {
                    row.custom_status.clone_from(custom_status);
                }
                *expected_length
            }
        };
        let at = (commit.execution, seq);
        if self.history.contains_key(&at) {
            return Err(StoreError::Conflict { execution: commit.execution, expected: seq });
        }
        self.history.insert(at, commit.events.json.clone());
        appended.push(at);
        if let Some(lines) = &commit.lines {
            self.append_lines(commit.instance, lines);
        }
        commit.takes.iter().for_each(|key| drop(self.rest.inbox.remove(key)));
        for message in &commit.sends {
            if self.rest.inbox.insert(message.key, message.clone()).is_some() {
                return Err(message_is_there(message.key));
            }
        }
        Ok(CommitOutcome::Done)
    }

    fn append_lines(&mut self, instance: InstanceKey, lines: &EncodedLines) {
        let rows = self.rest.log.entry(instance).or_default();
        let (line, upto) = rows.back().map_or((0, 0), |row| (row.line + u64::from(row.count), row.upto));
        let (line, upto) = (line + u64::from(lines.skipped), upto + lines.json.len());
        rows.push_back(LogRow { line, count: lines.count, upto, lines: lines.json.clone() });
        while rows[0].upto + lines.kept_bytes_max <= upto {
            rows.pop_front();
        }
    }

    /// Makes the row; or says in which status the instance is that has the ID already and stays.
    fn create(&mut self, commit: &Commit, new: &NewInstance) -> Result<Option<RuntimeStatus>, StoreError> {
        if !self.versions.iter().any(|(hub, row)| (*hub, row.digest) == (new.hub, new.module)) {
            return Err(StoreError::NoModule(new.module));
        }
        let id = (new.hub, new.id.clone());
        if let Some(holder) = self.rest.ids.get(&id).copied().filter(|holder| *holder != commit.instance) {
            let row = &self.rest.instances[&holder].1;
            if !new.replaces.allows(row.status) {
                return Ok(Some(row.status));
            }
            self.rest.superseded.insert(row.execution, Some(holder));
            self.rest.instances.remove(&holder);
        }
        if self.rest.instances.contains_key(&commit.instance) {
            return Err(StoreError::Conflict { execution: commit.execution, expected: 0 });
        }
        let row = InstanceRow {
            key: commit.instance,
            execution: commit.execution,
            length: commit.events.count,
            id: new.id.clone(),
            function: new.function.clone(),
            module: new.module,
            status: new.status,
            created_ms: new.created_ms,
            updated_ms: new.updated_ms,
            custom_status: new.custom_status.clone(),
            tags: new.tags.clone(),
            wake: new.wake,
            reason: None,
        };
        self.rest.ids.insert(id, commit.instance);
        self.rest.instances.insert(commit.instance, (new.hub, row));
        Ok(None)
    }
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<Vec<T>, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Corrupt(error.to_string()))
}
