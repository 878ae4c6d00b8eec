//! The HTTP kind of a hook.
//!
//! Requests go straight to the host of the URL: no proxy of the environment sees the authorization,
//! and no redirect is followed.

use std::io::Read as _;
use std::time::Instant;

use ureq::http::{HeaderValue, Request};

use super::hooks::{HookError, HookOutcome, HookStatus};
use crate::spec::hooks::{HttpHook, HttpMethod};
use crate::spec::quantity::DurationText;

/// How much of an answer is shown, in bytes.
const SHOWN_BODY: u64 = 512;
/// The longest header value that an authorization file may hold, in bytes.
const LONGEST_AUTHORIZATION: u64 = 16 * 1024;

/// Sends the request and judges the answer; `timeout` spans the whole exchange.
pub(super) fn send(http: &HttpHook, timeout: &DurationText) -> Result<HookOutcome, HookError> {
    let url = shown_url(&http.url);
    let request_failed = |why: String| HookError::Request { url: url.clone(), why };
    let authorization = http.authorization_file.as_deref().map(read_authorization).transpose()?;
    let method = match http.method {
        HttpMethod::Get => "GET",
        HttpMethod::Post => "POST",
        HttpMethod::Put => "PUT",
    };
    let mut request = Request::builder().method(method).uri(http.url.as_str());
    for (name, value) in &http.headers {
        request = request.header(name.as_str(), value.as_str());
    }
    if let (Some(secret), Some(headers)) = (&authorization, request.headers_mut()) {
        headers.insert(ureq::http::header::AUTHORIZATION, secret.header.clone());
    }
    let configuration = ureq::Agent::config_builder()
        .timeout_global(Some(timeout.to_duration()))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .allow_non_standard_methods(true)
        .proxy(None)
        .user_agent(concat!("eider/", env!("CARGO_PKG_VERSION")))
        .build();
    let agent = configuration.new_agent();
    let begun = Instant::now();
    // The library's errors may quote the URL; only what is known not to is passed on.
    let malformed = |_| request_failed("the URL or a header is not valid".to_owned());
    let sent = match &http.body {
        Some(body) => agent.run(request.body(body.as_str()).map_err(malformed)?),
        None => agent.run(request.body(()).map_err(malformed)?),
    };
    let response = sent.map_err(|error| match error {
        ureq::Error::Timeout(_) => timed_out(&url, timeout),
        other => request_failed(why(&other)),
    })?;
    let status = response.status();
    let mut answer = Vec::new();
    let read = response.into_body().into_reader().take(SHOWN_BODY).read_to_end(&mut answer);
    if let Err(error) = read
        && status.is_success()
    {
        // ureq wraps its own timeout into the reader's error.
        return Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
            Some(ureq::Error::Timeout(_)) => timed_out(&url, timeout),
            _ => request_failed("the answer ended early".to_owned()),
        });
    }
    let mut output = String::from_utf8_lossy(&answer).trim_end().to_owned();
    if let Some(secret) = &authorization {
        output = secret.hide(output);
    }
    if status.is_success() {
        let status = HookStatus::Http(status.as_u16());
        return Ok(HookOutcome { status, output, duration: begun.elapsed() });
    }
    if status.is_redirection() {
        "a redirect, which hooks do not follow; name the final URL".clone_into(&mut output);
    }
    Err(HookError::Status { url, status: status.as_u16(), body: output })
}

fn timed_out(url: &str, timeout: &DurationText) -> HookError {
    HookError::TimedOut {
        hook: url.to_owned(),
        timeout: timeout.to_string(),
        output: String::new(),
    }
}

/// The cause of a failed request in words that cannot hold the URL or a header.
fn why(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(source) => source.to_string(),
        ureq::Error::HostNotFound => "the host was not found".to_owned(),
        ureq::Error::ConnectionFailed => "no connection".to_owned(),
        ureq::Error::BadUri(_) => "the URL is not valid".to_owned(),
        ureq::Error::Rustls(source) => format!("TLS: {source}"),
        ureq::Error::Protocol(_) => "the answer is not HTTP".to_owned(),
        _ => "the exchange broke off".to_owned(),
    }
}

