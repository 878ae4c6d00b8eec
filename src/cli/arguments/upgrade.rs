//! Arguments of `eider upgrade create`.

use std::path::PathBuf;

use clap::Args;

/// `eider upgrade create`.
#[derive(Debug, Args)]
pub struct UpgradeCreateArguments {
    /// A Compose project.
    #[arg(long, value_name = "PROJECT", required_unless_present = "containers")]
    pub project: Option<String>,
    /// A container by its name; may be repeated.
    #[arg(long = "container", value_name = "NAME", conflicts_with = "project")]
    pub containers: Vec<String>,
    /// The new image of a service or container; may be repeated.
    #[arg(long = "image", value_name = "SERVICE=IMAGE", required = true, value_parser = parse_image)]
    pub images: Vec<(String, String)>,
    /// A file of `docker save` to load the image from; may be repeated.
    #[arg(long = "image-archive", value_name = "FILE")]
    pub image_archives: Vec<PathBuf>,
    /// The version they have; default the tag of the first image.
    #[arg(long = "version", value_name = "VERSION")]
    pub to_version: Option<String>,
    /// Store of the backup: a name or a directory; default the only one there is.
    #[arg(long, short, value_name = "STORE")]
    pub store: Option<String>,
    /// How long the new version may take to become healthy.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// How long it has to stay healthy.
    #[arg(long, value_name = "DURATION")]
    pub soak: Option<String>,
    /// Also to the same or an older version.
    #[arg(long)]
    pub force: bool,
    /// Name of the Upgrade; default one made from the time.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Namespace of the Upgrade.
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    pub namespace: String,
    /// Print what would be done and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

fn parse_image(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, image)) if !name.is_empty() && !image.is_empty() => {
            Ok((name.to_owned(), image.to_owned()))
        }
        _ => Err(format!("`{text}` is not SERVICE=IMAGE")),
    }
}
