//! A tar archive of the `ustar` format (POSIX.1-2017, pax), as image layers and images are. The same
//! contents give the same bytes: no times, no owners but root.

use std::collections::BTreeSet;
use std::io::{self, Write};

const BLOCK: usize = 512;

/// An archive being written.
#[derive(Debug)]
pub(super) struct Tar<W> {
    out: W,
    folders: BTreeSet<String>,
}

impl<W: Write> Tar<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            folders: BTreeSet::new(),
        }
    }

    /// A folder and those above it.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.folder_of_mode(path, 0o755)
    }

    /// A folder that everybody may write to, as `/tmp` is.
    pub(super) fn shared_folder(&mut self, path: &str) -> io::Result<()> {
        self.folder_of_mode(path, 0o1777)
    }

    fn folder_of_mode(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.folders_above(path)?;
        if self.folders.insert(path.to_owned()) {
            self.header(&format!("{path}/"), b'5', mode, 0, "")?;
        }
        Ok(())
    }

    /// A file of mode `mode`, and the folders above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.folders_above(path)?;
        self.header(path, b'0', mode, contents.len() as u64, "")?;
        self.out.write_all(contents)?;
        let padding = contents.len().next_multiple_of(BLOCK) - contents.len();
        self.out.write_all(&[0; BLOCK][..padding])
    }

    /// A symbolic link, and the folders above it.
    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.folders_above(path)?;
        self.header(path, b'2', 0o777, 0, target)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn folders_above(&mut self, path: &str) -> io::Result<()> {
        for (end, _) in path.match_indices('/').filter(|(end, _)| *end > 0) {
            if self.folders.insert(path[..end].to_owned()) {
                self.header(&path[..=end], b'5', 0o755, 0, "")?;
            }
        }
        Ok(())
    }

    fn header(
        &mut self,
        path: &str,
        kind: u8,
        mode: u32,
        size: u64,
        target: &str,
    ) -> io::Result<()> {
        let mut header = [0; BLOCK];
        // Longer names are split or put into records of their own, and we have none.
        if path.len() > 100 || target.len() > 100 {
            let reason = format!("{path} is too long a name for an image");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        header[..path.len()].copy_from_slice(path.as_bytes());
        octal(&mut header[100..108], mode.into());
        octal(&mut header[108..116], 0);
        octal(&mut header[116..124], 0);
        octal(&mut header[124..136], size);
        octal(&mut header[136..148], 0);
        header[148..156].fill(b' ');
        header[156] = kind;
        header[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        // The sum is made with spaces in its own place.
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut header[148..155], sum);
        self.out.write_all(&header)
    }
}

/// Octal digits, then a zero byte.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_lists_what_was_put_in() {
        let mut tar = Tar::new(Vec::new());
        tar.file("bin/hello", 0o755, b"#!/bin/sh\n").unwrap();
        tar.shared_folder("tmp").unwrap();
        tar.link("bin/hi", "hello").unwrap();
        tar.file("empty", 0o644, b"").unwrap();
        let bytes = tar.finish().unwrap();
        let mut child = Command::new("tar")
            .args(["-tvf", "-", "--numeric-owner", "--utc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let listed = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<String> = listed
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 bin/",
                "-rwxr-xr-x 0/0 10 1970-01-01 00:00 bin/hello",
                "drwxrwxrwt 0/0 0 1970-01-01 00:00 tmp/",
                "lrwxrwxrwx 0/0 0 1970-01-01 00:00 bin/hi -> hello",
                "-rw-r--r-- 0/0 0 1970-01-01 00:00 empty",
            ]
        );
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let mut tar = Tar::new(Vec::new());
        assert!(tar.file(&"a".repeat(101), 0o644, b"").is_err());
    }
}
