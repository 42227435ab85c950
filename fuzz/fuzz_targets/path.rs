//! A path is read in the one way that there is, or not at all.
#![no_main]

use durward_core::host::Host;
use durward_core::path::{PathPattern, RequestPath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(path) = RequestPath::parse(text) {
        let raw = text.split('?').next().unwrap_or_default();
        assert_eq!(raw.matches('/').count(), path.segments().len().max(1));
        for segment in path.segments() {
            assert!(!segment.is_empty() && !segment.contains(['/', '\\', '%', ';', '#', '?', '\0']));
            assert!(!segment.ends_with(['.', ' ']));
        }
    }
    if let Ok(pattern) = PathPattern::parse(text) {
        assert_eq!(PathPattern::parse(&pattern.to_string()), Ok(pattern));
    }
    if let Ok(host) = Host::of_authority(text) {
        assert_eq!(Host::parse(host.as_str()), Ok(host));
    }
});
