//! Opening the file: the lock, damage, migrations.
//!
//! Nothing is ever deleted here. What cannot be opened is set aside under a name with the time, and
//! what is not recognised as a catalog is left alone. May not know any table but `schema_version`
//! and `app_config`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use duckdb::{Config, Connection};
use jiff::Timestamp;

use super::configuration::{self, ConfigEntry};
use super::error::{CatalogError, Holder};
use super::migration::{self, Found, Migration};
use super::row;

/// The hidden verb with which the program calls itself to try a file that was not closed cleanly.
pub const PROBE_VERB: &str = "__probe-catalog";

/// What the group and everybody else may do with a file.
const OF_OTHERS: u32 = 0o077;

/// How a catalog is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The program that answers [`PROBE_VERB`] with [`probe`]; unset means that a file that was not
    /// closed cleanly is opened without trying it in another process first.
    pub probe: Option<PathBuf>,
    /// The time that migrations and names of set-aside files carry.
    pub now: Timestamp,
}

/// What happened while opening.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// There was no file.
    pub created: bool,
    /// The version the file had before it was migrated.
    pub migrated_from: Option<i64>,
    /// The copy kept before the migration.
    pub kept_copy: Option<PathBuf>,
    /// Damaged files, under their new names. A log (`.wal`) alone means that the database itself
    /// opened: what is lost is what was recorded after its last checkpoint.
    pub set_aside: Vec<PathBuf>,
    /// A log was found: the last session did not close the file. The engine takes a log that is
    /// cut off for a shorter one, so the caller is to compare the records with the manifests.
    pub unclean: bool,
    /// Rows may be missing: the caller is to rebuild from the manifests.
    pub needs_rebuild: bool,
    /// Version of the program that used the file before.
    pub previous_program: Option<String>,
}

/// The files this process has open: the operating system's lock does not keep a process from
/// itself, and two engines on one file destroy it (duckdb#23788).
static OPEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The claim of this process on a file; ends when dropped.
#[derive(Debug)]
pub(super) struct Claim(PathBuf);

impl Claim {
    pub fn new(path: &Path) -> Result<Self, CatalogError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if open.insert(path.to_owned()) {
            return Ok(Self(path.to_owned()));
        }
        Err(CatalogError::Held { path: path.to_owned(), holder: Some(holder(std::process::id())) })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn holder(pid: u32) -> Holder {
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let verb = |word: &[u8]| matches!(word, b"daemon" | b"operator");
    let serves = words.split(|byte| *byte == 0).any(verb);
    Holder { pid, command: command.map(|name| name.trim().to_owned()), serves }
}

/// `path` with `suffix` behind its whole name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory for what the database itself has to write: spilled data, and exports on their way
/// out. It is the only place that SQL can reach.
pub(super) fn staging(path: &Path) -> PathBuf {
    beside(path, ".staging")
}

fn literal(path: &Path) -> Result<String, CatalogError> {
    let text = path.to_str().ok_or_else(|| {
        CatalogError::invalid(path.display().to_string(), "the path of a catalog must be UTF-8")
    })?;
    Ok(format!("'{}'", text.replace('\'', "''")))
}

/// Leaves what is at this path to its owner alone, as far as this user may say so: definitions of containers
/// are in the catalog, and passwords in their environments. The database makes its files with the mode that
/// the user's `umask` leaves, and its log again after every checkpoint.
pub(super) fn keep_private(path: &Path) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    let mode = metadata.permissions().mode();
    if mode & OF_OTHERS == 0 || metadata.is_symlink() {
        return;
    }
    let private = std::fs::Permissions::from_mode(mode & !OF_OTHERS & 0o7777);
    // Somebody else's stays as it is: whoever opens the file is told.
    let _ = std::fs::set_permissions(path, private);
}

/// The same for the database and its logs.
pub(super) fn keep_all_private(path: &Path) {
    keep_private(path);
    for suffix in LOGS {
        keep_private(&beside(path, suffix));
    }
}

