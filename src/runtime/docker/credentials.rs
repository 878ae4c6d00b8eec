//! Passwords for registries, from where `docker login` keeps them: `config.json` and the helpers that it
//! names. What is found goes into the header of one pull and nowhere else.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::plan::docker::{HUB, ImageReference};

/// What the hub is called in `config.json`.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// How long a helper may take: it may ask a service of a cloud.
const HELPER: Duration = Duration::from_secs(30);
/// The name by which a helper says that the secret is a token and no password.
const TOKEN: &str = "<token>";

/// What there is for a registry.
#[derive(Default)]
pub struct Lookup {
    /// What to send along; nothing to pull as everybody may.
    pub credentials: Option<DockerCredentials>,
    /// Whether there is something to send along.
    pub found: bool,
    /// Where was looked, for messages.
    pub place: String,
    /// Why nothing was found where something was to be.
    pub trouble: Option<String>,
}

impl Lookup {
    fn new(credentials: Option<DockerCredentials>, place: String) -> Self {
        Self { found: credentials.is_some(), credentials, place, trouble: None }
    }
}

/// What `config.json` says of a registry.
#[derive(Debug, PartialEq)]
enum Kept {
    Nothing,
    Here(DockerCredentials),
    /// To be asked of this helper, by this key.
    Helper(String, String),
}

/// Looks up what a pull of this image is to be sent along.
pub async fn look_up(image: &str) -> Lookup {
    let Some(reference) = ImageReference::parse(image) else { return Lookup::default() };
    let Some(path) = configuration_path(&|name| std::env::var(name).ok()) else {
        return Lookup {
            place: "any config.json: neither DOCKER_CONFIG nor HOME is set".to_owned(),
            ..Lookup::default()
        };
    };
    let place = path.display().to_string();
    let kept = match tokio::fs::read(&path).await {
        Ok(text) => kept_for(&text, &reference.registry),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Kept::Nothing),
        Err(error) => Err(format!("it cannot be read: {error}")),
    };
    match kept {
        Ok(Kept::Nothing) => Lookup::new(None, place),
        Ok(Kept::Here(credentials)) => Lookup::new(Some(credentials), place),
        Ok(Kept::Helper(helper, key)) => {
            let place = format!("{helper}, which {place} names");
            match ask(&helper, &key).await {
                Ok(credentials) => Lookup::new(credentials, place),
                Err(trouble) => Lookup { trouble: Some(trouble), ..Lookup::new(None, place) },
            }
        }
        Err(trouble) => Lookup { trouble: Some(trouble), ..Lookup::new(None, place) },
    }
}

/// The user's `config.json`, as the `docker` command finds it.
fn configuration_path(environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || Some(set("HOME").or_else(home_by_user)?.join(".docker"));
    Some(set("DOCKER_CONFIG").or_else(home)?.join("config.json"))
}

/// The home of this process' user: systemd gives services of the system no HOME.
fn home_by_user() -> Option<PathBuf> {
    let user = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    // Name, password, number, group, words, home, shell: see passwd(5).
    users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| {
        (fields.get(2) == Some(&user.as_str())).then(|| fields.get(5).map(PathBuf::from))?
    })
}

