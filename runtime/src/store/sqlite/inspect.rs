//! What lies in a file that nobody has open? Reads it as it is and changes nothing: no epoch is raised, nothing is migrated or repaired.
//!
//! Holds no more at once than a page of rows, one history or one module. What is wrong is told in sentences; what an instance amounts to is
//! the engine's affair.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::{StoreError, connect, read};
use crate::model::{Body, Digest, Event, ExecutionKey, HubKey, InstanceId, InstanceKey, Message, MessageKey, Parent, TaskId};
use crate::store::schema::{self, MIGRATIONS, OPEN};
use crate::store::{HubRow, InstanceRow, ModuleRow};

/// How many rows of instances are read at once, and how many messages, which may have megabytes each.
const PAGE: i64 = 256;
const INBOX_PAGE: i64 = 32;

/// What has to be escaped in the path of a URI.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');

/// What has to hold between rows: each query gives a sentence for each row that breaks a rule. What instances amount to by their histories
/// is not asked here.
const RULES: [&str; 13] = [
    "SELECT 'the lease has ' || count(*) || ' rows, and must have the one of part 0' FROM lease HAVING count(*) <> 1 OR max(part) <> 0",
    "SELECT 'module ' || name || ' is of hub number ' || hub || ', which is not there' FROM module
        WHERE NOT EXISTS (SELECT 1 FROM hub WHERE hub.id = module.hub)",
    "SELECT 'the current version of module ' || name || ' is not one of its versions' FROM module
        WHERE NOT EXISTS (SELECT 1 FROM version WHERE version.hub = module.hub AND version.name = module.name AND module = current)",
    "SELECT 'module ' || name || ' has a version, and none is current' FROM version
        WHERE NOT EXISTS (SELECT 1 FROM module WHERE module.hub = version.hub AND module.name = version.name)",
    "SELECT 'the bytes of a version of module ' || name || ' are not there' FROM version
        WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blob.id = version.module)",
    // Hub and partition stand in the high bits of a number.
    "SELECT 'instance ' || id || ' has number ' || key || ', which is not of hub number ' || hub FROM instance
        WHERE key >> 46 <> hub OR key >> 40 <> execution >> 40 OR NOT EXISTS (SELECT 1 FROM hub WHERE hub.id = instance.hub)",
    "SELECT 'execution ' || execution || ' is that of instance ' || id || ', and of another' FROM instance INDEXED BY instance_continued
        WHERE execution <> key AND (EXISTS (SELECT 1 FROM instance other WHERE other.key = instance.execution)
            OR EXISTS (SELECT 1 FROM instance other INDEXED BY instance_continued
                WHERE other.execution <> other.key AND other.execution = instance.execution AND other.key <> instance.key))",
    "SELECT 'a history is there of execution ' || execution || ', which is that of no instance' FROM (SELECT DISTINCT execution FROM history) his
        WHERE NOT EXISTS (SELECT 1 FROM instance WHERE key = his.execution AND instance.execution = key)
        AND NOT EXISTS (SELECT 1 FROM instance INDEXED BY instance_continued
            WHERE instance.execution <> key AND instance.execution = his.execution)
        AND NOT EXISTS (SELECT 1 FROM superseded WHERE superseded.execution = his.execution)",
    "SELECT 'execution ' || superseded.execution || ' is given up, and is that of instance ' || id FROM superseded
        JOIN instance ON instance.key = superseded.execution WHERE instance.execution = key",
    "SELECT 'execution ' || superseded.execution || ' is given up, and is that of instance ' || id FROM superseded
        JOIN instance INDEXED BY instance_continued ON instance.execution = superseded.execution WHERE instance.execution <> key",
    "SELECT 'lines are there of instance number ' || instance || ', which is not there' FROM (SELECT DISTINCT instance FROM log) line
        WHERE NOT EXISTS (SELECT 1 FROM instance WHERE key = line.instance)
        AND instance NOT IN (SELECT instance FROM superseded WHERE instance IS NOT NULL)",
    "SELECT 'line ' || line || ' of instance number ' || instance || ' stands where line ' || (next - 1) || ' is' FROM
        (SELECT instance, line, lag(line + count) OVER (PARTITION BY instance ORDER BY line) AS next FROM log) WHERE line < next",
    "SELECT 'message ' || id || ' is of a hub that is not there' FROM inbox WHERE NOT EXISTS (SELECT 1 FROM hub WHERE hub.id = inbox.id >> 46)",
];

