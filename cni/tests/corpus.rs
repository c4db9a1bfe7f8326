//! Inputs that were made to hurt, each into every parser: none may panic, and those of a call are
//! refused.

use std::ffi::OsString;
use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use weft_cni::api::{AddReply, Empty, Request, decode_reply, read_frame};
use weft_cni::{conf, env, note};

#[test]
fn no_input_of_the_corpus_does_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        let refused = [
            conf::parse(&bytes).is_err(),
            Request::decode(&bytes).is_err(),
            decode_reply::<Empty>(&bytes).is_err(),
            decode_reply::<AddReply>(&bytes).is_err(),
        ];
        // Of two bodies in one envelope the first is read.
        let harmless = name.ends_with("-both");
        assert!(refused == [true; 4] || harmless, "{name}: {refused:?}");
        let _ = read_frame(&mut Cursor::new(&bytes));
        let _ = env::parse(|_| Some(OsString::from_vec(bytes.clone())));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0.json"), &bytes).unwrap();
        assert_eq!(note::list(dir.path(), 9).unwrap(), [], "{name}");
        count += 1;
    }
    assert!(count > 20, "the corpus is not there");
}
