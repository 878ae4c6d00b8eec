//! Writes the roots of a backup as one archive, and estimates beforehand what that will take.
//!
//! Reads while others may write: whatever a file does meanwhile, the archive stays valid and a
//! warning says what happened. One thread walks and reads, a worker for each core hashes and
//! compresses, one writes; memory is a fixed number of buffers beside the index, whatever the data.

mod estimate;
mod links;
mod packer;
mod previous;
mod stream;
mod throttle;
mod work;

use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};

use super::codec::hex;
use super::entry::display_bytes;
use super::error::EngineError;
use super::index::{Description, INDEX_VERSION, IndexWriter};
use super::manifest::{FORMAT_VERSION, ManifestRoot, ParentArchive};
use super::member::piece_length;
use super::progress::{Cancel, Progress};
use super::roots::Root;
use super::select::Patterns;
use super::summary::{PackSummary, Warning};
use super::walk::Boundaries;
use crate::failpoint;
use crate::spec::ArchiveFormat;
pub use estimate::estimate;
use packer::Packed;
pub use previous::ParentOptions;
use stream::{MemberStream, Slot};
use work::{Tail, Written};

use sha2::Digest;

/// More workers than this gain nothing: reading is one thread's work.
const THREADS_LIMIT: usize = 64;
/// Warnings that the index lists, and how long they may be together; the others are only counted.
const WARNINGS_LISTED: usize = 1000;
const WARNINGS_LENGTH: usize = 1 << 20;

/// What to archive and how.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// What is archived, in this order; see [`super::name_roots`].
    pub roots: Vec<Root>,
    /// What is left out: gitignore syntax, relative to each root.
    pub exclude: Vec<String>,
    /// The format of the archive.
    pub format: ArchiveFormat,
    /// Compression level: gzip 1–12 (6 if none is given), zstd 1–19 (3).
    pub level: Option<u8>,
    /// Leave out what cannot be read, with a warning, instead of failing.
    pub allow_unreadable: bool,
    /// Descend into what is mounted under a root.
    pub cross_file_systems: bool,
    /// Directories that are never entered: the stores, should they lie under a root.
    pub skip: Vec<PathBuf>,
    /// Workers that compress; as many as there are cores if none is given.
    pub threads: Option<NonZeroUsize>,
    /// The most bytes of files that are read in a second.
    pub io_limit: Option<u64>,
    /// How that was made which the data is of, in words of its runtime: kept in the index, for those who
    /// have nothing but the archive.
    pub definitions: Option<serde_json::Value>,
    /// The archive to continue: what has not changed since is not stored again.
    pub parent: Option<ParentOptions>,
}

impl PackOptions {
    fn boundaries(&self) -> Result<Boundaries, EngineError> {
        Ok(Boundaries {
            exclude: Patterns::parse(&self.exclude)?,
            cross_file_systems: self.cross_file_systems,
            // One that does not exist cannot be met either.
            skip: self
                .skip
                .iter()
                .filter_map(|path| path.metadata().ok())
                .map(|metadata| (metadata.dev(), metadata.ino()))
                .collect(),
        })
    }
}

/// As many threads as were asked for, or as there are cores.
pub(super) fn thread_count(threads: Option<NonZeroUsize>) -> usize {
    threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get)
        .min(THREADS_LIMIT)
}

/// Archives the roots into `output`, which is flushed but not synced.
///
/// Fails with [`EngineError::Unreadable`] if anything cannot be read, unless that is allowed; what
/// was written to `output` until a failure is no archive.
pub fn pack<W: Write + Send>(
    options: &PackOptions,
    output: &mut W,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<PackSummary, EngineError> {
    failpoint::hit("archive.started");
    let boundaries = options.boundaries()?;
    let threads = thread_count(options.threads);
    let piece_length = piece_length(options.format);
    // One being filled, one at each worker, and enough that none of them waits for the writer. The
    // pieces of zstd are large: there the fewest that keep everybody busy.
    let slots = if options.format == ArchiveFormat::TarZst { threads + 2 } else { 2 * threads + 2 };
    let (free_sender, free) = mpsc::channel();
    for _ in 0..slots {
        let _ = free_sender.send(Slot::new(piece_length));
    }
    let (job_sender, jobs) = mpsc::channel();
    let jobs = Mutex::new(jobs);
    let (result_sender, results) = mpsc::channel();
    let stream = MemberStream::new(free, job_sender, piece_length);
    let (packed, written) = std::thread::scope(|scope| {
        for _ in 0..threads {
            let (jobs, results) = (&jobs, result_sender.clone());
            scope.spawn(move || work::work(jobs, &results, options.format, options.level));
        }
        drop(result_sender);
        let to = &mut *output;
        let writer = scope.spawn(move || work::write(to, &results, &free_sender));
        // On this thread; when it returns, the stream is closed and the others come to their end.
        let packed = packer::pack_roots(options, &boundaries, stream, progress, cancel);
        if packed.is_ok() {
            progress.all_read();
            failpoint::hit("archive.read");
        }
        let written = writer.join().unwrap_or_else(|_| {
            Err(std::io::Error::other("the thread that writes ended unexpectedly"))
        });
        (packed, written)
    });
    // A writer that failed made the reader stop, so that its error is the cause.
    let written = written.map_err(write_failed)?;
    let Packed { mut summary, index, ancestors } = packed?;
    finish(options, output, &mut summary, (index, ancestors), written).map_err(write_failed)?;
    failpoint::hit("archive.written");
    Ok(summary)
}

/// Writes index and footer, and completes the summary.
fn finish<W: Write>(
    options: &PackOptions,
    output: &mut W,
    summary: &mut PackSummary,
    (index, ancestors): (IndexWriter, Vec<ParentArchive>),
    written: Written,
) -> std::io::Result<()> {
    let Written { members, hashes, mut sha256, mut bytes } = written;
    let description = Description {
        version: INDEX_VERSION,
        tool: format!("eider {}", env!("CARGO_PKG_VERSION")),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        roots: options
            .roots
            .iter()
            .map(|root| ManifestRoot {
                name: root.name.clone(),
                path: root.path.to_string_lossy().into_owned(),
            })
            .collect(),
        ancestors,
        counts: summary.counts,
        source_bytes: summary.source_bytes,
        warnings: listed(&summary.warnings),
        warning_count: summary.warning_count,
    };
    let payload = index.finish(&description, options.definitions.as_ref(), &members, &hashes)?;
    let end = bytes;
    let mut tail = Tail { output, sha256: &mut sha256, bytes: &mut bytes };
    super::index::frame::write_tail(&mut tail, options.format, end, &payload, &members)?;
    tail.flush()?;
    summary.format_version = FORMAT_VERSION;
    summary.archive_bytes = bytes;
    summary.sha256 = hex(&sha256.finalize());
    summary.content_digest = hex(blake3::hash(&payload).as_bytes());
    Ok(())
}

/// The first warnings: as many as a block of the index can hold however they are written.
fn listed(warnings: &[Warning]) -> Vec<Warning> {
    let mut length = 0;
    let fits = |warning: &&Warning| {
        length += warning.path.len() + warning.message.len();
        length <= WARNINGS_LENGTH
    };
    warnings.iter().take(WARNINGS_LISTED).take_while(fits).cloned().collect()
}

fn write_failed(source: std::io::Error) -> EngineError {
    EngineError::WriteArchive { source }
}

fn display_path(path: &Path) -> String {
    display_bytes(path.as_os_str().as_encoded_bytes())
}
