//! SQL that people ask: one statement that only reads, and only the catalog.
//!
//! Three walls: the statement is parsed and its functions and tables are looked at; it runs in a
//! read-only transaction; and the engine itself has no access to files but its staging directory.

use std::sync::mpsc;
use std::time::Duration;

use duckdb::Connection;
use serde_json::Value;

use super::error::CatalogError;
use super::request::QueryResult;
use super::row;
use super::store::Store;

/// Longer than any sensible question takes; the owner thread does nothing else meanwhile.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Said of every statement that does something else.
const READING: &str = "a question is one statement that only reads: SELECT, WITH, FROM, VALUES, \
                       DESCRIBE, SHOW TABLES or EXPLAIN";

/// Table functions that read the catalog or nothing at all.
const TABLE_FUNCTIONS: &[&str] = &[
    "range",
    "generate_series",
    "unnest",
    "json_each",
    "json_tree",
    "duckdb_tables",
    "duckdb_columns",
    "duckdb_views",
    "pragma_table_info",
    "pragma_database_size",
];

/// Runs `sql` and returns at most `limit` rows.
pub(super) fn run(store: &Store, sql: &str, limit: u32) -> Result<QueryResult, CatalogError> {
    let connection = store.connection()?;
    let sql = sql.trim().trim_end_matches(';').trim_end();
    admit(connection, explained(sql))?;
    let failed = |error| CatalogError::statement("run the query", error);
    connection.execute_batch("BEGIN TRANSACTION READ ONLY").map_err(failed)?;
    let interrupt = connection.interrupt_handle();
    let (finished, waiting) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(TIME_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let result = fetch(connection, sql, limit);
        drop(finished);
        result
    });
    connection.execute_batch("ROLLBACK").map_err(failed)?;
    result
}

fn fetch(connection: &Connection, sql: &str, limit: u32) -> Result<QueryResult, CatalogError> {
    let failed = |error| CatalogError::statement("run the query", error);
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut result = QueryResult::default();
    if let Some(statement) = rows.as_ref() {
        result.columns = statement.column_names();
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    while let Some(row) = rows.next().map_err(failed)? {
        if result.rows.len() == limit {
            result.truncated = true;
            break;
        }
        let mut values = Vec::with_capacity(result.columns.len());
        for position in 0..result.columns.len() {
            values.push(row::json(&row.get_ref(position).map_err(failed)?.to_owned()));
        }
        result.rows.push(values);
    }
    Ok(result)
}

/// The statement behind EXPLAIN, which the serialiser does not take.
fn explained(sql: &str) -> &str {
    let strip = |text: &'_ str, word: &str| -> Option<usize> {
        let head = text.get(..word.len())?;
        let rest = text.get(word.len()..)?;
        (head.eq_ignore_ascii_case(word) && rest.starts_with(char::is_whitespace))
            .then(|| text.len() - rest.trim_start().len())
    };
    match strip(sql, "EXPLAIN") {
        Some(start) => {
            let rest = &sql[start..];
            strip(rest, "ANALYZE").map_or(rest, |start| &rest[start..])
        }
        None => sql,
    }
}

/// Refuses everything but one statement that reads tables and views of the catalog.
fn admit(connection: &Connection, sql: &str) -> Result<(), CatalogError> {
    let refuse = |message: String| Err(CatalogError::invalid("query", message));
    let parsed: String = connection
        .query_row("SELECT json_serialize_sql(?::VARCHAR)", [sql], |row| row.get(0))
        .map_err(|error| CatalogError::statement("parse the query", error))?;
    let parsed: Value = serde_json::from_str(&parsed)
        .map_err(|error| CatalogError::statement("parse the query", error))?;
    if parsed["error"] != Value::Bool(false) {
        if parsed["error_type"].as_str() == Some("parser") {
            let message = parsed["error_message"].as_str().unwrap_or("it is no SQL");
            return refuse(format!("the statement cannot be parsed: {message}"));
        }
        return refuse(READING.to_owned());
    }
    match parsed["statements"].as_array().map(Vec::len) {
        Some(1) => {}
        _ => return refuse(READING.to_owned()),
    }
    match forbidden(&parsed["statements"]) {
        Some(name) => refuse(format!("`{name}` is not a table or view of the catalog")),
        None => Ok(()),
    }
}

fn forbidden(node: &Value) -> Option<String> {
    match node {
        Value::Array(items) => items.iter().find_map(forbidden),
        Value::Object(fields) => {
            let named = |key: &str| fields.get(key).and_then(Value::as_str);
            let bad = match named("type") {
                Some("TABLE_FUNCTION") => {
                    let name = fields["function"]["function_name"].as_str().unwrap_or("?");
                    (!TABLE_FUNCTIONS.contains(&name.to_ascii_lowercase().as_str()))
                        .then(|| name.to_owned())
                }
                // The engine takes an unknown name with a dot for a file.
                Some("BASE_TABLE") => named("table_name")
                    .filter(|name| {
                        !name.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
                    })
                    .map(str::to_owned),
                _ => None,
            };
            bad.or_else(|| fields.values().find_map(forbidden))
        }
        _ => None,
    }
}
