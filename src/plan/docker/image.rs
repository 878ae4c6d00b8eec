//! What images are called, and what a file of `docker save` says that it holds. Pure.

use serde::Deserialize;

/// The registry that a name without one means, as references call it.
pub const HUB: &str = "docker.io";

/// A name of an image, taken apart as the engine does: `[registry/]path[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// Host, and port if it has one.
    pub registry: String,
    /// The path at the registry.
    pub path: String,
    /// `latest` where neither a tag nor a digest is written.
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
}

impl ImageReference {
    /// Takes a name apart; nothing for the id of an image, which no registry knows.
    pub fn parse(text: &str) -> Option<Self> {
        let hexadecimal =
            |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if text.is_empty() || text.starts_with("sha256:") || hexadecimal(text) {
            return None;
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.to_owned())),
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (HUB, name),
        };
        let registry = if registry == "index.docker.io" { HUB } else { registry };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let path = if registry == HUB && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Some(Self { registry: registry.to_owned(), path, tag, digest })
    }
}

/// Whether the part before the first slash is a registry: only such a one has a dot or a port.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// An image in a file of `docker save`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedImage {
    /// The names that it gets when it is loaded.
    pub names: Vec<String>,
    /// Its id where engines keep images by the digest of their configuration.
    pub id: Option<String>,
}

impl SavedImage {
    /// Whether it is what an image of this name would be after loading.
    pub fn is(&self, image: &str) -> bool {
        match ImageReference::parse(image) {
            Some(wanted) if wanted.digest.is_none() => {
                self.names.iter().any(|name| ImageReference::parse(name).as_ref() == Some(&wanted))
            }
            // A digest is the registry's word, which no file of `docker save` carries.
            Some(_) => false,
            None => {
                let wanted = image.trim_start_matches("sha256:");
                self.id.as_deref().is_some_and(|id| id.trim_start_matches("sha256:") == wanted)
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestItem {
    #[serde(default)]
    config: String,
    /// `null` for an image without a name.
    repo_tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct OciIndex {
    #[serde(default)]
    manifests: Vec<OciDescriptor>,
}

#[derive(Deserialize)]
struct OciDescriptor {
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// The images that `manifest.json` of a file of `docker save` names (docker-image-spec v1.2, "Combined
/// Image JSON + Filesystem Changeset Format").
///
/// # Errors
/// What is wrong with it.
pub fn saved_images(manifest: &[u8]) -> Result<Vec<SavedImage>, String> {
    let items: Vec<ManifestItem> =
        serde_json::from_slice(manifest).map_err(|error| format!("its manifest.json: {error}"))?;
    let saved = |item: ManifestItem| {
        // `ID.json`, or `blobs/sha256/ID` since engines keep to the OCI layout.
        let file = item.config.rsplit('/').next().unwrap_or_default();
        let id = file.strip_suffix(".json").unwrap_or(file);
        let id = (id.len() == 64).then(|| format!("sha256:{id}"));
        SavedImage { names: item.repo_tags.unwrap_or_default(), id }
    };
    Ok(items.into_iter().map(saved).collect())
}

/// The images that `index.json` of an OCI layout names, for files without `manifest.json`: engines that
/// keep images as containerd does load them too.
///
/// # Errors
/// What is wrong with it.
pub fn indexed_images(index: &[u8]) -> Result<Vec<SavedImage>, String> {
    let index: OciIndex =
        serde_json::from_slice(index).map_err(|error| format!("its index.json: {error}"))?;
    let named = |descriptor: OciDescriptor| {
        let annotations = descriptor.annotations.unwrap_or_default();
        let name = annotations.get("io.containerd.image.name").cloned();
        SavedImage { names: name.into_iter().collect(), id: None }
    };
    Ok(index.manifests.into_iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, Option<String>) {
        let reference = ImageReference::parse(text).unwrap();
        (reference.registry, reference.path, reference.tag.or(reference.digest))
    }

    #[test]
    fn names_are_taken_apart_as_the_engine_does() {
        for (text, registry, path, tag) in [
            ("redis", "docker.io", "library/redis", "latest"),
            ("redis:7", "docker.io", "library/redis", "7"),
            ("shop/web:1.3.0", "docker.io", "shop/web", "1.3.0"),
            ("docker.io/redis:7", "docker.io", "library/redis", "7"),
            ("index.docker.io/shop/web", "docker.io", "shop/web", "latest"),
            ("localhost/web", "localhost", "web", "latest"),
            ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000", "a/b", "1"),
            ("registry.example.org:443/a/b/c", "registry.example.org:443", "a/b/c", "latest"),
            ("a.example.org/b@sha256:beef", "a.example.org", "b", "sha256:beef"),
        ] {
            let tag = Some(tag.to_owned());
            assert_eq!(parts(text), (registry.to_owned(), path.to_owned(), tag), "{text}");
        }
        let both = ImageReference::parse("redis:7@sha256:beef").unwrap();
        assert_eq!((both.tag.as_deref(), both.digest.as_deref()), (Some("7"), Some("sha256:beef")));
        let id = "a".repeat(64);
        for id in [id.as_str(), "sha256:beef", ""] {
            assert_eq!(ImageReference::parse(id), None);
        }
    }

    #[test]
    fn a_saved_file_tells_its_images_by_every_spelling_of_their_names() {
        let id = "b".repeat(64);
        for configuration in [format!("{id}.json"), format!("blobs/sha256/{id}")] {
            let text = format!(
                r#"[{{"Config":"{configuration}","RepoTags":["redis:7","shop/web:latest"],"Layers":["x"]}},
                    {{"Config":"x.json","RepoTags":null}}]"#
            );
            let saved = saved_images(text.as_bytes()).unwrap();
            let holds = |image: &str| saved.iter().any(|one| one.is(image));
            for image in
                ["redis:7", "docker.io/library/redis:7", "shop/web", &id, &format!("sha256:{id}")]
            {
                assert!(holds(image), "{image}");
            }
            for image in
                ["redis:8", "redis", "localhost/redis:7", "redis:7@sha256:beef", "sha256:beef"]
            {
                assert!(!holds(image), "{image}");
            }
        }
        assert!(saved_images(b"{}").unwrap_err().contains("manifest.json"));
        let text = r#"{"manifests":[{"digest":"sha256:x","annotations":
            {"io.containerd.image.name":"docker.io/shop/web:2"}},{"digest":"sha256:y"}]}"#;
        let saved = indexed_images(text.as_bytes()).unwrap();
        assert!(saved.iter().any(|one| one.is("shop/web:2")));
    }
}
