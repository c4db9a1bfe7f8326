//! A corpus: small files that were hard to read, or are real, each also bent in a few hundred ways.
//! Compiled into the unit tests of the crates that have one under `tests/corpus`.

use std::fs;
use std::path::Path;

/// Bent copies of each file.
const VARIANTS: u64 = 300;
/// The most bytes of a file.
const LARGEST: usize = 2048;

/// A file of the corpus.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The files in a crate's `tests/corpus/{part}`, sorted. `root` is the crate's folder.
pub(crate) fn files(root: &str, part: &str) -> Vec<Input> {
    let folder = Path::new(root).join("tests/corpus").join(part);
    let entries = fs::read_dir(&folder).expect("the corpus is there");
    let mut inputs: Vec<Input> = entries
        .map(|entry| {
            let entry = entry.expect("the corpus can be listed");
            let bytes = fs::read(entry.path()).expect("the corpus can be read");
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(bytes.len() <= LARGEST, "{name} is too large for a corpus");
            Input { name, bytes }
        })
        .collect();
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(inputs.len() >= 3, "{} is no corpus", folder.display());
    inputs
}

/// Gives `read` every file and its bent copies, the same ones in each run.
pub(crate) fn each_variant(root: &str, part: &str, mut read: impl FnMut(&[u8])) {
    let inputs = files(root, part);
    for (at, input) in inputs.iter().enumerate() {
        read(&input.bytes);
        for cut in 0..input.bytes.len().min(64) {
            read(&input.bytes[..cut]);
        }
        let mut random = Random(at as u64 + 1);
        for _ in 0..VARIANTS {
            let other = &inputs[random.below(inputs.len())].bytes;
            read(&bent(input.bytes.clone(), other, &mut random));
        }
    }
}

/// One to four changes: a bit, a byte that is an edge, a cut, a part twice, a piece of another file.
fn bent(mut bytes: Vec<u8>, other: &[u8], random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().max(1));
        match random.below(5) {
            0 => bytes
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= 1 << random.below(8)),
            1 => {
                let edge = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte = edge);
            }
            2 => bytes.truncate(at),
            3 => {
                let part = bytes[at..].to_vec();
                bytes.extend_from_slice(&part);
            }
            _ => {
                bytes.truncate(at);
                bytes
                    .extend_from_slice(&other[random.below(other.len().max(1)).min(other.len())..]);
            }
        }
        bytes.truncate(2 * LARGEST);
    }
    bytes
}

/// Marsaglia's xorshift with 64 bits: not for secrets.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
