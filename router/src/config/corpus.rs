//! The corpus of settings files.

use std::path::Path;

use super::{Config, Settings};
use crate::corpus::{each_variant, files};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn build(bytes: &[u8]) -> Option<Config> {
    let text = str::from_utf8(bytes).ok()?;
    let settings = Settings::from_toml(text, Path::new("/etc/weft/weft.toml")).ok()?;
    Config::build(settings, "host-1", "/run/weft.sock".into(), None).ok()
}

#[test]
fn no_settings_of_the_corpus_do_harm() {
    for input in files(ROOT, "settings") {
        let accepted = build(&input.bytes).is_some();
        assert_eq!(accepted, input.name.starts_with("good-"), "{}", input.name);
    }
    each_variant(ROOT, "settings", |bytes| drop(build(bytes)));
}
