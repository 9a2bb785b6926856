//! How does a module go? Its versions in one step, if nobody needs them; its bytes when nothing refers to them any more.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::StoreError;
use super::read;
use crate::model::{Digest, HubKey, ModuleName};
use crate::store::schema::OPEN;
use crate::store::{Deletion, NAMED_MAX, to_delete};

/// How many instances are looked at in one snapshot: some ten milliseconds.
const SLICE: usize = 20_000;

/// As [`crate::store::Store::delete_module`], inside a transaction: an instance that is created meanwhile comes before it and counts, or
/// after it and is refused.
pub(super) fn delete_module(
    conn: &Connection,
    hub: HubKey,
    name: &ModuleName,
    digest: Option<Digest>,
) -> Result<Deletion, StoreError> {
    let mut versions = read::modules(conn, hub)?;
    versions.retain(|row| row.name == *name);
    let digests = match to_delete(&versions, digest) {
        Ok(digests) => digests,
        Err(refusal) => return Ok(refusal),
    };
    let live = read::live_instances(conn, hub)?;
    if let Some(&(digest, count)) = digests.iter().find_map(|digest| live.iter().find(|(used, _)| used == digest)) {
        let sql = format!(
            "SELECT instance.id FROM instance INDEXED BY instance_open JOIN blob ON blob.id = instance.module
            WHERE hub = ?1 AND {OPEN} AND digest = ?2 ORDER BY key LIMIT ?3"
        );
        let limit = i64::try_from(NAMED_MAX).unwrap_or(i64::MAX);
        let some = read::all(conn, &sql, params![hub.0, digest.0, limit], |row| read::name(row, 0))?;
        return Ok(Deletion::InUse { digest, count, some });
    }
    let version = "DELETE FROM version WHERE hub = ?1 AND name = ?2 AND module = (SELECT id FROM blob WHERE digest = ?3)";
    for digest in &digests {
        conn.prepare_cached(version)?.execute(params![hub.0, name.as_str(), digest.0])?;
    }
    if digests.len() == versions.len() {
        conn.prepare_cached("DELETE FROM module WHERE hub = ?1 AND name = ?2")?.execute(params![hub.0, name.as_str()])?;
    }
    Ok(Deletion::Done(digests))
}

/// The modules that no hub has, by number: instances may refer to them still.
pub(super) fn orphans(conn: &Connection) -> Result<HashMap<i64, Digest>, StoreError> {
    let sql = "SELECT id, digest FROM blob WHERE NOT EXISTS (SELECT 1 FROM version WHERE version.module = blob.id)";
    Ok(read::all(conn, sql, params![], |row| Ok((row.get(0)?, Digest(row.get(1)?))))?.into_iter().collect())
}

/// Strikes from `orphans` what the instances behind `after` refer to, as far as one snapshot goes; how far that was.
pub(super) fn strike_referred(
    conn: &Connection,
    orphans: &mut HashMap<i64, Digest>,
    after: i64,
) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT key, module FROM instance WHERE key > ?1 ORDER BY key LIMIT ?2";
    let limit = i64::try_from(SLICE).unwrap_or(i64::MAX);
    let rows = read::all(conn, sql, params![after, limit], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    for (_, module) in &rows {
        orphans.remove(module);
    }
    Ok(rows.last().map(|(key, _)| *key))
}

/// Deletes the bytes of `orphans`, inside a transaction.
pub(super) fn discard(conn: &Connection, orphans: &HashMap<i64, Digest>) -> Result<(), StoreError> {
    let mut delete = conn.prepare_cached("DELETE FROM blob WHERE id = ?1")?;
    for module in orphans.keys() {
        delete.execute([module])?;
    }
    Ok(())
}