/// What `config.json` says of a registry: a helper of its own, else the helper for all, else the password
/// in the file.
///
/// # Errors
/// What is wrong with the file; nothing that stands in it.
fn kept_for(text: &[u8], registry: &str) -> Result<Kept, String> {
    // A message of the parser may quote what it stumbled over.
    let file: Value = serde_json::from_slice(text)
        .map_err(|error| format!("it is no JSON at line {}", error.line()))?;
    let key = if registry == HUB { HUB_KEY } else { registry };
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let helper = text(&file["credHelpers"][key]).or_else(|| text(&file["credsStore"]));
    if let Some(helper) = helper {
        if helper.contains('/') {
            return Err(format!("`{helper}` cannot be the name of a helper"));
        }
        return Ok(Kept::Helper(format!("docker-credential-{helper}"), key.to_owned()));
    }
    let Some(all) = file["auths"].as_object() else { return Ok(Kept::Nothing) };
    // Older clients wrote addresses where newer ones write names.
    let entry = all.get(key).or_else(|| {
        all.iter().find(|(name, _)| host_of(name) == host_of(key)).map(|(_, entry)| entry)
    });
    let Some(entry) = entry else { return Ok(Kept::Nothing) };
    let mut credentials = DockerCredentials {
        username: text(&entry["username"]),
        password: text(&entry["password"]),
        identitytoken: text(&entry["identitytoken"]),
        registrytoken: text(&entry["registrytoken"]),
        serveraddress: Some(key.to_owned()),
        ..DockerCredentials::default()
    };
    if let Some(both) = text(&entry["auth"]) {
        let broken = || format!("its `auth` for {key} is not USER:PASSWORD in base64");
        let both = STANDARD.decode(both.trim()).map_err(|_| broken())?;
        let both = String::from_utf8(both).map_err(|_| broken())?;
        let (user, password) = both.split_once(':').ok_or_else(broken)?;
        credentials.username = Some(user.to_owned());
        credentials.password = Some(password.trim_end_matches('\0').to_owned());
    }
    let tells = credentials.username.is_some()
        || credentials.identitytoken.is_some()
        || credentials.registrytoken.is_some();
    Ok(if tells { Kept::Here(credentials) } else { Kept::Nothing })
}

/// The host in an address such as `https://registry.example.org/v1/`.
fn host_of(address: &str) -> &str {
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    rest.unwrap_or(address).split('/').next().unwrap_or_default()
}

/// Asks a helper, by the protocol of docker-credential-helpers: `get`, the key on standard input, JSON on
/// standard output. Nothing if it has none.
async fn ask(helper: &str, key: &str) -> Result<Option<DockerCredentials>, String> {
    let asking = async {
        let mut child = Command::new(helper)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not read its input says more by its exit code.
            let _ = input.write_all(key.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(HELPER, asking).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("it is not in PATH".to_owned());
        }
        Ok(Err(error)) => return Err(format!("it cannot be started: {error}")),
        Err(_) => return Err(format!("it did not answer within {} s", HELPER.as_secs())),
    };
    if !output.status.success() {
        // The only answer of a failed helper that is known to hold no secret.
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("it failed with {}", output.status));
    }
    answered(&output.stdout, key).map(Some)
}

