//! The requests of a health gate.

use super::hook_phase::told;
use super::host::hooks::{HookError, send_request};
use crate::spec::hooks::{Hook, HttpHook, HttpMethod};
use crate::spec::upgrade::{HttpProbe, Probe};
use crate::spec::{DurationText, OnError};

/// How long one probe may take, in seconds.
const LIMIT: u64 = 10;

/// Sends every probe; `discreet` leaves out of the error what was answered. The first that is not answered with 200 to 399 is the error, a sentence.
pub async fn all_answer(probes: &[Probe], discreet: bool) -> Result<(), String> {
    for probe in probes {
        let hook = as_hook(&probe.http);
        let sent = tokio::task::spawn_blocking(move || send_request(&hook)).await;
        match sent.map_err(|error| error.to_string())? {
            Ok(_) | Err(HookError::Status { status: 300..=399, .. }) => {}
            Err(error) => return Err(told(&error, discreet)),
        }
    }
    Ok(())
}

fn as_hook(probe: &HttpProbe) -> Hook {
    Hook {
        exec: None,
        http: Some(HttpHook {
            url: probe.url.clone(),
            method: HttpMethod::Get,
            headers: probe.headers.clone(),
            authorization_file: probe.authorization_file.clone(),
            body: None,
        }),
        timeout: DurationText::seconds(LIMIT),
        on_error: OnError::Fail,
    }
}
