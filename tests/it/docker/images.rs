//! Where an Upgrade's image comes from: files of `docker save`, and registries that want a password.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::engine::{Project, docker, lines, text};
use super::upgrades::{self, Version};
use crate::scene::{Ended, STORE, shell, tool};

/// A name for the good version that no other test uses; removed with it.
pub struct OwnImage(pub String);

impl OwnImage {
    /// Gives an image of its own the name of a repository; `mark` tells it from others.
    pub fn new(repository: &str, mark: &str) -> Self {
        let name = format!("{repository}:2.0.0");
        let place = tempfile::tempdir().unwrap();
        let recipe = format!("FROM {}\nLABEL mark={mark}\n", Version::Good.image());
        std::fs::write(place.path().join("Dockerfile"), recipe).unwrap();
        let build = format!("DOCKER_BUILDKIT=0 docker build --quiet --tag {name} .");
        shell(place.path(), &build);
        Self(name)
    }

    /// Writes it to a file and takes it off the host.
    pub fn save(&self, file: &Path) {
        docker(&["save", "--output", file.to_str().unwrap(), &self.0]);
        docker(&["rmi", &self.0]);
    }

    fn id(&self) -> String {
        let format = "{{.Id}}";
        docker(&["image", "inspect", "--format", format, &self.0]).trim().to_owned()
    }

    fn is_there(&self) -> bool {
        Command::new("docker")
            .args(["image", "inspect", &self.0])
            .output()
            .unwrap()
            .status
            .success()
    }
}

impl Drop for OwnImage {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}

/// The Upgrade to this image, with further lines.
pub fn to(project: &Project, name: &str, image: &str, more: &str) -> String {
    let document = upgrades::document(project, name, Version::Good, more);
    document.replace(&Version::Good.image(), image).replace("soak: 5s", "soak: 1s")
}

fn apply(project: &Project, document: &str) -> Ended {
    project.scene.apply(&format!("{STORE}---\n{document}"))
}

/// When a step of an Upgrade began and ended.
fn step(project: &Project, upgrade: &str, step: &str) -> (String, String) {
    let status = project.status("upgrade", upgrade);
    let steps = status["steps"].as_array().unwrap_or_else(|| panic!("{status:#}"));
    let found = steps.iter().find(|one| one["name"] == step).unwrap();
    (text(&found["startedAt"]), text(&found["completedAt"]))
}

#[test]
fn an_image_is_loaded_from_a_file_before_anything_stops() {
    let Some(project) = upgrades::stage() else { return };
    let own = OwnImage::new(&format!("eider-test/{}", project.name), "loaded");
    let (id, file) = (own.id(), project.scene.path("web.tar"));
    own.save(&file);
    assert!(!own.is_there());
    let lines_of = |file: &Path| format!("  imageArchives: [{}]\n", file.display());
    let document = to(&project, "up", &own.0, &lines_of(&file));
    project.scene.write("up.yaml", project.scene.fill(&format!("{STORE}---\n{document}")));
    let plan = project.scene.run(&["run", "-f", "up.yaml", "--dry-run"]).ok();
    let said = format!("image {} is loaded from", own.0);
    assert!(plan.stdout.contains(&said), "{}", plan.stdout);
    assert!(!own.is_there(), "a plan loads nothing");
    project.scene.run(&["run", "-f", "up.yaml"]).ok();
    assert_eq!(text(&project.inspected()["db"]["Image"]), id);
    let (fetched, stopped) = (step(&project, "up", "fetch").1, step(&project, "up", "quiesce").0);
    assert!(!fetched.is_empty() && fetched <= stopped, "{fetched}, {stopped}");

    // By the command line, compressed, and while another image has the name.
    shell(&project.scene.path(""), "gzip -k web.tar && zstd -q web.tar -o web.tar.zst");
    for (index, name) in ["web.tar.gz", "web.tar.zst"].into_iter().enumerate() {
        docker(&["tag", &Version::Good.image(), &own.0]);
        assert_ne!(own.id(), id);
        let image = format!("db={}", own.0);
        let relative = format!("./{name}");
        let create = ["upgrade", "create", "--project", &project.name, "--image", &image];
        let more = ["--image-archive", &relative, "--store", "main", "--soak", "1s", "--force"];
        let created = format!("again-{index}");
        let mut command = project.scene.command(&[&create[..], &more[..]].concat());
        let ended: Ended = command
            .args(["--name", &created])
            .current_dir(project.scene.path(""))
            .output()
            .unwrap()
            .into();
        ended.ok();
        assert_eq!(text(&project.inspected()["db"]["Image"]), id, "{name}");
    }
}

