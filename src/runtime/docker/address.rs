//! Where the engine is, by the variables of the `docker` command: `DOCKER_HOST`, `DOCKER_TLS_VERIFY`,
//! `DOCKER_CERT_PATH`.

use std::path::{Path, PathBuf};

use crate::plan::Failure;
use crate::spec::Reason;

/// Where the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine.
    Socket(String),
    /// A port, without encryption.
    Plain(String),
    /// A port by TLS, with `ca.pem`, `cert.pem` and `key.pem` of this directory.
    Encrypted(String, PathBuf),
}

impl Address {
    /// What the environment of this process says.
    ///
    /// # Errors
    /// See [`Self::parse`].
    pub fn of_this_process() -> Result<Self, Failure> {
        Self::parse(&|name| std::env::var(name).ok())
    }

    /// What an environment says; the default socket if it says nothing.
    ///
    /// # Errors
    /// [`Reason::UnsupportedTarget`] for `ssh://` and what else leads to no engine of this machine,
    /// [`Reason::EngineUnavailable`] if the directory of certificates is not told.
    fn parse(environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let Some(host) = set("DOCKER_HOST") else {
            return Ok(Self::Socket("unix:///var/run/docker.sock".to_owned()));
        };
        let refused = |message: String, hint: &str| {
            Err(Failure::new(Reason::UnsupportedTarget, message).hint(hint))
        };
        let scheme = host.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("unix") => Ok(Self::Socket(host)),
            Some("ssh") => refused(
                format!(
                    "the engine of {host} is on another machine, and the data of its services is there, not here"
                ),
                "run Eider there, on the host or in a container (docs/guides/docker.md)",
            ),
            Some("tcp" | "http" | "https") => {
                let encrypted = scheme == Some("https")
                    || set("DOCKER_TLS_VERIFY").is_some()
                    || set("DOCKER_TLS").is_some();
                if !encrypted {
                    return Ok(Self::Plain(host));
                }
                let own = || set("DOCKER_CONFIG").map(PathBuf::from);
                let home = || Some(PathBuf::from(set("HOME")?).join(".docker"));
                match set("DOCKER_CERT_PATH").map(PathBuf::from).or_else(own).or_else(home) {
                    Some(directory) => Ok(Self::Encrypted(host, directory)),
                    None => Err(Failure::new(
                        Reason::EngineUnavailable,
                        format!("nothing says where the certificates for {host} are"),
                    )
                    .hint("set DOCKER_CERT_PATH to the directory of ca.pem, cert.pem and key.pem")),
                }
            }
            _ => refused(
                format!("DOCKER_HOST is `{host}`, which is no address of an engine"),
                "write unix:///var/run/docker.sock or tcp://HOST:PORT",
            ),
        }
    }
}

/// The certificate of the authority, that of the client and its key; each has to be readable.
///
/// # Errors
/// [`Reason::EngineUnavailable`] with the file and why.
pub fn certificates(directory: &Path) -> Result<[PathBuf; 3], Failure> {
    let files = ["ca.pem", "cert.pem", "key.pem"].map(|name| directory.join(name));
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
        let why = match text {
            Ok(text) if text.contains("-----BEGIN ") => continue,
            Ok(_) => "it is not in the PEM format".to_owned(),
            Err(error) => error,
        };
        return Err(Failure::new(
            Reason::EngineUnavailable,
            format!("cannot reach the Docker Engine by TLS: {}: {why}", file.display()),
        )
        .hint("DOCKER_CERT_PATH names the directory of ca.pem, cert.pem and key.pem"));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(set: &[(&str, &str)]) -> Result<Address, Failure> {
        Address::parse(&|name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_engine_is_where_the_docker_command_looks_for_it() {
        let socket = |text: &str| Address::Socket(text.to_owned());
        assert_eq!(parsed(&[]).unwrap(), socket("unix:///var/run/docker.sock"));
        assert_eq!(parsed(&[("DOCKER_HOST", "")]).unwrap(), socket("unix:///var/run/docker.sock"));
        assert_eq!(parsed(&[("DOCKER_HOST", "unix:///x")]).unwrap(), socket("unix:///x"));
        let host = ("DOCKER_HOST", "tcp://127.0.0.1:2376");
        let plain = Address::Plain(host.1.to_owned());
        assert_eq!(parsed(&[host]).unwrap(), plain);
        assert_eq!(parsed(&[host, ("DOCKER_TLS_VERIFY", "")]).unwrap(), plain);
        let encrypted = |place: &str| Address::Encrypted(host.1.to_owned(), place.into());
        let verify = ("DOCKER_TLS_VERIFY", "1");
        let at = parsed(&[host, verify, ("DOCKER_CERT_PATH", "/c"), ("HOME", "/h")]);
        assert_eq!(at.unwrap(), encrypted("/c"));
        assert_eq!(parsed(&[host, verify, ("HOME", "/h")]).unwrap(), encrypted("/h/.docker"));
        let failure = parsed(&[host, verify]).unwrap_err();
        assert!(failure.hint.unwrap().contains("DOCKER_CERT_PATH"));
    }

    #[test]
    fn what_leads_to_no_engine_of_this_machine_is_refused_with_what_to_do() {
        for (host, part) in
            [("ssh://root@db1", "another machine"), ("fd://", "fd://"), ("db1:2375", "db1")]
        {
            let failure = parsed(&[("DOCKER_HOST", host)]).unwrap_err();
            assert_eq!(failure.reason, Reason::UnsupportedTarget);
            assert!(
                failure.message.contains(part) && failure.hint.is_some(),
                "{}",
                failure.message
            );
        }
    }

    #[test]
    fn a_certificate_that_is_missing_or_none_is_named() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
        write("ca.pem", "-----BEGIN CERTIFICATE-----");
        write("key.pem", "-----BEGIN PRIVATE KEY-----");
        assert!(certificates(place.path()).unwrap_err().message.contains("cert.pem"));
        write("cert.pem", "nonsense");
        assert!(certificates(place.path()).unwrap_err().message.contains("PEM"));
        write("cert.pem", "-----BEGIN CERTIFICATE-----");
        assert_eq!(certificates(place.path()).unwrap().len(), 3);
    }
}
