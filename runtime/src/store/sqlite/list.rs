//! How is a page of a list found among millions of instances? Each order of a list is that of an index, and a page begins where the one
//! before ended.
//!
//! One statement for a page, so that its snapshot ends with it; what it may read is bounded.

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::StoreError;
use super::read::{INSTANCE, instance_row};
use crate::model::{HubKey, RuntimeStatus};
use crate::store::{Filter, Listed, Position};

/// How many rows one page may look at. More than it shows only where a prefix and other conditions come together, or tags and anything,
/// which no index answers; it takes some ten milliseconds.
const LOOKED_AT_MAX: usize = 10_000;

/// After how many bytes of custom statuses a page ends, whether it shows them or not.
const BYTES_MAX: usize = 4 << 20;

/// As [`crate::store::Store::list`].
pub(super) fn list(
    conn: &Connection,
    hub: HubKey,
    filter: &Filter,
    after: Option<&Position>,
    max: usize,
) -> Result<Listed, StoreError> {
    list_within(conn, hub, filter, after, max, LOOKED_AT_MAX)
}

fn list_within(
    conn: &Connection,
    hub: HubKey,
    filter: &Filter,
    after: Option<&Position>,
    max: usize,
    looked_at_max: usize,
) -> Result<Listed, StoreError> {
    let mut listed = Listed::default();
    let Some(sql) = sql(filter) else { return Ok(listed) };
    let mut statement = conn.prepare_cached(&sql)?;
    let limit = i64::try_from(looked_at_max + 1).unwrap_or(i64::MAX); // One more than is looked at tells that there is more.
    let mut rows = if filter.id_prefix.is_empty() {
        let after_ms = after.map_or(i64::MIN, |after| after.created_ms.cast_signed());
        let from_ms = filter.created_from_ms.unwrap_or(i64::MIN).max(after_ms);
        let to_ms = filter.created_to_ms.unwrap_or(i64::MAX);
        let after_id = after.map_or("", |after| after.id.as_str());
        statement.query(params![hub.0, limit, from_ms, to_ms, after_ms, after_id])?
    } else {
        // No ID holds a zero, so this is the very next text. As a condition of its own, it might not be where the index starts.
        let next = after.map(|after| format!("{}\0", after.id));
        let first = next.filter(|next| *next > filter.id_prefix).unwrap_or_else(|| filter.id_prefix.clone());
        statement.query(params![hub.0, limit, first, end_of_prefix(&filter.id_prefix)])?
    };
    let (mut last, mut looked_at, mut bytes) = (None, 0, 0);
    while let Some(row) = rows.next()? {
        if listed.rows.len() == max || looked_at == looked_at_max || bytes >= BYTES_MAX {
            listed.next = last;
            break;
        }
        looked_at += 1;
        match instance_row(row) {
            Ok(row) => {
                last = Some(Position::behind(&row));
                bytes += row.custom_status.as_ref().map_or(0, |status| status.text().len());
                if filter.matches(&row) {
                    listed.rows.push(row);
                }
            }
            Err(StoreError::Corrupt(why)) => {
                tracing::error!("an instance is left out of a list, since its row is damaged: {why}")
            }
            Err(error) => return Err(error),
        }
    }
    Ok(listed)
}

/// The statement for a list; `None` if nothing can be in it. SQLite stops at the last row that is asked for: what it sorts are instances
/// of one and the same millisecond.
fn sql(filter: &Filter) -> Option<String> {
    const WITH_MODULE: &str = "LEFT JOIN blob ON blob.id = instance.module WHERE hub = ?1";
    const RANGE: &str = "created BETWEEN ?3 AND ?4 AND (created > ?5 OR instance.id > ?6)";
    const ORDER: &str = "ORDER BY created, instance.id LIMIT ?2";
    if !filter.id_prefix.is_empty() {
        return Some(format!(
            "{INSTANCE} {WITH_MODULE} AND instance.id >= ?3 AND instance.id < ?4 ORDER BY instance.id LIMIT ?2"
        ));
    }
    let Some(statuses) = &filter.statuses else {
        return Some(format!("{INSTANCE} INDEXED BY instance_created {WITH_MODULE} AND {RANGE} {ORDER}"));
    };
    let mut statuses = statuses.clone();
    statuses.sort_by_key(|status| *status as u8);
    statuses.dedup();
    let of_status = |status: &RuntimeStatus| {
        let status = *status as u8;
        format!("{INSTANCE} INDEXED BY instance_status {WITH_MODULE} AND status = {status} AND {RANGE}")
    };
    // Several in one condition would be sorted as a whole; so they are merged.
    let each: Vec<String> = statuses.iter().map(of_status).collect();
    (!each.is_empty()).then(|| format!("{} {ORDER}", each.join(" UNION ALL ")))
}