/// Makes a directory that only its owner can look into; one that is there stays as it is.
pub(super) fn make_directory(directory: &Path) -> Result<(), CatalogError> {
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| CatalogError::file("create", directory, error))
}

/// Opens the file as it is, without looking at what it holds.
pub(super) fn connect(path: &Path) -> Result<Connection, CatalogError> {
    let staging = staging(path);
    let configure = || -> duckdb::Result<Config> {
        // One thread: the catalog is small, and worker threads would only wait.
        Config::default()
            .enable_autoload_extension(false)?
            .threads(1)?
            .max_memory("256MiB")?
            .with("temp_directory", staging.display().to_string())?
            .with("allocator_flush_threshold", "256KiB")?
            .with("allocator_bulk_deallocation_flush_threshold", "256KiB")?
            // Else what a statement freed stays with the process until the next statement: a daemon
            // that has just worked would keep some 40 MiB for as long as it is idle.
            .with("allocator_background_threads", "true")?
            // For new files. A transaction takes a block for each column it writes to, so that the
            // default of 256 KiB costs 8 MiB for one row of a wide table.
            .with("default_block_size", "16384")?
            .with("preserve_insertion_order", "true")
    };
    let connection = configure()
        .and_then(|config| Connection::open_with_flags(path, config))
        .map_err(|error| classify(path, &error.to_string()))?;
    keep_all_private(path);
    connection
        .execute_batch(&format!(
            "SET allowed_directories = [{}]; SET enable_external_access = false; \
             SET lock_configuration = true",
            literal(&staging)?
        ))
        .map_err(|error| classify(path, &error.to_string()))?;
    Ok(connection)
}

/// What a failure to open means. Only what is certainly not damage is told apart: to set a file
/// aside wrongly costs a rebuild, to call damage something else costs a program that cannot start.
fn classify(path: &Path, message: &str) -> CatalogError {
    let path = path.to_owned();
    let has = |part: &str| message.contains(part);
    if has("Could not set lock") || has("Conflicting lock") {
        return CatalogError::Held { path, holder: holder_in(message) };
    }
    if has("newer version of DuckDB") || has("older version of DuckDB") {
        return CatalogError::NotACatalog { path, message: message.to_owned() };
    }
    let environment = [
        "Permission denied",
        "No such file",
        "No space left",
        "Read-only file",
        "Is a directory",
        "Too many open files",
        "Out of Memory",
        "Invalid Input",
    ];
    if environment.iter().any(|part| has(part)) {
        return CatalogError::file("open", path, message);
    }
    CatalogError::Damaged { path, message: message.to_owned() }
}

/// The process that an error names as `(PID 123)`, in the database's words or in ours.
fn holder_in(message: &str) -> Option<Holder> {
    let (_, rest) = message.split_once("PID ")?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok().map(holder)
}

/// Opens the file, lets the database replay its log, reads the schema, and closes it again.
///
/// # Errors
/// What [`super::Catalog::open`] would say; a damaged log may also end the process, which is why
/// this runs in a process of its own, under the verb [`PROBE_VERB`].
pub fn probe(path: &Path) -> Result<(), CatalogError> {
    let connection = connect(path)?;
    look(&connection, path)?;
    connection.close().map_err(|(_, error)| classify(path, &error.to_string()))
}

/// Reads enough to know that the file's own tables can be read.
fn look(connection: &Connection, path: &Path) -> Result<(), CatalogError> {
    connection
        .query_row("SELECT count(*) FROM duckdb_columns()", [], |row| row.get::<_, i64>(0))
        .map(|_| ())
        .map_err(|error| classify(path, &error.to_string()))
}

