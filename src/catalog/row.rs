//! Rows and records: one mapping for all tables.
//!
//! A record is a serde type; its JSON form is laid over the columns of a table. A field without a
//! column of its own goes into the table's JSON column for the rest, if it has one. May not know any
//! particular record.

use duckdb::Connection;
use duckdb::types::{TimeUnit, Value as Cell, ValueRef};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use super::error::CatalogError;

/// How a field is kept in its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Real,
    Boolean,
    /// RFC 3339 in JSON, `TIMESTAMP` in microseconds UTC in the table.
    Time,
    Json,
    /// JSON of all fields that have no column.
    Rest,
}

/// A column of a table and the JSON field it keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub name: &'static str,
    pub field: &'static str,
    pub kind: Kind,
}

pub(super) const fn column(name: &'static str, field: &'static str, kind: Kind) -> Column {
    Column { name, field, kind }
}

/// A record that a table keeps.
pub(super) trait Record: Serialize + DeserializeOwned {
    const TABLE: &'static str;
    const COLUMNS: &'static [Column];
}

fn column_names<R: Record>() -> String {
    R::COLUMNS.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// The cells of a record, in the order of its columns.
pub(super) fn cells<R: Record>(record: &R, id: Option<i64>) -> Result<Vec<Cell>, CatalogError> {
    let action = || format!("write to {}", R::TABLE);
    let mut fields = match serde_json::to_value(record) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(CatalogError::statement(action(), "the record is not an object")),
        Err(error) => return Err(CatalogError::statement(action(), error)),
    };
    if let Some(id) = id {
        fields.insert("id".to_owned(), Value::from(id));
    }
    let mut cells = Vec::with_capacity(R::COLUMNS.len());
    for column in R::COLUMNS.iter().filter(|column| column.kind != Kind::Rest) {
        let value = fields.shift_remove(column.field).unwrap_or(Value::Null);
        cells.push(cell(column.kind, value).map_err(|message| {
            CatalogError::statement(action(), format!("{}: {message}", column.name))
        })?);
    }
    if let Some(position) = R::COLUMNS.iter().position(|column| column.kind == Kind::Rest) {
        fields.retain(|_, value| !value.is_null());
        cells.insert(position, Cell::Text(Value::Object(fields).to_string()));
    }
    Ok(cells)
}

fn cell(kind: Kind, value: Value) -> Result<Cell, String> {
    Ok(match (kind, value) {
        (_, Value::Null) => Cell::Null,
        (Kind::Text, Value::String(text)) => Cell::Text(text),
        (Kind::Integer, Value::Number(number)) => {
            Cell::BigInt(number.as_i64().ok_or("the number is not a 64-bit integer")?)
        }
        (Kind::Real, Value::Number(number)) => {
            Cell::Double(number.as_f64().ok_or("the number is not a real one")?)
        }
        (Kind::Boolean, Value::Bool(flag)) => Cell::Boolean(flag),
        (Kind::Time, Value::String(text)) => {
            time_cell(text.parse().map_err(|error: jiff::Error| error.to_string())?)
        }
        (Kind::Json | Kind::Rest, value) => Cell::Text(value.to_string()),
        (kind, value) => return Err(format!("{value} is not of kind {kind:?}")),
    })
}

/// A time as the database keeps it: microseconds since 1970 in UTC.
pub(super) fn time_cell(time: Timestamp) -> Cell {
    Cell::Timestamp(TimeUnit::Microsecond, time.as_microsecond())
}

/// Whether a table's JSON column may hold text that is not JSON is decided by the database; what it
/// hands out is parsed here.
fn field(kind: Kind, value: ValueRef<'_>) -> Result<Value, String> {
    match (kind, value) {
        (Kind::Json | Kind::Rest, ValueRef::Text(bytes)) => {
            serde_json::from_slice(bytes).map_err(|error| error.to_string())
        }
        (_, value) => Ok(json(&value.to_owned())),
    }
}

