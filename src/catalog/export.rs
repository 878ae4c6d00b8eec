//! Taking the catalog out, and putting one in.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::error::CatalogError;
use super::migration::{self, Found, MIGRATIONS};
use super::open::{self, beside, copy_durably, staging};
use super::store::Store;

/// Writes every table as a Parquet file into `directory`.
pub(super) fn parquet(store: &Store, directory: &Path) -> Result<Vec<PathBuf>, CatalogError> {
    let staging = staging(store.path());
    for directory in [directory, &staging] {
        open::make_directory(directory)?;
    }
    open::keep_private(&staging);
    let failed = |error| CatalogError::statement("export", error);
    let tables: Vec<String> = {
        let mut statement = store
            .connection()?
            .prepare(
                "SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY table_name",
            )
            .map_err(failed)?;
        statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(failed)?
    };
    let mut files = Vec::new();
    for table in tables {
        // The engine may write only to its staging directory.
        let staged = staging.join(format!("{table}.parquet"));
        let quoted = staged.display().to_string().replace('\'', "''");
        store.execute(&format!("COPY {table} TO '{quoted}' (FORMAT parquet)"), &[])?;
        let file = directory.join(format!("{table}.parquet"));
        copy_durably(&staged, &file)?;
        std::fs::remove_file(&staged)
            .map_err(|error| CatalogError::file("remove", &staged, error))?;
        files.push(file);
    }
    Ok(files)
}

/// Copies the whole catalog to `file`, which must not exist.
pub(super) fn copy_to(store: &mut Store, file: &Path) -> Result<(), CatalogError> {
    if file.exists() {
        return Err(CatalogError::file("copy to", file, "the file exists"));
    }
    store.while_closed(|path| copy_durably(path, file))
}

/// Replaces the catalog by the one in `file`; returns where the replaced one is kept.
pub(super) fn replace_by(
    store: &mut Store,
    file: &Path,
    at: Timestamp,
) -> Result<PathBuf, CatalogError> {
    if !file.is_file() {
        return Err(CatalogError::file("read", file, "there is no such file"));
    }
    let incoming = beside(store.path(), ".incoming");
    copy_durably(file, &incoming)?;
    let judged = judge(&incoming, at);
    if judged.is_err() {
        let _ = std::fs::remove_file(&incoming);
    }
    judged?;
    store.while_closed(|path| {
        let kept = beside(path, &format!(".replaced-{}", at.strftime("%Y%m%dT%H%M%SZ")));
        // A copy, not a move: at every moment there is a catalog under the name.
        copy_durably(path, &kept)?;
        std::fs::rename(&incoming, path)
            .map_err(|error| CatalogError::file("replace", path, error))?;
        Ok(kept)
    })
}

/// Whether the file can take the catalog's place; brings it to this program's version.
fn judge(file: &Path, at: Timestamp) -> Result<(), CatalogError> {
    let connection = open::connect(file)?;
    match migration::inspect(&connection, file, MIGRATIONS)? {
        Found::Empty => {
            return Err(CatalogError::NotACatalog {
                path: file.to_owned(),
                message: "it holds no tables".to_owned(),
            });
        }
        Found::Version(version) => migration::apply(&connection, version, MIGRATIONS, at)?,
    }
    open::checkpoint(&connection)?;
    connection.close().map_err(|(_, error)| CatalogError::file("close", file, error))
}