fn probe_elsewhere(program: &Path, path: &Path) -> Result<(), CatalogError> {
    let output = Command::new(program)
        .arg(PROBE_VERB)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| CatalogError::file("run", program, error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(match classify(path, &said) {
        // The child has its errors in our own words by now.
        CatalogError::Damaged { path, .. } if said.contains(" is held by ") => {
            CatalogError::Held { path, holder: holder_in(&said) }
        }
        CatalogError::Damaged { path, .. } => {
            CatalogError::Damaged { path, message: format!("{} ({})", said.trim(), output.status) }
        }
        other => other,
    })
}

fn attempt(path: &Path, options: &OpenOptions) -> Result<Connection, CatalogError> {
    if let Some(program) = &options.probe
        && beside(path, ".wal").exists()
    {
        probe_elsewhere(program, path)?;
    }
    let connection = connect(path)?;
    look(&connection, path)?;
    Ok(connection)
}

/// The logs DuckDB 1.5 may leave beside a file.
pub(super) const LOGS: [&str; 3] = [".wal", ".wal.checkpoint", ".wal.recovery"];

fn set_aside(path: &Path, now: Timestamp, report: &mut OpenReport) -> Result<(), CatalogError> {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ");
    let wanted = beside(path, &format!(".damaged-{stamp}"));
    let aside = (1..1000)
        .map(|turn| if turn == 1 { wanted.clone() } else { beside(&wanted, &format!("-{turn}")) })
        .find(|candidate| !candidate.exists())
        .unwrap_or(wanted);
    std::fs::rename(path, &aside).map_err(|error| CatalogError::file("set aside", path, error))?;
    tracing::warn!(file = %path.display(), aside = %aside.display(), "damaged catalog file set aside");
    report.set_aside.push(aside);
    report.needs_rebuild = true;
    Ok(())
}

/// Refuses a file that holds something else; it is somebody's, and is not to be moved.
fn recognise(path: &Path) -> Result<(), CatalogError> {
    use std::io::Read as _;
    let refuse = |message: &str| {
        Err(CatalogError::NotACatalog { path: path.to_owned(), message: message.to_owned() })
    };
    let mut start = Vec::new();
    let file =
        std::fs::File::open(path).map_err(|error| CatalogError::file("open", path, error))?;
    if file.metadata().is_ok_and(|data| !data.is_file()) {
        return refuse("it is not a regular file");
    }
    file.take(12)
        .read_to_end(&mut start)
        .map_err(|error| CatalogError::file("read", path, error))?;
    // DuckDB's storage format: eight bytes of checksum, then the magic bytes.
    let named = path.extension().is_some_and(|extension| extension == "duckdb");
    if start.is_empty() || start.get(8..12) == Some(b"DUCK".as_slice()) || named {
        return Ok(());
    }
    refuse("it is not a DuckDB file")
}

/// Opens the file, setting aside what is damaged: first the log alone, because the database without
/// it holds all but the newest rows; then the database.
fn open_or_set_aside(
    path: &Path,
    options: &OpenOptions,
    report: &mut OpenReport,
) -> Result<Connection, CatalogError> {
    if path.exists() {
        recognise(path)?;
        if path.metadata().is_ok_and(|data| data.len() == 0) {
            // An empty file is what a crash leaves before the first header is written.
            set_aside(path, options.now, report)?;
        }
    }
    report.created = !path.exists();
    let logs = || LOGS.map(|suffix| beside(path, suffix)).into_iter().filter(|log| log.exists());
    if report.created {
        for log in logs() {
            set_aside(&log, options.now, report)?;
        }
        return attempt(path, options);
    }
    match attempt(path, options) {
        Err(CatalogError::Damaged { message, .. }) => {
            tracing::warn!(file = %path.display(), message, "the catalog cannot be opened");
        }
        other => return other,
    }
    if logs().next().is_some() {
        for log in logs() {
            set_aside(&log, options.now, report)?;
        }
        match attempt(path, options) {
            Err(CatalogError::Damaged { .. }) => {}
            other => return other,
        }
    }
    set_aside(path, options.now, report)?;
    report.created = true;
    attempt(path, options)
}

/// Opens the file, migrates it if it is of an older version, and fills in missing settings.
pub(super) fn open(
    path: &Path,
    options: &OpenOptions,
    migrations: &[Migration],
) -> Result<(Connection, OpenReport), CatalogError> {
    let mut report = OpenReport::default();
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    report.unclean = LOGS.iter().any(|suffix| beside(path, suffix).exists());
    let mut connection = open_or_set_aside(path, options, &mut report)?;
    if path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & OF_OTHERS != 0) {
        tracing::warn!(file = %path.display(), "others may read the catalog, and this user cannot change that");
    }
    let found = migration::inspect(&connection, path, migrations)?;
    let newest = migrations.last().map_or(0, |migration| migration.version);
    let current = matches!(found, Found::Version(version) if version == newest);
    match found {
        Found::Version(version) if version == newest => {}
        Found::Empty => migration::apply(&connection, 0, migrations, options.now)?,
        Found::Version(version) => {
            let copy = beside(path, &format!(".before-v{newest}"));
            connection = keep_copy(connection, path, &copy)?;
            migration::apply(&connection, version, migrations, options.now)?;
            report.migrated_from = Some(version);
            report.kept_copy = Some(copy);
        }
    }
    report.previous_program = fill_settings(&connection, options.now)?;
    checkpoint(&connection)?;
    if !current {
        // What laying down tables has taken is only given back with the database; a daemon that
        // made its catalog would carry several mebibytes of it for as long as it lives.
        connection.close().map_err(|(_, error)| CatalogError::file("close", path, error))?;
        connection = connect(path)?;
    }
    Ok((connection, report))
}

