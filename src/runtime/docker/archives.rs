//! Files of `docker save` that an Upgrade's images are loaded from: what they hold is looked at before
//! anything else happens, and what is loaded is what was looked at.

use std::io::Read;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::query_parameters::ImportImageOptions;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use hyper::body::Bytes;

use super::connection::failure;
use super::images::{COMING, LOOK, image_id};
use crate::engine::{Cancel, EngineError, detect_format, open_tar, read_entries};
use crate::plan::docker::{SavedImage, indexed_images, saved_images};
use crate::plan::{Failure, UpgradeJob};
use crate::spec::{ArchiveFormat, Reason};

/// The longest list of images that is read; that of a thousand images is shorter.
const LIST: u64 = 8 << 20;
/// Bytes that are handed to the engine at once.
const PIECE: usize = 256 << 10;

/// A file with images.
pub struct ImageArchive {
    path: PathBuf,
    format: ArchiveFormat,
    images: Vec<SavedImage>,
}

impl ImageArchive {
    /// Where it lies.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// What it holds of this name.
    pub fn find(&self, image: &str) -> Option<&SavedImage> {
        self.images.iter().find(|saved| saved.is(image))
    }

    /// The names in it, for people.
    fn names(&self) -> String {
        let names: Vec<&str> =
            self.images.iter().flat_map(|image| &image.names).map(String::as_str).collect();
        match names.as_slice() {
            [] => "images without names".to_owned(),
            [some @ .., _] if some.len() >= 10 => format!("{} and more", names[..10].join(", ")),
            _ => names.join(", "),
        }
    }
}

/// The files that an Upgrade names, each looked into.
///
/// # Errors
/// [`Reason::ImageUnavailable`] for one that cannot be read, is no such file, or holds none of the images
/// that the Upgrade is about.
pub async fn archives(job: &UpgradeJob) -> Result<Vec<ImageArchive>, Failure> {
    let paths = job.spec.image_archives.clone().unwrap_or_default();
    let mut found = Vec::new();
    for path in paths {
        let looking = tokio::task::spawn_blocking(move || look(Path::new(&path)));
        let archive = looking.await.unwrap_or_else(|error| {
            Err(Failure::new(Reason::InternalError, format!("looking into a file: {error}")))
        })?;
        let wanted: Vec<&str> =
            job.spec.images.iter().flatten().map(|(_, image)| image.as_str()).collect();
        if !wanted.iter().any(|image| archive.find(image).is_some()) {
            let message = format!(
                "{} holds no image that is asked for ({}), but {}",
                archive.path(),
                wanted.join(", "),
                archive.names()
            );
            return Err(Failure::new(Reason::ImageUnavailable, message).hint(
                "save it by the name that `spec.images` has: `docker save IMAGE > FILE`; or leave the file out",
            ));
        }
        found.push(archive);
    }
    Ok(found)
}

/// What a file holds. Blocks.
fn look(path: &Path) -> Result<ImageArchive, Failure> {
    let refused = |why: String| {
        Failure::new(Reason::ImageUnavailable, format!("{}: {why}", path.display()))
            .hint("name a file that `docker save` wrote, as it is or compressed by gzip or zstd, where Eider runs")
    };
    let unreadable = |error: EngineError| refused(error.to_string());
    let format = detect_format(path).map_err(unreadable)?;
    let lists = read_entries(path, format, &["manifest.json"], LIST).map_err(unreadable)?;
    let images = match lists.get("manifest.json") {
        Some(list) => saved_images(list),
        None => match read_entries(path, format, &["index.json"], LIST).map_err(unreadable)? {
            lists if lists.is_empty() => Err("it holds no list of images".to_owned()),
            lists => lists.values().next().map_or(Ok(Vec::new()), |list| indexed_images(list)),
        },
    };
    Ok(ImageArchive { path: path.to_owned(), format, images: images.map_err(refused)? })
}

/// Whether the host has of this name what the archive holds of it.
pub async fn is_loaded(docker: &Docker, saved: &SavedImage, image: &str) -> Result<bool, Failure> {
    let id = image_id(docker, image).await?;
    Ok(id.is_some() && id == saved.id)
}

/// Loads everything that a file holds.
///
/// # Errors
/// [`Reason::ImageUnavailable`] with what the engine said, [`Reason::Cancelled`].
pub async fn load(docker: &Docker, archive: &ImageArchive, cancel: &Cancel) -> Result<(), Failure> {
    let refused = |why: &str| {
        Failure::new(Reason::ImageUnavailable, format!("cannot load {}: {why}", archive.path()))
    };
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(2);
    let (path, format) = (archive.path.clone(), archive.format);
    let reading = tokio::task::spawn_blocking(move || {
        let mut tar = match open_tar(&path, format) {
            Ok(tar) => tar,
            Err(error) => return drop(sender.blocking_send(Err(std::io::Error::other(error)))),
        };
        loop {
            let mut piece = vec![0; PIECE];
            let read = match tar.read(&mut piece) {
                Ok(0) => return,
                Ok(count) => {
                    piece.truncate(count);
                    Ok(Bytes::from(piece))
                }
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            // The engine has gone, or has had enough.
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    let body = unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let mut answer =
        Box::pin(docker.import_image_stream(ImportImageOptions::default(), body, None));
    let limit = tokio::time::Instant::now() + COMING;
    let result = loop {
        match tokio::time::timeout_at(limit.min(tokio::time::Instant::now() + LOOK), answer.next())
            .await
        {
            Ok(None) => break Ok(()),
            Ok(Some(Ok(said))) => {
                if let Some(detail) = said.error_detail {
                    break Err(refused(&detail.message.unwrap_or_default()));
                }
            }
            Ok(Some(Err(error))) => break Err(refused(&failure("load it", &error).message)),
            Err(_) if cancel.is_cancelled() => {
                break Err(Failure::new(Reason::Cancelled, "cancelled while loading images"));
            }
            Err(_) if tokio::time::Instant::now() >= limit => {
                break Err(refused("it took longer than an hour"));
            }
            Err(_) => {}
        }
    };
    drop(answer);
    let _ = reading.await;
    result
}
