//! What is in the file? The queries, and the connections that they run on.
//!
//! Every query is one statement, so its snapshot ends with it: a snapshot that stays keeps the log from being started over.
//! Nothing that lies in the file is trusted: what cannot be is [`StoreError::Corrupt`].

use std::fmt::Display;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, ToSql, params};
use serde_json::value::RawValue;

use super::{StoreError, connect};
use crate::model::{
    Body, Digest, Event, ExecutionKey, HubKey, InstanceId, InstanceKey, LogRecord, Message, MessageKey, Payload, RuntimeStatus,
    Tags, TaskId, Wake,
};
use crate::store::schema::{CONTINUED, HUB_KEY_MAX, OPEN, PARTITIONS};
use crate::store::{DueRow, HubRow, InstanceRow, LogPage, ModuleRow};

/// Connections that read at the same time; more readers wait for one. Each keeps up to 2 MB of pages in memory.
pub(super) const READERS_MAX: usize = 8;

const NO_PANIC: &str = "nothing panics while it holds the pool";

/// Read-only connections, opened when they are first needed.
pub(super) struct Readers {
    path: PathBuf,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    open: usize,
}

/// A connection on loan.
pub(super) struct Reader<'pool> {
    readers: &'pool Readers,
    conn: Option<Connection>,
}

impl Readers {
    /// None is open yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, pool: Mutex::default(), returned: Condvar::new() }
    }

    /// A connection that nobody else uses until it is dropped.
    pub(super) fn take(&self) -> Result<Reader<'_>, StoreError> {
        let mut pool = self.lock();
        loop {
            if let Some(conn) = pool.idle.pop() {
                return Ok(Reader { readers: self, conn: Some(conn) });
            }
            if pool.open < READERS_MAX {
                pool.open += 1;
                break;
            }
            pool = self.returned.wait(pool).expect(NO_PANIC);
        }
        drop(pool);
        // From here on the loan gives its place back, also if there comes no connection of it.
        let mut reader = Reader { readers: self, conn: None };
        reader.conn = Some(connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?);
        Ok(reader)
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().expect(NO_PANIC)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut pool = self.readers.lock();
        match self.conn.take() {
            Some(conn) => pool.idle.push(conn),
            None => pool.open -= 1,
        }
        self.readers.returned.notify_one();
    }
}

impl Deref for Reader<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.conn.as_ref().expect("only empty while it is being opened")
    }
}

/// As [`crate::store::Store::hubs`].
pub(super) fn hubs(conn: &Connection) -> Result<Vec<HubRow>, StoreError> {
    all(conn, "SELECT id, name, partitions FROM hub ORDER BY id", params![], |row| {
        let key = row.get(0)?;
        if !(1..=HUB_KEY_MAX).contains(&key) {
            return Err(StoreError::Corrupt(format!("hub number {key}")));
        }
        Ok(HubRow { key: HubKey(key), name: name(row, 1)?, partitions: row.get(2)? })
    })
}

/// As [`crate::store::Store::modules`].
pub(super) fn modules(conn: &Connection, hub: HubKey) -> Result<Vec<ModuleRow>, StoreError> {
    let sql = "SELECT version.name, digest, module.current IS version.module, uploaded, length(bytes), catalog FROM version
        LEFT JOIN blob ON blob.id = version.module
        LEFT JOIN module ON module.hub = version.hub AND module.name = version.name
        WHERE version.hub = ?1 ORDER BY version.name, uploaded DESC, version.rowid DESC";
    all(conn, sql, params![hub.0], |row| {
        Ok(ModuleRow {
            name: name(row, 0)?,
            digest: Digest(row.get(1)?),
            current: row.get(2)?,
            uploaded_ms: row.get::<_, i64>(3)?.cast_unsigned(),
            bytes: row.get::<_, i64>(4)?.cast_unsigned(),
            catalog: row.get(5)?,
        })
    })
}

/// As [`crate::store::Store::module_bytes`].
pub(super) fn module_bytes(conn: &Connection, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT bytes FROM blob WHERE digest = ?1")?;
    Ok(statement.query_row([digest.0], |row| row.get(0)).optional()?)
}