#[test]
fn a_file_without_the_image_is_refused_before_anything_stops() {
    let Some(project) = upgrades::stage() else { return };
    let other = OwnImage::new(&format!("eider-test/{}-other", project.name), "other");
    let file = project.scene.path("other.tar");
    other.save(&file);
    project.scene.write("broken.tar", "this is no archive");
    shell(
        &project.scene.path(""),
        "echo x > x; tar cf plain.tar x; head -c 3000 other.tar > cut.tar",
    );
    let started = project.inspected()["db"]["State"]["StartedAt"].clone();
    let wanted = format!("eider-test/{}:2.0.0", project.name);
    for (index, (file, code, part)) in [
        ("other.tar", 1, other.0.as_str()),
        ("broken.tar", 1, "broken.tar"),
        ("plain.tar", 1, "no list of images"),
        ("cut.tar", 1, "cut.tar"),
        ("there-is-none.tar", 1, "does not exist"),
    ]
    .into_iter()
    .enumerate()
    {
        let more = format!("  imageArchives: [{}]\n", project.scene.path(file).display());
        let name = format!("up-{index}");
        let ended = apply(&project, &to(&project, &name, &wanted, &more)).code(code).says(part);
        assert!(ended.stderr.contains("docker save"), "no hint: {}", ended.stderr);
        assert_eq!(project.status("upgrade", &name)["phase"], "Failed");
    }
    assert_eq!(project.inspected()["db"]["State"]["StartedAt"], started);
    assert!(!other.is_there(), "it was loaded all the same");
    // Of two images one may be in the file: the other one is pulled, and is missed in words.
    let both = to(&project, "both", &other.0, &format!("  imageArchives: [{}]\n", file.display()))
        .replace("images: {", "images: {proxy: \"localhost:1/no/such:2.0.0\", ");
    apply(&project, &both).code(1).says("no file of imageArchives holds it");
    assert_eq!(project.inspected()["db"]["State"]["StartedAt"], started);
}

const USER: &str = "anna";
/// In plain base64 it has characters that are others in the alphabet for URLs.
const PASSWORD: &str = "p?>~?>~?>~ss:wd";

/// A registry that gives one image to whoever has the password.
struct Registry {
    address: String,
}

impl Registry {
    /// Serves what a file of `docker save` holds, under any name.
    fn serve(saved: &Path, place: &Path) -> Self {
        std::fs::create_dir(place).unwrap();
        tool("tar", &["xf", saved.to_str().unwrap(), "-C", place.to_str().unwrap()]);
        let read = |name: &str| std::fs::read(place.join(name)).unwrap();
        let manifest: Value = serde_json::from_slice(&read("manifest.json")).unwrap();
        let mut blobs = BTreeMap::new();
        let mut add = |kind: &str, content: Vec<u8>| {
            let digest = format!("sha256:{}", sha256(&content));
            let described = json!({"mediaType": kind, "size": content.len(), "digest": digest});
            blobs.insert(digest, content);
            described
        };
        let kind = "application/vnd.docker.container.image.v1+json";
        let configuration = add(kind, read(manifest[0]["Config"].as_str().unwrap()));
        let kind = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let layers = manifest[0]["Layers"].as_array().unwrap();
        let layers: Vec<Value> =
            layers.iter().map(|layer| add(kind, read(layer.as_str().unwrap()))).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": configuration,
            "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let served = Arc::new((manifest, blobs));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || answer_all(client, &served.0, &served.1));
            }
        });
        Self { address }
    }
}

fn sha256(content: &[u8]) -> String {
    let place = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(place.path(), content).unwrap();
    let said = tool("sha256sum", &[place.path().to_str().unwrap()]);
    said.split(' ').next().unwrap().to_owned()
}

fn answer_all(client: TcpStream, manifest: &[u8], blobs: &BTreeMap<String, Vec<u8>>) {
    let mut output = client.try_clone().unwrap();
    let mut input = BufReader::new(client);
    let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            // The engine tries TLS first.
            if !input.read_line(&mut line).is_ok_and(|count| count > 0) {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let Some((method, path)) = head.first().and_then(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        }) else {
            return;
        };
        let is_known = head.iter().any(|line| {
            line.split_once(": ").is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("authorization") && value == expected
            })
        });
        let nothing = (404, "", &b"{}"[..]);
        let (status, kind, body) = match path.trim_end_matches('/').rsplit_once('/') {
            _ if !is_known => (401, "", &b"{\"errors\":[{\"code\":\"UNAUTHORIZED\"}]}"[..]),
            Some((before, _)) if before.ends_with("/manifests") => {
                (200, "application/vnd.docker.distribution.manifest.v2+json", manifest)
            }
            // By then the engine has begun to answer: the error is in its stream.
            Some(("/v2/broken/web/blobs", _)) => nothing,
            Some((before, digest)) if before.ends_with("/blobs") => blobs
                .get(digest)
                .map_or(nothing, |blob| (200, "application/octet-stream", blob.as_slice())),
            Some(("", "v2")) => (200, "application/json", &b"{}"[..]),
            _ => nothing,
        };
        let digest = format!("sha256:{}", if status == 200 { sha256(body) } else { String::new() });
        let head = format!(
            "HTTP/1.1 {status} X\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\
             WWW-Authenticate: Basic realm=\"test\"\r\nContent-Type: {kind}\r\n\
             Docker-Content-Digest: {digest}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let body = if method == "HEAD" { &[] } else { body };
        if output.write_all(head.as_bytes()).and_then(|()| output.write_all(body)).is_err() {
            return;
        }
    }
}

