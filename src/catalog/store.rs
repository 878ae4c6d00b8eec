//! The owner's side: the open database, and what it does with rows of any table.
//!
//! Runs on the owner thread only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use duckdb::Connection;
use duckdb::types::Value as Cell;

use super::error::CatalogError;
use super::open::{self, Claim};
use super::request::Reply;
use super::row::{self, Record};

/// The open database.
pub(super) struct Store {
    /// Unset only while the file is closed to be copied or replaced, or if it could not be opened
    /// again after that.
    connection: Option<Connection>,
    path: PathBuf,
    /// The highest number in use, by table.
    numbers: HashMap<&'static str, i64>,
    /// Given up only after the file is closed for good.
    claim: Option<Claim>,
    /// A transaction around several requests is open: theirs are parts of it.
    grouping: bool,
}

impl Store {
    pub fn new(connection: Connection, path: PathBuf, claim: Claim) -> Self {
        Self {
            connection: Some(connection),
            path,
            numbers: HashMap::new(),
            claim: Some(claim),
            grouping: false,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn connection(&self) -> Result<&Connection, CatalogError> {
        self.connection.as_ref().ok_or(CatalogError::Stopped)
    }

    /// Closes the database, does `work` with the file, and opens it again whatever came of it.
    pub fn while_closed<T>(
        &mut self,
        work: impl FnOnce(&Path) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        self.close()?;
        let done = work(&self.path);
        self.reopen()?;
        done
    }

    /// Opens the file again, after it was closed or after the engine declared itself broken.
    pub fn reopen(&mut self) -> Result<(), CatalogError> {
        self.numbers.clear();
        self.connection = None;
        self.connection = Some(open::connect(&self.path)?);
        Ok(())
    }

    pub fn close(&mut self) -> Result<(), CatalogError> {
        let Some(connection) = self.connection.take() else { return Ok(()) };
        let checkpointed = open::checkpoint(&connection);
        connection.close().map_err(|(_, error)| CatalogError::file("close", &self.path, error))?;
        checkpointed
    }

    /// Closes the database for good; whoever asks next may open the file.
    pub fn end(&mut self) -> Result<(), CatalogError> {
        let closed = self.close();
        if self.connection.is_none() {
            self.claim = None;
        }
        closed
    }

    /// Leaves to their owner what files there are by now.
    pub fn keep_private(&self) {
        open::keep_all_private(&self.path);
    }

    pub fn select<R: Record>(
        &self,
        clause: &str,
        parameters: &[Cell],
    ) -> Result<Vec<R>, CatalogError> {
        row::select(self.connection()?, clause, parameters)
    }

    pub fn execute(&self, sql: &str, parameters: &[Cell]) -> Result<u64, CatalogError> {
        let verb = sql.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        self.connection()?
            .execute(sql, duckdb::params_from_iter(parameters.iter()))
            .map(|count| u64::try_from(count).unwrap_or(u64::MAX))
            .map_err(|error| CatalogError::statement(verb, error))
    }

    /// One number, for example a count.
    pub fn number(&self, sql: &str) -> Result<i64, CatalogError> {
        self.connection()?
            .query_row(sql, [], |row| row.get(0))
            .map_err(|error| CatalogError::statement("count rows", error))
    }

    /// The next free number of a table.
    pub fn next_number<R: Record>(&mut self) -> Result<i64, CatalogError> {
        let last = match self.numbers.get(R::TABLE) {
            Some(last) => *last,
            None => self.number(&format!("SELECT coalesce(max(id), 0) FROM {}", R::TABLE))?,
        };
        let next = last.checked_add(1).ok_or_else(|| {
            CatalogError::statement(format!("number a row of {}", R::TABLE), "no number is left")
        })?;
        self.numbers.insert(R::TABLE, next);
        Ok(next)
    }

    /// Adds a row to a history; it is on disk when this returns.
    pub fn append<R: Record>(&mut self, record: &R) -> Result<i64, CatalogError> {
        let id = self.next_number::<R>()?;
        row::insert(self.connection()?, record, Some(id))?;
        Ok(id)
    }

    /// Adds rows to a history, all or none.
    pub fn append_all<R: Record>(&mut self, records: &[R]) -> Result<Reply, CatalogError> {
        let mut numbers = Vec::with_capacity(records.len());
        for _ in records {
            numbers.push(self.next_number::<R>()?);
        }
        self.transaction(|store| {
            for (record, id) in records.iter().zip(&numbers) {
                row::insert(store.connection()?, record, Some(*id))?;
            }
            Ok(Reply::Count(u64::try_from(records.len()).unwrap_or(u64::MAX)))
        })
    }

    /// Replaces the rows that meet `clause` by `record`, in one transaction.
    pub fn rewrite<R: Record>(
        &self,
        clause: &str,
        parameters: &[Cell],
        record: &R,
    ) -> Result<u64, CatalogError> {
        self.transaction(|store| {
            let sql = format!("DELETE FROM {} {clause}", R::TABLE);
            let removed = store.execute(&sql, parameters)?;
            row::insert(store.connection()?, record, None)?;
            Ok(removed)
        })
    }

    /// Runs the work of several requests in one transaction; an error of one undoes all.
    pub fn grouped<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        self.begin()?;
        self.grouping = true;
        let done = work(self);
        self.grouping = false;
        let done = self.end_transaction(done);
        if done.is_err() {
            // Numbers of rows that are not there after all are free again.
            self.numbers.clear();
        }
        done
    }

    fn begin(&self) -> Result<(), CatalogError> {
        let begun = self.connection()?.execute_batch("BEGIN TRANSACTION");
        begun.map_err(|error| CatalogError::statement("run a transaction", error))
    }

    fn end_transaction<T>(&self, done: Result<T, CatalogError>) -> Result<T, CatalogError> {
        let connection = self.connection()?;
        match done {
            Ok(value) => {
                let committed = connection.execute_batch("COMMIT");
                committed.map_err(|error| CatalogError::statement("run a transaction", error))?;
                Ok(value)
            }
            Err(error) => {
                // A failed statement may have ended the transaction already.
                let _ = connection.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }

    /// Runs `work` in a transaction; an error undoes it.
    pub fn transaction<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        if self.grouping {
            return work(self);
        }
        self.begin()?;
        let done = work(self);
        self.end_transaction(done)
    }
}

/// A text as a parameter.
pub(super) fn text(value: impl Into<String>) -> Cell {
    Cell::Text(value.into())
}