/// What all texts with this prefix are smaller than, and no larger text without it.
fn end_of_prefix(prefix: &str) -> Value {
    let mut kept: Vec<char> = prefix.chars().collect();
    while let Some(last) = kept.pop() {
        // The characters on either side of the gap follow one another in UTF-8.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            kept.push(next);
            return Value::Text(kept.into_iter().collect());
        }
    }
    Value::Blob(Vec::new()) // To SQLite, every text is smaller than every blob.
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::sqlite::{OpenFlags, SqliteStore, connect};
    use crate::store::suite::World;

    fn prefix(text: &str) -> Filter {
        Filter { id_prefix: text.into(), ..Filter::default() }
    }

    fn statuses(statuses: &[RuntimeStatus]) -> Filter {
        Filter { statuses: Some(statuses.to_vec()), ..Filter::default() }
    }

    /// How SQLite goes about the list, without what it says of the table of digests.
    fn plan(filter: &Filter) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let _store = SqliteStore::open(dir.path()).unwrap();
        let conn = connect(&dir.path().join("dacapo.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {}", sql(filter).unwrap())).unwrap();
        let parameters = statement.parameter_count();
        let values = rusqlite::params_from_iter((0..parameters).map(|_| 1));
        let steps = statement.query_map(values, |row| row.get::<_, String>(3)).unwrap();
        steps.map(Result::unwrap).filter(|step| !step.contains("blob")).collect()
    }

    const LAST_TERM: &str = "USE TEMP B-TREE FOR LAST TERM OF ORDER BY";

    #[test]
    fn each_order_of_a_list_is_that_of_an_index() {
        let created = "SEARCH instance USING INDEX instance_created (hub=? AND created>? AND created<?)";
        let status = "SEARCH instance USING INDEX instance_status (hub=? AND status=? AND created>? AND created<?)";
        let id = "SEARCH instance USING INDEX sqlite_autoindex_instance_1 (hub=? AND id>? AND id<?)";
        assert_eq!(plan(&Filter::default()), [created, LAST_TERM]);
        assert_eq!(plan(&statuses(&[RuntimeStatus::Failed])), [status, LAST_TERM]);
        let two = plan(&statuses(&[RuntimeStatus::Failed, RuntimeStatus::Running, RuntimeStatus::Failed]));
        assert_eq!(two, ["MERGE (UNION ALL)", "LEFT", status, LAST_TERM, "RIGHT", status, LAST_TERM]);
        // As a purge asks.
        let ended = plan(&statuses(&[RuntimeStatus::Completed, RuntimeStatus::Failed, RuntimeStatus::Terminated]));
        assert_eq!(ended.iter().filter(|step| *step == status).count(), 3);
        assert!(
            ended.iter().all(|step| step == status
                || step == LAST_TERM
                || ["MERGE (UNION ALL)", "LEFT", "RIGHT"].contains(&step.as_str())),
            "{ended:?}"
        );
        assert_eq!(plan(&Filter { statuses: Some(Vec::new()), ..prefix("loaf") }), [id]);
    }

    #[test]
    fn a_page_that_has_looked_at_enough_goes_on_later() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let world = World::new(&store);
        let ids: Vec<String> = (0..9).map(|n| format!("loaf-{n}")).collect();
        store.commit(&ids.iter().zip(1..).map(|(id, n)| world.create(n, id)).collect::<Vec<_>>()).unwrap();
        store.commit(&[world.advance(8, 1)]).unwrap();
        let conn = connect(&dir.path().join("dacapo.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let filter = Filter { statuses: Some(vec![RuntimeStatus::Running]), ..prefix("loaf") };
        let (mut after, mut pages) = (None, Vec::new());
        loop {
            let listed = list_within(&conn, world.hub, &filter, after.as_ref(), 2, 4).unwrap();
            pages.push(listed.rows.len());
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, [0, 1, 0]);
    }

    #[test]
    fn a_damaged_row_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let world = World::new(&store);
        store.commit(&[world.create(1, "loaf"), world.create(2, "roll"), world.create(3, "bun")]).unwrap();
        let outside = connect(&dir.path().join("dacapo.db"), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        outside.execute("UPDATE instance SET function = x'FF' WHERE id = 'roll'", []).unwrap();
        let listed = store.list(world.hub, &Filter::default(), None, 9).unwrap();
        assert_eq!(listed.rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["loaf", "bun"]);
    }

    #[test]
    fn a_prefix_ends_before_the_next_text_that_lacks_it() {
        for (prefix, expected) in [("a", "b"), ("loaf-", "loaf."), ("a\u{10FFFF}", "b"), ("\u{D7FF}", "\u{E000}"), ("é", "ê")] {
            assert_eq!(end_of_prefix(prefix), Value::Text(expected.into()), "{prefix}");
        }
        assert_eq!(end_of_prefix("\u{10FFFF}"), Value::Blob(Vec::new()));
    }
}
