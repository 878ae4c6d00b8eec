//! Any bytes as a manifest: reading it never panics, and what is read writes and reads back the same.
#![no_main]

use eider::engine::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_text("x", bytes) {
        let text = manifest.to_text();
        assert!(Manifest::from_text("x", text.as_bytes()).is_ok());
    }
});