/// A store that is looked at.
pub struct Inspector {
    conn: Connection,
    /// No server can open it as long as this is held. A copy need not have the file.
    _lock: Option<File>,
}

/// Rows by their keys, each as it could be read.
pub type Page<K, T> = Vec<(K, Result<T, StoreError>)>;

/// How much there is to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Instances.
    pub instances: u64,
    /// Messages that are on their way.
    pub messages: u64,
    /// Modules by content.
    pub modules: u64,
}

impl Inspector {
    /// Opens the store in `dir`, a data directory or a copy of one.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if a server has it open, [`StoreError::Older`] or [`StoreError::Newer`] if it is of another version.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = lock(dir)?;
        let path = dir.join("dacapo.db");
        let found = fs::metadata(&path).map_err(|error| StoreError::Other(format!("look for {}: {error}", path.display())))?;
        if found.len() == 0 {
            return Err(StoreError::Other(format!("{} is empty", path.display())));
        }
        let conn = if fs::metadata(dir.join("dacapo.db-wal")).is_ok_and(|log| log.len() > 0) {
            // SQLite makes the index of the log anew beside it, which needs the right to write there.
            connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?
        } else {
            let path = path.canonicalize().map_err(|error| StoreError::Other(format!("find {}: {error}", path.display())))?;
            let path = percent_encode(path.as_os_str().as_bytes(), PATH);
            let uri = format!("file:{path}?immutable=1"); // No file is made, not even for a moment.
            connect(Path::new(&uri), OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)?
        };
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let (found, known) = (number(schema::version(&conn, MIGRATIONS)?), number(MIGRATIONS.len()));
        if found < known {
            return Err(StoreError::Older { found, known });
        }
        // One snapshot for all; what is made for this alone is in memory or in a file that has no name.
        conn.execute_batch(
            "CREATE TEMP TABLE on_its_way (execution INTEGER NOT NULL, task INTEGER NOT NULL, PRIMARY KEY (execution, task)) WITHOUT ROWID;
            BEGIN",
        )?;
        Ok(Self { conn, _lock: lock })
    }

    /// How much there is to look at.
    ///
    /// # Errors
    /// If it cannot be read; likewise below.
    pub fn amount(&self) -> Result<Amount, StoreError> {
        let count = |table: &str| -> Result<u64, StoreError> {
            let sql = format!("SELECT count(*) FROM {table}");
            Ok(self.conn.query_row(&sql, [], |row| row.get::<_, i64>(0))?.cast_unsigned())
        };
        Ok(Amount { instances: count("instance")?, messages: count("inbox")?, modules: count("blob")? })
    }

    /// What SQLite finds wrong with the file and its indexes, as many as `max`. Takes a while: all of it is read.
    pub fn damage(&self, max: usize) -> Result<Vec<String>, StoreError> {
        let sql = format!("PRAGMA integrity_check({max})");
        let mut found = read::all(&self.conn, &sql, params![], |row| Ok(row.get::<_, String>(0)?))?;
        found.retain(|line| line != "ok");
        Ok(found)
    }

    /// Tells what is wrong between rows.
    pub fn check_rows(&self, tell: &mut dyn FnMut(String)) -> Result<(), StoreError> {
        for rule in RULES {
            let mut statement = self.conn.prepare(rule)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                tell(row.get(0)?);
            }
        }
        Ok(())
    }

    /// All hubs.
    pub fn hubs(&self) -> Result<Vec<HubRow>, StoreError> {
        read::hubs(&self.conn)
    }

    /// All versions of all modules of a hub.
    pub fn modules(&self, hub: HubKey) -> Result<Vec<ModuleRow>, StoreError> {
        read::modules(&self.conn, hub)
    }

    /// The digests of all modules, of those too that only instances refer to.
    pub fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        read::all(&self.conn, "SELECT digest FROM blob ORDER BY id", params![], |row| Ok(Digest(row.get(0)?)))
    }

    /// The bytes of a module.
    pub fn module_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        read::module_bytes(&self.conn, digest)
    }

    /// The messages behind `after`, each as it could be read; an empty page says that there is no more. Those that are about a task are
    /// noted, see [`Inspector::is_on_its_way`].
    pub fn messages(&self, after: Option<MessageKey>) -> Result<Page<MessageKey, Message>, StoreError> {
        let sql = "SELECT id, recipient, body FROM inbox WHERE id > ?1 ORDER BY id LIMIT ?2";
        let after = after.map_or(i64::MIN, |key| key.0);
        let rows = read::all(&self.conn, sql, params![after, INBOX_PAGE], |row| {
            let key = MessageKey(row.get(0)?);
            let message = || {
                let body = read::parse(format_args!("message {}", key.0), &row.get::<_, String>(2)?)?;
                Ok(Message { key, to: read::name(row, 1)?, body })
            };
            Ok((key, message()))
        })?;
        for message in rows.iter().filter_map(|(_, message)| message.as_ref().ok()) {
            let about = match &message.body {
                Body::Start { parent, .. } => parent.as_ref().map(|parent| (parent.execution, parent.task)),
                Body::Adopt { parent, .. } => Some((parent.execution, parent.task)),
                Body::Answer { execution, task, .. } => Some((*execution, *task)),
                Body::Terminate { .. } | Body::Raise { .. } => None,
            };
            if let Some((execution, task)) = about {
                let note = "INSERT OR IGNORE INTO on_its_way (execution, task) VALUES (?1, ?2)";
                self.conn.prepare_cached(note)?.execute(params![execution.0, task.0])?;
            }
        }
        Ok(rows)
    }

    /// Whether one of the messages that were read is about this task of a parent: its start, its adoption or its answer.
    pub fn is_on_its_way(&self, execution: ExecutionKey, task: TaskId) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM on_its_way WHERE execution = ?1 AND task = ?2)";
        Ok(self.conn.prepare_cached(sql)?.query_row(params![execution.0, task.0], |row| row.get(0))?)
    }

    /// The instances behind `after`, each as it could be read; an empty page says that there is no more.
    pub fn instances(&self, hub: HubKey, after: Option<InstanceKey>) -> Result<Page<InstanceKey, InstanceRow>, StoreError> {
        let sql = format!(
            "{} NOT INDEXED LEFT JOIN blob ON blob.id = instance.module WHERE hub = ?1 AND key > ?2 AND key < ?3 ORDER BY key LIMIT ?4",
            read::INSTANCE
        );
        let (first, end) = ExecutionKey::range(hub);
        let after = after.map_or(first.0 - 1, |key| key.0);
        read::all(&self.conn, &sql, params![hub.0, after, end.0, PAGE], |row| {
            Ok((InstanceKey(row.get(0)?), read::instance_row(row)))
        })
    }

    /// The whole history of an execution.
    pub fn history(&self, execution: ExecutionKey) -> Result<Vec<Event>, StoreError> {
        read::parse_history(execution, read::history(&self.conn, execution)?)
    }

    /// The parent of the open instance with this ID, if there is such an instance and it has one.
    pub fn parent_of_open(&self, hub: HubKey, id: &InstanceId) -> Result<Option<Parent>, StoreError> {
        let sql = format!("SELECT execution FROM instance WHERE hub = ?1 AND id = ?2 AND {OPEN}");
        let execution: Option<i64> =
            self.conn.prepare_cached(&sql)?.query_row(params![hub.0, id.as_str()], |row| row.get(0)).optional()?;
        let Some(execution) = execution else { return Ok(None) };
        match read::first_event(&self.conn, ExecutionKey(execution))? {
            Some(Event::Started(started)) => Ok(started.parent),
            _ => Ok(None),
        }
    }
}

/// Takes the lock of a data directory, if it has one.
fn lock(dir: &Path) -> Result<Option<File>, StoreError> {
    let path = dir.join("dacapo.lock");
    let failed = |what: &str, error: std::io::Error| StoreError::Other(format!("{what} {}: {error}", path.display()));
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(dir.display().to_string())),
        Err(TryLockError::Error(error)) => Err(failed("lock", error)),
    }
}
