//! The versions of the schema, and how a file gets from one to the next.
//!
//! A migration, once released, is never edited: its checksum is in every catalog it was applied to.

use std::path::Path;

use duckdb::Connection;
use duckdb::types::Value as Cell;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::error::CatalogError;
use super::row::time_cell;

/// One step of the schema.
#[derive(Debug, Clone)]
pub(super) struct Migration {
    pub version: i64,
    pub description: &'static str,
    pub sql: &'static str,
}

impl Migration {
    /// SHA-256 of the text, in hexadecimal.
    pub fn checksum(&self) -> String {
        use std::fmt::Write as _;
        Sha256::digest(self.sql).iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// The migrations of this program, in order.
pub(super) const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    description: "tables and views",
    sql: include_str!("../../migrations/0001_tables.sql"),
}];

/// What a file says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It holds nothing.
    Empty,
    /// It is a catalog of this version.
    Version(i64),
}

fn failed(error: impl std::fmt::Display) -> CatalogError {
    CatalogError::statement("read the schema version", error)
}

/// The version of the file, after judging that this program may use it.
pub(super) fn inspect(
    connection: &Connection,
    path: &Path,
    migrations: &[Migration],
) -> Result<Found, CatalogError> {
    let count =
        |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let tables = "SELECT count(*) FROM duckdb_tables() WHERE NOT internal";
    if count(&format!("{tables} AND table_name = 'schema_version'"))? == 0 {
        return match count(tables)? {
            0 => Ok(Found::Empty),
            others => Err(CatalogError::NotACatalog {
                path: path.to_owned(),
                message: format!("it has {others} tables but no schema_version"),
            }),
        };
    }
    let mut statement = connection
        .prepare("SELECT version, checksum FROM schema_version ORDER BY version")
        .map_err(failed)?;
    let applied: Vec<(i64, String)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .map_err(failed)?;
    let supported = migrations.last().map_or(0, |migration| migration.version);
    let found = applied.last().map_or(0, |(version, _)| *version);
    if found > supported {
        return Err(CatalogError::Newer { path: path.to_owned(), found, supported });
    }
    for (version, applied) in applied {
        let Some(migration) = migrations.iter().find(|known| known.version == version) else {
            return Err(failed(format!("version {version} is unknown")));
        };
        let known = migration.checksum();
        if known != applied {
            return Err(CatalogError::MigrationChanged {
                path: path.to_owned(),
                version,
                applied,
                known,
            });
        }
    }
    Ok(if found == 0 { Found::Empty } else { Found::Version(found) })
}

/// Applies what is newer than `from`, each migration in a transaction of its own.
pub(super) fn apply(
    connection: &Connection,
    from: i64,
    migrations: &[Migration],
    now: Timestamp,
) -> Result<(), CatalogError> {
    connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL, \
             description VARCHAR NOT NULL, checksum VARCHAR NOT NULL, \
             applied_at TIMESTAMP NOT NULL, duckdb_version VARCHAR NOT NULL)",
        )
        .map_err(failed)?;
    for migration in migrations.iter().filter(|migration| migration.version > from) {
        let run = || -> duckdb::Result<()> {
            connection.execute_batch("BEGIN TRANSACTION")?;
            connection.execute_batch(migration.sql)?;
            connection.execute(
                "INSERT INTO schema_version VALUES (?, ?, ?, ?, version())",
                duckdb::params_from_iter([
                    Cell::BigInt(migration.version),
                    Cell::Text(migration.description.to_owned()),
                    Cell::Text(migration.checksum()),
                    time_cell(now),
                ]),
            )?;
            connection.execute_batch("COMMIT")
        };
        run().map_err(|error| {
            // The transaction is dead already when the statement was the cause.
            let _ = connection.execute_batch("ROLLBACK");
            CatalogError::statement(format!("apply migration {}", migration.version), error)
        })?;
    }
    Ok(())
}