/// As [`crate::store::Store::live_instances`].
pub(super) fn live_instances(conn: &Connection, hub: HubKey) -> Result<Vec<(Digest, u64)>, StoreError> {
    let sql = format!(
        "SELECT digest, count(*) FROM instance INDEXED BY instance_open LEFT JOIN blob ON blob.id = instance.module
        WHERE hub = ?1 AND {OPEN} GROUP BY module ORDER BY digest"
    );
    all(conn, &sql, params![hub.0], |row| Ok((Digest(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned())))
}

/// As [`crate::store::Store::instance`].
pub(super) fn instance(conn: &Connection, hub: HubKey, id: &InstanceId) -> Result<Option<InstanceRow>, StoreError> {
    let sql = format!("{INSTANCE} LEFT JOIN blob ON blob.id = instance.module WHERE hub = ?1 AND instance.id = ?2");
    Ok(all(conn, &sql, params![hub.0, id.as_str()], instance_row)?.pop())
}

/// The query of [`due`]. Its place in the index is a time and a number, which SQLite finds only in two steps: the rest of the one time, where
/// a million may be due at once, and what is later.
pub(super) fn due_sql() -> String {
    let of = format!(
        "SELECT wake, key, instance.id AS id FROM instance INDEXED BY instance_open WHERE hub = ?1 AND {OPEN} AND wake <= ?4"
    );
    format!("{of} AND wake = ?2 AND key > ?3 UNION ALL {of} AND wake > ?2 ORDER BY wake, key LIMIT ?5")
}

/// As [`crate::store::Store::due`].
pub(super) fn due(
    conn: &Connection,
    hub: HubKey,
    from_ms: Option<u64>,
    until_ms: u64,
    after: Option<&DueRow>,
    max: usize,
) -> Result<Vec<DueRow>, StoreError> {
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let from = from_ms.map_or((i64::MIN, i64::MIN), |from| (ms(from), i64::MAX));
    let (wake, key) = after.map_or(from, |after| from.max((ms(after.wake_ms), after.key.0)));
    let sql = due_sql();
    readable_page((Value::Integer(wake), key), |(wake, key)| {
        all(conn, &sql, params![hub.0, wake, key, ms(until_ms), limit(max)], |row| {
            let read = || Ok(DueRow { wake_ms: wake_ms(row.get(0)?)?, key: InstanceKey(row.get(1)?), id: name(row, 2)? });
            let read = readable("an open instance is left as it is, since its row is damaged", read())?;
            Ok(((row.get(0)?, row.get(1)?), read))
        })
    })
}

/// As [`crate::store::Store::inbox`].
pub(super) fn inbox(conn: &Connection, hub: HubKey, after: Option<MessageKey>, max: usize) -> Result<Vec<Message>, StoreError> {
    let sql = "SELECT id, recipient, body FROM inbox WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3";
    let (first, _) = MessageKey::range(hub, 0);
    let (_, end) = MessageKey::range(hub, PARTITIONS - 1);
    readable_page(after.map_or(first.0 - 1, |key| key.0), |after| {
        let texts = |row: &Row<'_>| Ok((name::<InstanceId>(row, 1)?, row.get::<_, String>(2)?));
        let rows = all(conn, sql, params![after, end.0, limit(max)], |row| Ok((row.get(0)?, texts(row))))?;
        let parsed = rows.into_iter().map(|(key, texts)| {
            let read = texts.and_then(|(to, body)| {
                let body: Body = parse(format_args!("message {key}"), &body)?;
                Ok(Message { key: MessageKey(key), to, body })
            });
            Ok((key, readable("a message is left where it is, since it is damaged", read)?))
        });
        parsed.collect()
    })
}

/// What a row was read as; `None` if it is damaged, which `what` tells the log.
fn readable<T>(what: &str, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Corrupt(why)) => {
            tracing::error!("{what}: {why}");
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// The rows of a page that are not damaged. `read` gives the page behind a place, each row with its own. An empty page says that there is
/// no more; one that is all damaged must not look like it, so then it is the next one.
fn readable_page<P, T>(after: P, read: impl Fn(&P) -> Result<Vec<(P, Option<T>)>, StoreError>) -> Result<Vec<T>, StoreError> {
    let mut rows = read(&after)?;
    while let Some((last, _)) = rows.last()
        && rows.iter().all(|(_, row)| row.is_none())
    {
        rows = read(last)?;
    }
    Ok(rows.into_iter().filter_map(|(_, row)| row).collect())
}

/// As [`crate::store::Store::last_message`].
pub(super) fn last_message(conn: &Connection, first: MessageKey, end: MessageKey) -> Result<Option<MessageKey>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT max(id) FROM inbox WHERE id >= ?1 AND id < ?2")?;
    let key: Option<i64> = statement.query_row([first.0, end.0], |row| row.get(0))?;
    Ok(key.map(MessageKey))
}

/// As [`crate::store::Store::progress`].
pub(super) fn progress(conn: &Connection, execution: ExecutionKey, task: TaskId) -> Result<Option<Payload>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT payload FROM progress WHERE execution = ?1 AND task = ?2")?;
    let payload: Option<String> = statement.query_row(params![execution.0, task.0], |row| row.get(0)).optional()?;
    let damaged = |error| StoreError::Corrupt(format!("progress of task {task} of execution {}: {error}", execution.0));
    payload.map(Payload::parse).transpose().map_err(damaged)
}

