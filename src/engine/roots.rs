//! The roots of a backup and the names they get in the archive. Pure; touches no file system.

use std::path::PathBuf;

use super::error::EngineError;

/// A directory or file to archive, and the name it has in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Prefix of its entries: no leading or trailing slash, possibly several components.
    pub name: String,
    /// Absolute path on this host.
    pub path: PathBuf,
}

/// Names for absolute paths: of each path the shortest trailing part that keeps all apart.
///
/// `/srv/x/data` alone becomes `data`; `/a/data` with `/b/data` become `a/data` and `b/data`. No
/// name is equal to another or a directory above one. Refuses with [`EngineError::InvalidRoots`]:
/// no paths, relative paths, `/`, `..`, the same path twice, a path inside another.
pub fn name_roots(paths: &[String]) -> Result<Vec<Root>, EngineError> {
    let refuse =
        |path: &str, detail: String| EngineError::InvalidRoots { path: path.to_owned(), detail };
    if paths.is_empty() {
        return Err(refuse("target", "no path is given".to_owned()));
    }
    let mut cleaned: Vec<Vec<&str>> = Vec::with_capacity(paths.len());
    for path in paths {
        if !path.starts_with('/') {
            return Err(refuse(path, "the path is not absolute".to_owned()));
        }
        if path.contains('\0') {
            return Err(refuse(path, "the path contains a NUL byte".to_owned()));
        }
        let components: Vec<&str> =
            path.split('/').filter(|component| !matches!(*component, "" | ".")).collect();
        if components.contains(&"..") {
            return Err(refuse(path, "the path contains `..`".to_owned()));
        }
        if components.is_empty() {
            return Err(refuse(path, "the whole file system cannot be a root".to_owned()));
        }
        if let Some(earlier) = cleaned.iter().position(|other| *other == components) {
            return Err(refuse(path, format!("the path is given twice (as `{}`)", paths[earlier])));
        }
        if let Some(earlier) = cleaned.iter().position(|other| nested(other, &components)) {
            return Err(refuse(path, format!("the path overlaps with `{}`", paths[earlier])));
        }
        cleaned.push(components);
    }
    let lengths = distinct_lengths(&cleaned);
    Ok(cleaned
        .iter()
        .zip(lengths)
        .map(|(components, length)| Root {
            name: components[components.len() - length..].join("/"),
            path: PathBuf::from(format!("/{}", components.join("/"))),
        })
        .collect())
}

/// How many trailing components each path needs. Names in conflict grow together, so that none of
/// them keeps a short name that means something else in the next backup.
fn distinct_lengths(paths: &[Vec<&str>]) -> Vec<usize> {
    let mut lengths = vec![1; paths.len()];
    loop {
        let names: Vec<&[&str]> = paths
            .iter()
            .zip(&lengths)
            .map(|(components, length)| &components[components.len() - length..])
            .collect();
        let in_conflict: Vec<bool> = names
            .iter()
            .enumerate()
            .map(|(this, name)| {
                names.iter().enumerate().any(|(other, with)| this != other && nested(name, with))
            })
            .collect();
        let mut grown = false;
        for (index, conflict) in in_conflict.into_iter().enumerate() {
            if conflict && lengths[index] < paths[index].len() {
                lengths[index] += 1;
                grown = true;
            }
        }
        if !grown {
            return lengths;
        }
    }
}

/// Whether one of the paths is the other or lies above it.
fn nested(one: &[&str], other: &[&str]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[&str]) -> Vec<String> {
        let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
        name_roots(&paths).unwrap().into_iter().map(|root| root.name).collect()
    }

    #[test]
    fn names_are_as_short_as_keeps_them_apart() {
        assert_eq!(names(&["/srv/x/data"]), ["data"]);
        assert_eq!(
            names(&["/a/data", "/b/data", "/etc/app.conf"]),
            ["a/data", "b/data", "app.conf"]
        );
        assert_eq!(names(&["/data", "/b/data"]), ["data", "b/data"]);
        assert_eq!(names(&["/q/a", "/p/a/b", "/r/c/b"]), ["q/a", "p/a/b", "c/b"]);
        assert_eq!(names(&["//srv/./x/"]), ["x"]);
    }

    #[test]
    fn overlapping_and_odd_paths_are_refused() {
        for paths in [
            &["/a", "/a"][..],
            &["/a", "/a/"],
            &["/a", "/a/b"],
            &["/a/b/./c", "//a/b"],
            &["/"],
            &["/."],
            &["a/b"],
            &["/a/../b"],
            &[""],
            &[],
        ] {
            let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
            assert!(
                matches!(name_roots(&paths), Err(EngineError::InvalidRoots { .. })),
                "{paths:?}"
            );
        }
        let neighbours = ["/a/b".to_owned(), "/a/bc".to_owned()];
        assert_eq!(name_roots(&neighbours).unwrap().len(), 2);
    }
}
