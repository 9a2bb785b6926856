//! What lies in the file? Tables, what each column is for, and how an older file becomes a new one.
//!
//! The file carries its schema version in SQLite's `user_version`: the number of steps of [`MIGRATIONS`] that it has been
//! through. Called by `sqlite::SqliteStore::open`; calls nothing.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// How many partitions a new hub has. Stored with the hub, since the partition of an instance never changes.
pub const PARTITIONS: u32 = 64;

/// The highest number that a hub may get: an execution's number has 17 bits for it, and the last one is left free so that
/// the end of a hub's range is a number too.
pub const HUB_KEY_MAX: u32 = (1 << 17) - 2;

/// The only row of `lease` in an embedded file. All partitions are in this process, so that one fence covers them all.
pub const PART: i64 = 0;

/// The condition of the index `instance_open`: the status is not one of those that end an instance.
///
/// A query gets that index only if it says the same words; likewise [`CONTINUED`]. The wire contract has numbered the statuses so that the ended
/// ones lie side by side; 2 and 4 of them are not used.
pub const OPEN: &str = "status NOT BETWEEN 1 AND 5";

/// The condition of the index `instance_continued`: the current execution is not the first.
pub const CONTINUED: &str = "execution <> key";

/// The steps from an empty file to the present schema. Released steps never change; a new one goes to the end.
pub const MIGRATIONS: &[&str] = &[
    "
    -- Who may write: every batch begins by writing here, and fails if somebody has raised the epoch.
    CREATE TABLE lease (
        part INTEGER PRIMARY KEY,      -- always 0, see PART
        epoch INTEGER NOT NULL,        -- raised at every open; the fence sets it to NULL for a stale owner
        last_batch INTEGER NOT NULL    -- the number of the last batch that went through, ever ascending
    );
    INSERT INTO lease VALUES (0, 0, 0);

    -- Task hubs. The number is part of every key below.
    CREATE TABLE hub (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL COLLATE NOCASE UNIQUE,   -- as it was first written
        partitions INTEGER NOT NULL                 -- fixed for ever
    );

    -- Modules by content, once for all hubs. The digest stands before the bytes, so that reading it touches no overflow page.
    CREATE TABLE blob (
        id INTEGER PRIMARY KEY,        -- stands for the digest in other tables: 1 to 3 bytes instead of 32
        digest BLOB NOT NULL UNIQUE,   -- SHA-256 of the bytes
        bytes BLOB NOT NULL            -- as they were uploaded
    );

    -- Modules by name: what new instances get.
    CREATE TABLE module (
        hub INTEGER NOT NULL,
        name TEXT NOT NULL,
        current INTEGER NOT NULL,      -- blob.id
        UNIQUE (hub, name)
    );

    -- Everything that was ever uploaded under a name.
    CREATE TABLE version (
        hub INTEGER NOT NULL,
        name TEXT NOT NULL,
        module INTEGER NOT NULL,       -- blob.id
        uploaded INTEGER NOT NULL,     -- first time, milliseconds since 1970
        catalog TEXT NOT NULL,         -- JSON; the engine's affair
        UNIQUE (hub, name, module)
    );

    -- One row per instance, small, so that many share a page: what is long (input, output) is in the history.
    CREATE TABLE instance (
        key INTEGER PRIMARY KEY,       -- number of its first execution; holds the hub in its high bits
        hub INTEGER NOT NULL,
        id TEXT NOT NULL,              -- as callers know it
        execution INTEGER NOT NULL,    -- the current one
        length INTEGER NOT NULL,       -- events of the current execution
        function TEXT NOT NULL,        -- the orchestrator, as the caller spelled it
        module INTEGER NOT NULL,       -- blob.id: the code of the current execution
        status INTEGER NOT NULL,       -- RuntimeStatus, numbered as on the wire
        created INTEGER NOT NULL,      -- milliseconds since 1970
        updated INTEGER NOT NULL,      -- milliseconds since 1970; in no index, since every commit changes it
        custom_status TEXT,            -- JSON, as the guest wrote it
        UNIQUE (hub, id)
    );
    -- The key is the last column of every index, as it is the rowid. A start writes to all of them. A step that leaves the
    -- status as it is writes to none, see ADVANCE in write.rs; one that changes it writes to the first, an end to the last too.
    CREATE INDEX instance_status ON instance (hub, status, created);
    CREATE INDEX instance_created ON instance (hub, created);
    CREATE INDEX instance_open ON instance (hub) WHERE status NOT BETWEEN 1 AND 5;

    -- What happened: one row per commit, in the order of commits, so that a batch writes to the end of the table. A
    -- table WITHOUT ROWID would lie in the order of executions, and spill each row to a page of its own.
    CREATE TABLE history (
        execution INTEGER NOT NULL,
        seq INTEGER NOT NULL,          -- number of the row's first event, from 0
        events TEXT NOT NULL           -- JSON array, one or more events
    );
    CREATE UNIQUE INDEX history_order ON history (execution, seq);

    -- Executions that no instance points at any more; their history is deleted in slices.
    CREATE TABLE superseded (
        execution INTEGER PRIMARY KEY
    );
",
    "
    -- What guests said, one row per commit that has lines; the oldest rows of an execution go when it has too much.
    CREATE TABLE log (
        execution INTEGER NOT NULL,
        line INTEGER NOT NULL,         -- number of the row's first line, from 0
        count INTEGER NOT NULL,        -- how many lines it has
        upto INTEGER NOT NULL,         -- bytes of all rows of the execution so far, with this one and those that are gone
        lines TEXT NOT NULL            -- JSON array
    );
    CREATE UNIQUE INDEX log_order ON log (execution, line);
",
    "
    -- A new instance asks whether its hub has the module still.
    CREATE INDEX version_module ON version (module, hub);
",
    "
    -- When an open instance has to be looked at, in milliseconds since 1970: 0 is now and after every restart, NULL is when others have
    -- something for it. Says nothing once it has ended. What was open before this step was not asked, so it is looked at.
    ALTER TABLE instance ADD COLUMN wake INTEGER;
    DROP INDEX instance_open;
    UPDATE instance SET wake = 0 WHERE status NOT BETWEEN 1 AND 5;
    -- In the place of the one without the time. A step that leaves status and time as they are writes to no index, one that changes
    -- the time only to this one, see ADVANCE in write.rs.
    CREATE INDEX instance_open ON instance (hub, wake) WHERE status NOT BETWEEN 1 AND 5;

    -- Labels: a JSON object of texts, or NULL if there are none.
    ALTER TABLE instance ADD COLUMN tags TEXT;

    -- Which instance an execution belongs to that is not its first; that of a first one has its number for a key. From then on the
    -- instance's column created says when its current execution was.
    CREATE INDEX instance_continued ON instance (execution) WHERE execution <> key;

    -- Lines belong to an instance through all its executions. There was only one until now, whose number is the instance's key.
    ALTER TABLE log RENAME COLUMN execution TO instance;

    -- The instance that is gone with the execution, whose lines go too; NULL if it has gone on as another execution.
    ALTER TABLE superseded ADD COLUMN instance INTEGER;
    UPDATE superseded SET instance = execution;

    -- What instances have for each other: written in the commit of the sender, deleted in the one that records it. Nearly always
    -- small, so that the key is its only order.
    CREATE TABLE inbox (
        id INTEGER PRIMARY KEY,        -- given out by the partition of the sender; holds hub and partition in its high bits
        recipient TEXT NOT NULL,       -- instance.id, of the same hub; there need not be one
        body TEXT NOT NULL             -- JSON
    );

    -- What activities said of their progress, last. Not part of a commit, so that a row may be there for longer than it is needed.
    CREATE TABLE progress (
        execution INTEGER NOT NULL,
        task INTEGER NOT NULL,         -- of the first attempt
        payload TEXT NOT NULL,         -- JSON, as the guest wrote it
        PRIMARY KEY (execution, task)
    ) WITHOUT ROWID;
",
    "
    -- Why it is suspended, if it is and if it was said.
    ALTER TABLE instance ADD COLUMN reason TEXT;
",
];