/// Writes a user's `config.json` and returns its directory.
fn configuration(project: &Project, name: &str, content: &Value) -> PathBuf {
    project.scene.write(&format!("{name}/config.json"), content.to_string());
    project.scene.path(name)
}

#[test]
fn a_registry_that_wants_a_password_gets_the_one_that_docker_login_left() {
    let Some(project) = upgrades::stage() else { return };
    let made = OwnImage::new(&format!("eider-test/{}", project.name), "pulled");
    let (id, file) = (made.id(), project.scene.path("web.tar"));
    made.save(&file);
    let registry = Registry::serve(&file, &project.scene.path("registry"));
    let own = OwnImage(format!("{}/shop/web:2.0.0", registry.address));
    let started = project.inspected()["db"]["State"]["StartedAt"].clone();
    let run = |name: &str, configuration: &Path, path: &str| -> Ended {
        let document = to(&project, name, &own.0, "  force: true\n");
        project.scene.write("up.yaml", project.scene.fill(&format!("{STORE}---\n{document}")));
        let mut command = project.scene.command(&["--log-level", "trace", "run", "-f", "up.yaml"]);
        command.env("DOCKER_CONFIG", configuration).env("PATH", path).output().unwrap().into()
    };
    let path = std::env::var("PATH").unwrap();
    let address = registry.address.as_str();
    let login = format!("docker login {address}");
    let mut said = String::new();
    let mut refused = |name: &str, content: &Value, part: &str| {
        let place = configuration(&project, name, content);
        let ended = run(name, &place, &path).code(1).says(part).says(&login);
        assert_eq!(project.inspected()["db"]["State"]["StartedAt"], started, "it was stopped");
        said += &ended.stderr;
    };
    refused("nobody", &json!({}), "no password");
    let auth = |password: &str| STANDARD.encode(format!("{USER}:{password}"));
    let wrong = json!({"auths": {address: {"auth": auth("no")}}});
    refused("wrong", &wrong, "not accepted");
    refused("lost", &json!({"credHelpers": {address: "is-not-there"}}), "not in PATH");
    assert!(!own.is_there());

    // An error within the stream of a pull.
    let right = json!({"auths": {address: {"auth": auth(PASSWORD)}}});
    let place = configuration(&project, "right", &right);
    let broken = OwnImage(own.0.replace("/shop/", "/broken/"));
    let document = to(&project, "broken", &broken.0, "");
    project.scene.write("up.yaml", project.scene.fill(&format!("{STORE}---\n{document}")));
    let mut command = project.scene.command(&["run", "-f", "up.yaml"]);
    let ended: Ended = command.env("DOCKER_CONFIG", &place).output().unwrap().into();
    ended.code(1).says(&format!("image {}: ", broken.0));
    assert_eq!(project.inspected()["db"]["State"]["StartedAt"], started, "it was stopped");

    // By the file.
    said += &run("right", &place, &path).ok().stderr;
    assert_eq!(text(&project.inspected()["db"]["Image"]), id);

    // By a helper.
    project.scene.apply(&upgrades::document(&project, "aside", Version::Better, "")).ok();
    docker(&["rmi", &own.0]);
    let answer = json!({"Username": USER, "Secret": PASSWORD});
    let script = format!("#!/bin/sh\nread key\n[ \"$key\" = {address} ] && echo '{answer}'\n");
    let helper = project.scene.write("bin/docker-credential-stub", script);
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let place = configuration(&project, "helped", &json!({"credsStore": "stub"}));
    let with_helper = format!("{}:{path}", helper.parent().unwrap().display());
    said += &run("helped", &place, &with_helper).ok().stderr;
    assert_eq!(text(&project.inspected()["db"]["Image"]), id);
    assert_eq!(lines(&project.at("data").join("version")), ["2.0.0"]);

    // Nowhere but in the files that the test wrote.
    let header = json!({"username": USER, "password": PASSWORD}).to_string();
    let secrets =
        [PASSWORD.to_owned(), auth(PASSWORD), STANDARD.encode(&header[..header.len() - 1])];
    let part = |secret: &String| secret[..16.min(secret.len()) - 1].to_owned();
    assert!(said.contains("\"step\":\"fetch\""), "the log tells nothing: {said}");
    for secret in secrets.iter().map(part) {
        assert!(!said.contains(&secret), "{secret} is in the log");
        let files = shell(
            &project.scene.path(""),
            &format!(
                "grep -rlaF -e '{secret}' . | grep -v -e '^./right/config.json$' -e '^./bin/' || true"
            ),
        );
        assert_eq!(files, "", "{secret} is in a file");
    }
}