/// Copies the file as it is after a checkpoint. It is closed meanwhile: to open and close it a
/// second time in this process would drop the lock that POSIX gives to processes, not to openings.
pub(super) fn keep_copy(
    connection: Connection,
    path: &Path,
    copy: &Path,
) -> Result<Connection, CatalogError> {
    checkpoint(&connection)?;
    connection.close().map_err(|(_, error)| CatalogError::file("close", path, error))?;
    let copied = copy_durably(path, copy);
    let connection = connect(path)?;
    copied?;
    Ok(connection)
}

/// Copies under a temporary name for its owner alone, and gives the copy its name when it is on disk.
pub(super) fn copy_durably(source: &Path, destination: &Path) -> Result<(), CatalogError> {
    let partial = beside(destination, ".partial");
    let run = || -> std::io::Result<()> {
        // One that was left behind may be anybody's to read.
        let _ = std::fs::remove_file(&partial);
        let mut copy = std::fs::OpenOptions::new();
        let mut copy = copy.write(true).create_new(true).mode(0o600).open(&partial)?;
        std::io::copy(&mut std::fs::File::open(source)?, &mut copy)?;
        copy.sync_all()?;
        std::fs::rename(&partial, destination)?;
        let directory = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
        std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    run().map_err(|error| {
        let _ = std::fs::remove_file(&partial);
        CatalogError::file("copy to", destination, error)
    })
}

pub(super) fn checkpoint(connection: &Connection) -> Result<(), CatalogError> {
    connection
        .execute_batch("CHECKPOINT")
        .map_err(|error| CatalogError::statement("write a checkpoint", error))
}

/// Adds settings that are new, and notes which program has the file now; returns which had it.
fn fill_settings(connection: &Connection, now: Timestamp) -> Result<Option<String>, CatalogError> {
    let present: Vec<ConfigEntry> = row::select(connection, "", &[])?;
    for entry in configuration::defaults(now) {
        if !present.iter().any(|row| row.config_key == entry.config_key) {
            row::insert(connection, &entry, None)?;
        }
    }
    let previous = present.iter().find(|row| row.config_key == configuration::APP_VERSION);
    let previous = previous.and_then(|row| row.config_value.as_str()).map(str::to_owned);
    if previous.as_deref().is_some_and(|version| version != env!("CARGO_PKG_VERSION")) {
        let failed = |error| CatalogError::statement("note the program's version", error);
        connection
            .execute_batch(&format!(
                "BEGIN TRANSACTION; UPDATE app_config SET config_value = '\"{}\"' \
                 WHERE config_key = '{}'; COMMIT",
                env!("CARGO_PKG_VERSION"),
                configuration::APP_VERSION
            ))
            .map_err(failed)?;
    }
    Ok(previous)
}