/// The query of [`stale_progress`].
pub(super) fn stale_progress_sql() -> String {
    format!("SELECT execution, task FROM progress WHERE {} LIMIT ?1", is_stale())
}

/// Whether a row of progress is of an execution that has ended or is not that of any instance. A rewind may have it go on later.
pub(super) fn is_stale() -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM instance WHERE key = progress.execution AND instance.execution = key AND {OPEN})
        AND NOT EXISTS (SELECT 1 FROM instance INDEXED BY instance_continued
            WHERE instance.execution = progress.execution AND instance.{CONTINUED} AND {OPEN})"
    )
}

/// Up to `max` rows of progress whose execution has ended or is not that of any instance.
pub(super) fn stale_progress(conn: &Connection, max: usize) -> Result<Vec<(ExecutionKey, TaskId)>, StoreError> {
    all(conn, &stale_progress_sql(), params![limit(max)], |row| Ok((ExecutionKey(row.get(0)?), TaskId(row.get(1)?))))
}

/// As [`crate::store::Store::instances`]. A hub's keys are one range of the table, so that no index is needed.
pub(super) fn instances(
    conn: &Connection,
    hub: HubKey,
    after: Option<InstanceKey>,
    max: usize,
) -> Result<Vec<InstanceRow>, StoreError> {
    let sql = format!(
        "{INSTANCE} NOT INDEXED LEFT JOIN blob ON blob.id = instance.module
        WHERE hub = ?1 AND key > ?2 AND key < ?3 ORDER BY key LIMIT ?4"
    );
    let (first, end) = ExecutionKey::range(hub);
    let after = after.map_or(first.0 - 1, |key| key.0);
    all(conn, &sql, params![hub.0, after, end.0, limit(max)], instance_row)
}