/// A value of any type as JSON; integers beyond 64 bits, decimals, times and intervals as text.
pub(super) fn json(value: &Cell) -> Value {
    match value {
        Cell::Null => Value::Null,
        Cell::Boolean(flag) => Value::Bool(*flag),
        Cell::TinyInt(number) => (*number).into(),
        Cell::SmallInt(number) => (*number).into(),
        Cell::Int(number) => (*number).into(),
        Cell::BigInt(number) => (*number).into(),
        Cell::UTinyInt(number) => (*number).into(),
        Cell::USmallInt(number) => (*number).into(),
        Cell::UInt(number) => (*number).into(),
        Cell::UBigInt(number) => (*number).into(),
        Cell::HugeInt(number) => i64::try_from(*number).map_or_else(|_| text(number), Value::from),
        Cell::UHugeInt(number) => u64::try_from(*number).map_or_else(|_| text(number), Value::from),
        Cell::Float(number) => real(f64::from(*number)),
        Cell::Double(number) => real(*number),
        Cell::Decimal(decimal) => text(decimal),
        Cell::Timestamp(unit, count) => {
            Timestamp::from_microsecond(unit.to_micros(*count)).map_or(Value::Null, text)
        }
        Cell::Text(string) | Cell::Enum(string) => Value::String(string.clone()),
        Cell::Blob(bytes) | Cell::Geometry(bytes) => text(bytes.escape_ascii()),
        Cell::Date32(days) => jiff::Span::new()
            .try_days(*days)
            .and_then(|span| jiff::civil::date(1970, 1, 1).checked_add(span))
            .map_or(Value::Null, text),
        Cell::Time64(unit, count) => jiff::Span::new()
            .try_microseconds(unit.to_micros(*count))
            .and_then(|span| jiff::civil::Time::midnight().checked_add(span))
            .map_or(Value::Null, text),
        Cell::Interval { months, days, nanos } => {
            text(format!("{months} months {days} days {} seconds", nanos / 1_000_000_000))
        }
        Cell::List(items) | Cell::Array(items) => items.iter().map(json).collect(),
        Cell::Struct(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), json(value))).collect()
        }
        Cell::Map(entries) => entries
            .iter()
            .map(|(name, value)| match json(name) {
                Value::String(name) => (name, json(value)),
                other => (other.to_string(), json(value)),
            })
            .collect(),
        Cell::Union(value) => json(value),
        // The crate may add types; none of the catalog's columns has one.
        _ => Value::String("?".to_owned()),
    }
}

fn real(number: f64) -> Value {
    Number::from_f64(number).map_or_else(|| Value::String(number.to_string()), Value::Number)
}

#[expect(clippy::needless_pass_by_value, reason = "used as the last link of a chain")]
fn text(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

/// The records of a table that meet `clause` (everything after the table's name).
pub(super) fn select<R: Record>(
    connection: &Connection,
    clause: &str,
    parameters: &[Cell],
) -> Result<Vec<R>, CatalogError> {
    let action = || format!("read {}", R::TABLE);
    let failed = |error| CatalogError::statement(action(), error);
    let sql = format!("SELECT {} FROM {} {clause}", column_names::<R>(), R::TABLE);
    // Not cached: the plan of a cached statement keeps what the table's statistics said when it was
    // made, and DuckDB packs short texts for sorting by them. Longer texts that were written since
    // then come out of it as bytes that are no text.
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let mut rows = statement.query(duckdb::params_from_iter(parameters.iter())).map_err(failed)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let mut fields = Map::new();
        for (position, column) in R::COLUMNS.iter().enumerate() {
            let value = row.get_ref(position).map_err(failed)?;
            let value = field(column.kind, value)
                .map_err(|message| CatalogError::statement(action(), message))?;
            match (column.kind, value) {
                (Kind::Rest, Value::Object(rest)) => {
                    for (name, value) in rest {
                        fields.entry(name).or_insert(value);
                    }
                }
                (Kind::Rest, _) | (_, Value::Null) => {}
                (_, value) => {
                    fields.insert(column.field.to_owned(), value);
                }
            }
        }
        let record = serde_json::from_value(Value::Object(fields))
            .map_err(|error| CatalogError::statement(action(), error))?;
        records.push(record);
    }
    Ok(records)
}

/// Adds a row; outside a transaction it is on disk when this returns.
pub(super) fn insert<R: Record>(
    connection: &Connection,
    record: &R,
    id: Option<i64>,
) -> Result<(), CatalogError> {
    let marks = vec!["?"; R::COLUMNS.len()].join(", ");
    let sql = format!("INSERT INTO {} ({}) VALUES ({marks})", R::TABLE, column_names::<R>());
    let cells = cells(record, id)?;
    let failed = |error| CatalogError::statement(format!("write to {}", R::TABLE), error);
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    statement.execute(duckdb::params_from_iter(cells.iter())).map_err(failed)?;
    Ok(())
}
