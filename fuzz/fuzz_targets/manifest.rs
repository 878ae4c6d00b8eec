//! Any text as a manifest, with the digest that it should have: reading it never panics, and what is read
//! writes and reads back the same.
#![no_main]

use eider::engine::Manifest;
use libfuzzer_sys::fuzz_target;

const DIGEST: &str = ",\n  \"digest\": \"";

fuzz_target!(|bytes: &[u8]| {
    let _ = Manifest::from_text("x", bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let body = text.rfind(DIGEST).map_or(text, |at| &text[..at]);
    let whole = |digest: &str| format!("{body}{DIGEST}{digest}\"\n}}\n");
    let text = whole(blake3::hash(whole("").as_bytes()).to_hex().as_str());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let name = value["name"].as_str().unwrap_or("x");
    if let Ok(manifest) = Manifest::from_text(name, text.as_bytes()) {
        let written = manifest.to_text();
        let again =
            Manifest::from_text(name, written.as_bytes()).expect("what was written is read");
        assert_eq!(again.to_text(), written);
    }
});