/// The rows of an execution's history in order, each with the number of its first event.
pub(super) fn history(conn: &Connection, execution: ExecutionKey) -> Result<Vec<(u32, String)>, StoreError> {
    let sql = "SELECT seq, events FROM history WHERE execution = ?1 ORDER BY seq";
    all(conn, sql, params![execution.0], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The events of what [`history`] has read.
pub(super) fn parse_history(execution: ExecutionKey, rows: Vec<(u32, String)>) -> Result<Vec<Event>, StoreError> {
    let mut events = Vec::new();
    for (seq, json) in rows {
        if seq as usize != events.len() {
            let why = format!("execution {} has {} events before number {seq}", execution.0, events.len());
            return Err(StoreError::Corrupt(why));
        }
        events.append(&mut parse::<Vec<Event>>(history_of(execution), &json)?);
    }
    Ok(events)
}

/// The rows of an execution's history that hold event `from` or later ones, until they have `bytes_max` bytes; each with the number of its
/// first event.
pub(super) fn history_from(
    conn: &Connection,
    execution: ExecutionKey,
    from: u32,
    bytes_max: usize,
) -> Result<Vec<(u32, String)>, StoreError> {
    let sql = "SELECT seq, events FROM history WHERE execution = ?1
        AND seq >= coalesce((SELECT max(seq) FROM history WHERE execution = ?1 AND seq <= ?2), 0) ORDER BY seq";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params![execution.0, from])?;
    let (mut read, mut bytes) = (Vec::new(), 0);
    while (bytes < bytes_max || read.is_empty())
        && let Some(row) = rows.next()?
    {
        let events: String = row.get(1)?;
        bytes += events.len();
        read.push((row.get(0)?, events));
    }
    Ok(read)
}

/// The events of what [`history_from`] has read. A row may be far larger than `bytes_max`, of which the rest is passed over unread.
pub(super) fn parse_history_from(
    execution: ExecutionKey,
    from: u32,
    bytes_max: usize,
    rows: &[(u32, String)],
) -> Result<Vec<Event>, StoreError> {
    let (mut events, mut bytes, mut next) = (Vec::new(), 0, from);
    for (seq, json) in rows {
        let of_row: Vec<&RawValue> = parse(history_of(execution), json)?;
        let numbered = (*seq..).zip(of_row).skip_while(|(number, _)| *number < from);
        for (number, event) in numbered {
            if number != next {
                return Err(StoreError::Corrupt(format!("execution {} has event {number} behind {next}", execution.0)));
            }
            if bytes >= bytes_max && !events.is_empty() {
                return Ok(events);
            }
            bytes += event.get().len();
            next += 1;
            events.push(parse(history_of(execution), event.get())?);
        }
    }
    Ok(events)
}

/// The rows of lines of an instance that hold number `from` or later ones, with the number of their first line; and the number
/// that the next line will get.
pub(super) fn log(conn: &Connection, instance: InstanceKey, from: u64) -> Result<(Vec<(u64, String)>, u64), StoreError> {
    let sql = "SELECT line, count, lines FROM log WHERE instance = ?1
        AND line >= coalesce((SELECT line FROM log WHERE instance = ?1 AND line <= ?2 ORDER BY line DESC LIMIT 1), 0) ORDER BY line";
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    let rows: Vec<(u64, u64, String)> = all(conn, sql, params![instance.0, from], |row| {
        let number = |value: i64| value.cast_unsigned();
        Ok((number(row.get(0)?), number(row.get(1)?), row.get(2)?))
    })?;
    let next = rows.last().map_or(0, |(line, count, _)| line + count);
    Ok((rows.into_iter().map(|(line, _, lines)| (line, lines)).collect(), next))
}

/// The lines of what [`log`] has read, from number `from` on.
pub(super) fn parse_log(
    instance: InstanceKey,
    from: u64,
    (rows, next): (Vec<(u64, String)>, u64),
) -> Result<LogPage, StoreError> {
    let mut lines = Vec::new();
    for (first, json) in rows {
        let records: Vec<LogRecord> = parse(format_args!("lines of instance {}", instance.0), &json)?;
        lines.extend((first..).zip(records).filter(|(number, _)| *number >= from));
    }
    Ok(LogPage { lines, next })
}

/// As [`crate::store::Store::first_event`].
pub(super) fn first_event(conn: &Connection, execution: ExecutionKey) -> Result<Option<Event>, StoreError> {
    let row = "SELECT events FROM history WHERE execution = ?1 ORDER BY seq LIMIT 1";
    event_of(conn, execution, row, |events| events.into_iter().next())
}

/// As [`crate::store::Store::last_event`].
pub(super) fn last_event(conn: &Connection, execution: ExecutionKey) -> Result<Option<Event>, StoreError> {
    let row = "SELECT events FROM history WHERE execution = ?1 ORDER BY seq DESC LIMIT 1";
    event_of(conn, execution, row, |mut events| events.pop())
}

fn history_of(execution: ExecutionKey) -> impl Display {
    std::fmt::from_fn(move |f| write!(f, "history of execution {}", execution.0))
}

/// One event of the row of history that `sql` finds. The others, which may be thousands, are passed over unread.
fn event_of(
    conn: &Connection,
    execution: ExecutionKey,
    sql: &str,
    choose: fn(Vec<&RawValue>) -> Option<&RawValue>,
) -> Result<Option<Event>, StoreError> {
    let row: Option<String> = conn.prepare_cached(sql)?.query_row([execution.0], |row| row.get(0)).optional()?;
    let Some(json) = row else { return Ok(None) };
    match choose(parse(history_of(execution), &json)?) {
        Some(event) => parse(history_of(execution), event.get()).map(Some),
        None => Err(StoreError::Corrupt(format!("execution {} has a row without events", execution.0))),
    }
}

/// The query of [`last_execution`].
pub(super) const LAST_EXECUTION: &str = "SELECT max(execution) FROM (
    SELECT max(execution) AS execution FROM history WHERE execution >= ?1 AND execution < ?2
    UNION ALL SELECT max(execution) FROM superseded WHERE execution >= ?1 AND execution < ?2
    UNION ALL SELECT max(execution) FROM progress WHERE execution >= ?1 AND execution < ?2)";

/// As [`crate::store::Store::last_execution`]. Every execution that an instance points at has a history. One that is superseded may have
/// none any more, nor one whose progress is kept still.
pub(super) fn last_execution(
    conn: &Connection,
    first: ExecutionKey,
    end: ExecutionKey,
) -> Result<Option<ExecutionKey>, StoreError> {
    let key: Option<i64> = conn.prepare_cached(LAST_EXECUTION)?.query_row([first.0, end.0], |row| row.get(0))?;
    Ok(key.map(ExecutionKey))
}

/// The status that is stored as `number`.
pub(super) fn status(number: u8) -> Result<RuntimeStatus, StoreError> {
    RuntimeStatus::from_number(number).ok_or_else(|| StoreError::Corrupt(format!("status {number}")))
}

/// The beginning of every query for rows that [`instance_row`] reads.
pub(super) const INSTANCE: &str = "SELECT key, execution, length, instance.id, function, digest, status, created, updated, custom_status, wake, tags, reason FROM instance";

pub(super) fn instance_row(row: &Row<'_>) -> Result<InstanceRow, StoreError> {
    let key = row.get(0)?;
    let (custom_status, tags): (Option<String>, Option<String>) = (row.get(9)?, row.get(11)?);
    Ok(InstanceRow {
        key: InstanceKey(key),
        execution: ExecutionKey(row.get(1)?),
        length: row.get(2)?,
        id: name(row, 3)?,
        function: row.get(4)?,
        module: Digest(row.get(5)?),
        status: status(row.get(6)?)?,
        created_ms: row.get::<_, i64>(7)?.cast_unsigned(),
        updated_ms: row.get::<_, i64>(8)?.cast_unsigned(),
        custom_status: custom_status
            .map(Payload::parse)
            .transpose()
            .map_err(|error| StoreError::Corrupt(format!("custom status of instance {key}: {error}")))?,
        wake: row.get::<_, Option<i64>>(10)?.map_or(Ok(Wake::NEVER), |wake| wake_ms(wake).map(Wake::at))?,
        tags: tags.map_or(Ok(Tags::default()), |tags| parse(format_args!("tags of instance {key}"), &tags))?,
        reason: row.get(12)?,
    })
}

fn wake_ms(wake: i64) -> Result<u64, StoreError> {
    u64::try_from(wake).map_err(|_| StoreError::Corrupt(format!("wake {wake}")))
}

/// Every row that `sql` gives, made into something by `make`.
pub(super) fn all<T>(
    conn: &Connection,
    sql: &str,
    params: &[&dyn ToSql],
    make: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut made = Vec::new();
    while let Some(row) = rows.next()? {
        made.push(make(row)?);
    }
    Ok(made)
}

/// A text of the row that is a name of some kind.
pub(super) fn name<T: std::str::FromStr<Err: std::fmt::Display>>(row: &Row<'_>, at: usize) -> Result<T, StoreError> {
    row.get::<_, String>(at)?.parse().map_err(|error: T::Err| StoreError::Corrupt(error.to_string()))
}

pub(super) fn parse<'json, T: serde::Deserialize<'json>>(what: impl Display, json: &'json str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Corrupt(format!("{what}: {error}")))
}

fn limit(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}
