//! Whether what the engine calls a path is the same path here. `DOCKER_HOST` may name an engine on another
//! machine, where directories of the same names hold other data; a socket may lead to one too.

use std::path::Path;

use bollard::models::ContainerInspectResponse;

/// Why a path of the engine is not the same path here; none where it is.
///
/// The engine keeps files for each container in a directory of its random id: who sees one of them sees
/// the engine's file system. An engine on a Unix socket is taken for this machine's as long as nothing
/// speaks against it, since it may have no containers, or hide its directory from this user.
pub fn remote(address: &str, containers: &[ContainerInspectResponse]) -> Option<String> {
    let by_socket = address.is_empty() || address.starts_with("unix://");
    let mut missing = false;
    for (id, path) in containers.iter().flat_map(own_files) {
        if !path.contains(id) {
            continue;
        }
        match Path::new(path).try_exists() {
            Ok(true) => return None,
            Ok(false) => missing = true,
            // Not for this user's eyes.
            Err(_) => {}
        }
    }
    match (by_socket, missing) {
        (true, false) => None,
        (_, true) => Some("the files that it keeps for its containers are not here".to_owned()),
        (false, false) => Some(format!(
            "it is reached at {address}, and it has no container whose files would show that it is here"
        )),
    }
}

/// What the engine keeps of a container on its own file system, once it has been started.
fn own_files(found: &ContainerInspectResponse) -> impl Iterator<Item = (&str, &str)> {
    let id = found.id.as_deref().unwrap_or_default();
    [&found.hostname_path, &found.resolv_conf_path, &found.log_path]
        .into_iter()
        .flatten()
        .filter(move |path| path.starts_with('/') && !id.is_empty())
        .map(move |path| (id, path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "beefbeefbeef";

    fn container(path: Option<String>) -> ContainerInspectResponse {
        let id = Some(ID.to_owned());
        ContainerInspectResponse { id, hostname_path: path, ..ContainerInspectResponse::default() }
    }

    #[test]
    fn an_engine_whose_files_are_not_here_is_on_another_machine() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join(ID);
        std::fs::create_dir(&directory).unwrap();
        let file = directory.join("hostname");
        std::fs::write(&file, "x").unwrap();
        let here = container(Some(file.to_string_lossy().into_owned()));
        let there = container(Some(format!("/nonexistent/containers/{ID}/hostname")));
        let created = container(Some(String::new()));
        for address in ["", "unix:///var/run/docker.sock", "tcp://127.0.0.1:2375"] {
            assert_eq!(remote(address, &[there.clone(), here.clone()]), None, "{address}");
            let why = remote(address, &[there.clone(), created.clone()]).unwrap();
            assert!(why.contains("not here"), "{why}");
        }
        // Nothing speaks for it or against it.
        for nothing in [&[created][..], &[container(None)], &[]] {
            assert_eq!(remote("", nothing), None);
            assert!(remote("tcp://engine:2375", nothing).unwrap().contains("tcp://engine"));
        }
        // A file that every machine has shows nothing.
        let everywhere = container(Some("/etc/hostname".to_owned()));
        assert!(remote("tcp://engine:2375", &[everywhere]).is_some());
    }
}