/// Brings the file to the version that `steps` lead to, in one transaction: a crash leaves the old version or the new one.
///
/// # Errors
/// [`StoreError::Newer`] if the file has been through more steps than there are. The file has not changed then, nor after
/// any other error.
pub fn migrate(conn: &mut Connection, steps: &[&str]) -> Result<(), StoreError> {
    let found = version(conn, steps)?;
    if found == steps.len() {
        return Ok(());
    }
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in &steps[found..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known(steps))?;
    Ok(transaction.commit()?)
}

/// How many of `steps` the file has been through. Changes nothing.
///
/// # Errors
/// As [`migrate`].
pub fn version(conn: &Connection, steps: &[&str]) -> Result<usize, StoreError> {
    let found = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = known(steps);
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    usize::try_from(found).map_err(|_| StoreError::Corrupt(format!("schema version {found}")))
}

fn known(steps: &[&str]) -> i64 {
    i64::try_from(steps.len()).expect("a handful of steps")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "CREATE TABLE loaf (name TEXT); INSERT INTO loaf VALUES ('rye');";
    const SECOND: &str = "ALTER TABLE loaf ADD COLUMN grams INTEGER; UPDATE loaf SET grams = 750;";

    fn check(conn: &Connection, version: i64, sql: &str, expected: Option<&str>) {
        assert_eq!(conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), version);
        assert_eq!(conn.query_row(sql, [], |row| row.get::<_, String>(0)).ok().as_deref(), expected);
    }

    #[test]
    fn an_older_file_goes_through_the_steps_that_it_lacks() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &[FIRST]).unwrap();
        check(&conn, 1, "SELECT name FROM loaf", Some("rye"));
        migrate(&mut conn, &[FIRST, SECOND]).unwrap();
        check(&conn, 2, "SELECT name || grams FROM loaf", Some("rye750"));
        migrate(&mut conn, &[FIRST, SECOND]).unwrap();
        check(&conn, 2, "SELECT name || grams FROM loaf", Some("rye750"));
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &[FIRST]).unwrap();
        assert!(migrate(&mut conn, &[FIRST, SECOND, "UPDATE nothing SET x = 1"]).is_err());
        check(&conn, 1, "SELECT name || grams FROM loaf", None);
        check(&conn, 1, "SELECT name FROM loaf", Some("rye"));
    }

    #[test]
    fn a_newer_file_is_refused_with_both_versions() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &[FIRST, SECOND]).unwrap();
        let error = migrate(&mut conn, &[FIRST]).unwrap_err();
        let expected = "the store has schema version 2, and this program knows versions up to 1; run a newer version of it";
        assert_eq!(error.to_string(), expected);
    }
}