/// The URL without user info, query and fragment.
fn shown_url(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let plain = url.get(..end).unwrap_or_default();
    let Some((scheme, rest)) = plain.split_once("://") else {
        return "(an URL without a scheme)".to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// The value of the `Authorization` header.
struct Authorization {
    header: HeaderValue,
    text: String,
}

impl Authorization {
    /// Takes the secret out of an answer that echoes it, with or without the scheme's name.
    fn hide(&self, answer: String) -> String {
        let token = self.text.rsplit(' ').next().unwrap_or_default();
        let mut hidden = answer;
        for secret in [self.text.as_str(), token] {
            if !secret.is_empty() {
                hidden = hidden.replace(secret, "***");
            }
        }
        // An echo may be cut off by the limit; a long enough piece of the secret at the end goes too.
        for length in (4..token.len()).rev() {
            if let Some(piece) = token.get(..length)
                && let Some(rest) = hidden.strip_suffix(piece)
            {
                return format!("{rest}***");
            }
        }
        hidden
    }
}

fn read_authorization(path: &str) -> Result<Authorization, HookError> {
    let unusable = |why: String| HookError::AuthorizationFile { path: path.to_owned(), why };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_AUTHORIZATION).read_to_string(&mut text))
        .map_err(|error| unusable(error.to_string()))?;
    let text = text.trim().to_owned();
    if text.is_empty() {
        return Err(unusable("it is empty".to_owned()));
    }
    let mut header = HeaderValue::from_str(&text)
        .map_err(|_| unusable("its content is not fit for a header".to_owned()))?;
    header.set_sensitive(true);
    Ok(Authorization { header, text })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;
    use crate::runtime::host::hooks::run_hook;
    use crate::spec::hooks::Hook;

    /// Answers one request with `answer` and returns the request; without an answer it only waits
    /// for the client to give up.
    fn serve(answer: Option<&'static str>) -> (u16, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer).unwrap_or(0);
                request.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&request);
                let whole = text.contains("\r\n\r\n")
                    && (!text.to_lowercase().contains("content-length") || text.ends_with("body"));
                if count == 0 || (whole && answer.is_some()) {
                    break;
                }
            }
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).unwrap();
            }
            String::from_utf8(request).unwrap()
        });
        (port, server)
    }

    fn run(http: &serde_json::Value, timeout: &str) -> Result<HookOutcome, HookError> {
        let hook: Hook =
            serde_json::from_value(serde_json::json!({"http": http, "timeout": timeout})).unwrap();
        run_hook(&hook, &BTreeMap::new(), &|| false)
    }

    #[test]
    fn method_headers_body_and_authorization_arrive() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Bearer s3cret-token\n").unwrap();
        let (port, server) =
            serve(Some("HTTP/1.1 201 Created\r\nContent-Length: 19\r\n\r\nhello s3cret-token\n"));
        let outcome = run(
            &serde_json::json!({
                "url": format!("http://127.0.0.1:{port}/hook?key=1"), "method": "PUT",
                "headers": {"X-Eider": "yes"}, "body": "the body",
                "authorizationFile": file.path(),
            }),
            "30s",
        )
        .unwrap();
        assert_eq!(outcome.status, HookStatus::Http(201));
        assert_eq!(outcome.output, "hello ***");
        let request = server.join().unwrap();
        assert!(request.starts_with("PUT /hook?key=1 HTTP/1.1\r\n"), "{request}");
        let request = request.to_lowercase();
        assert!(request.contains("x-eider: yes\r\n"), "{request}");
        assert!(request.contains("authorization: bearer s3cret-token\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\nthe body"), "{request}");
    }

    #[test]
    fn a_bad_status_shows_the_answer_and_no_secret() {
        let (port, server) = serve(Some("HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\ntry later"));
        let url = format!("http://user:hidden@127.0.0.1:{port}/x?token=hidden");
        let text = run(&serde_json::json!({"url": url}), "30s").unwrap_err().to_string();
        assert!(text.contains("503: try later"), "{text}");
        assert!(text.contains(&format!("http://127.0.0.1:{port}/x ")), "{text}");
        assert!(!text.contains("hidden"), "{text}");
        server.join().unwrap();
    }

    #[test]
    fn redirects_are_not_followed() {
        let (elsewhere, _server) = serve(Some("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
        );
        let (port, server) = serve(Some(answer.leak()));
        let url = format!("http://127.0.0.1:{port}/");
        let text = run(&serde_json::json!({"url": url, "method": "GET"}), "30s").unwrap_err();
        assert!(text.to_string().contains("302: a redirect"), "{text}");
        server.join().unwrap();
    }

    #[test]
    fn a_silent_server_ends_in_a_timeout() {
        let (port, server) = serve(None);
        let url = format!("http://127.0.0.1:{port}/?token=hidden");
        let error = run(&serde_json::json!({"url": url}), "1s").unwrap_err();
        assert!(matches!(error, HookError::TimedOut { .. }), "{error}");
        assert!(!error.to_string().contains("hidden"));
        server.join().unwrap();
    }

    #[test]
    fn an_unusable_authorization_file_keeps_its_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Bearer one\nBearer two").unwrap();
        let http = |path: &std::path::Path| serde_json::json!({"url": "http://127.0.0.1:1/", "authorizationFile": path});
        let text = run(&http(file.path()), "1s").unwrap_err().to_string();
        assert!(text.contains("authorizationFile") && !text.contains("Bearer"), "{text}");
        let missing = run(&http("/nonexistent/eider".as_ref()), "1s");
        assert!(matches!(missing, Err(HookError::AuthorizationFile { .. })));
    }

    #[test]
    fn a_refused_connection_is_named_without_the_query() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let url = format!("http://127.0.0.1:{port}/?token=hidden");
        let text = run(&serde_json::json!({"url": url}), "5s").unwrap_err().to_string();
        assert!(text.contains("failed") && !text.contains("hidden"), "{text}");
    }
}