fn answered(answer: &[u8], key: &str) -> Result<DockerCredentials, String> {
    let answer: Value =
        serde_json::from_slice(answer).map_err(|_| "its answer is no JSON".to_owned())?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let (user, secret) = (text("Username"), text("Secret"));
    let mut credentials =
        DockerCredentials { serveraddress: Some(key.to_owned()), ..DockerCredentials::default() };
    if user == TOKEN {
        credentials.identitytoken = Some(secret);
    } else {
        (credentials.username, credentials.password) = (Some(user), Some(secret));
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(kept: &Kept) -> (String, String) {
        let Kept::Here(credentials) = kept else { panic!("{kept:?}") };
        (credentials.username.clone().unwrap(), credentials.password.clone().unwrap())
    }

    #[test]
    fn what_docker_login_wrote_is_found_by_registry() {
        let both = STANDARD.encode("anna:s3:cret");
        let file = format!(
            r#"{{"auths": {{
                "127.0.0.1:5000": {{"auth": "{both}"}},
                "https://index.docker.io/v1/": {{"username": "hub", "password": "p"}},
                "https://old.example.org/v1/": {{"auth": "{both}"}},
                "token.example.org": {{"identitytoken": "t"}},
                "empty.example.org": {{}}
            }}, "credHelpers": {{"cloud.example.org": "cloud"}}}}"#
        );
        let kept = |registry| kept_for(file.as_bytes(), registry).unwrap();
        let anna = ("anna".to_owned(), "s3:cret".to_owned());
        assert_eq!(password(&kept("127.0.0.1:5000")), anna);
        assert_eq!(password(&kept("old.example.org")), anna);
        assert_eq!(password(&kept(HUB)).0, "hub");
        let Kept::Here(token) = kept("token.example.org") else { panic!() };
        assert_eq!(token.identitytoken.as_deref(), Some("t"));
        assert_eq!(kept("empty.example.org"), Kept::Nothing);
        assert_eq!(kept("other.example.org"), Kept::Nothing);
        let helper = Kept::Helper("docker-credential-cloud".into(), "cloud.example.org".into());
        assert_eq!(kept("cloud.example.org"), helper);
    }

    #[test]
    fn a_store_for_all_outweighs_the_file_and_a_helper_of_its_own_outweighs_both() {
        let file = br#"{"auths": {"a": {"username": "x"}}, "credsStore": "all", "credHelpers": {"b": "own"}}"#;
        let helper = |registry| match kept_for(file, registry).unwrap() {
            Kept::Helper(helper, key) => (helper, key),
            other => panic!("{other:?}"),
        };
        assert_eq!(helper("a"), ("docker-credential-all".into(), "a".into()));
        assert_eq!(helper("b"), ("docker-credential-own".into(), "b".into()));
        assert_eq!(helper(HUB), ("docker-credential-all".into(), HUB_KEY.into()));
    }

    #[test]
    fn what_is_wrong_with_the_file_is_told_without_what_stands_in_it() {
        let secret = STANDARD.encode("hunter2");
        let file = format!(r#"{{"auths": {{"a": {{"auth": "{secret}"}}}}}}"#);
        for text in
            [file.as_str(), "{\"auths\": {\"a\": hunter2", r#"{"credsStore": "../hunter/2"}"#]
        {
            let why = kept_for(text.as_bytes(), "a").unwrap_err();
            assert!(!why.contains("hunter2") && !why.contains(&secret), "{why}");
        }
    }

    #[test]
    fn the_configuration_is_where_the_docker_command_has_it() {
        let path = |set: &[(&str, &str)]| {
            configuration_path(&|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(
            path(&[("HOME", "/home/a")]).unwrap(),
            PathBuf::from("/home/a/.docker/config.json")
        );
        let both = [("HOME", "/home/a"), ("DOCKER_CONFIG", "/etc/docker-user")];
        assert_eq!(path(&both).unwrap(), PathBuf::from("/etc/docker-user/config.json"));
        assert_eq!(path(&[]), home_by_user().map(|home| home.join(".docker/config.json")));
    }

    #[tokio::test]
    async fn a_helper_is_asked_by_its_protocol() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let helper = |script: &str| {
            let path = place.path().join("docker-credential-x");
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path.display().to_string()
        };
        let answer =
            "read key; echo \"{\\\"Username\\\":\\\"$1-$key\\\",\\\"Secret\\\":\\\"s\\\"}\"";
        let found = ask(&helper(answer), "r:1\n").await.unwrap().unwrap();
        assert_eq!(found.username.as_deref(), Some("get-r:1"));
        assert_eq!(found.password.as_deref(), Some("s"));
        let answer = "echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}'";
        let found = ask(&helper(answer), "r").await.unwrap().unwrap();
        assert_eq!((found.username, found.identitytoken.as_deref()), (None, Some("t")));
        let nothing = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(ask(&helper(nothing), "r").await, Ok(None));
        let why = ask(&helper("echo hunter2; echo hunter2 >&2; exit 3"), "r").await.unwrap_err();
        assert!(why.contains('3') && !why.contains("hunter2"), "{why}");
        let why = ask("docker-credential-there-is-none", "r").await.unwrap_err();
        assert!(why.contains("PATH"), "{why}");
    }
}
