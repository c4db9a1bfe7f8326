//! Replies made by hand, for tests.

use super::*;

/// A question in wire form; labels are split at dots.
pub(crate) fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name
        .trim_end_matches('.')
        .split('.')
        .filter(|label| !label.is_empty())
    {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out
}

/// A reply made record by record; every owner is a pointer to the question.
#[derive(Clone, Debug)]
pub(crate) struct Made(pub(crate) Vec<u8>);

impl Made {
    pub(crate) fn new(question: &[u8]) -> Self {
        let mut bytes = vec![0, 7, QR | AA, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(question);
        Self(bytes)
    }

    pub(crate) fn rcode(mut self, rcode: u8) -> Self {
        self.0[3] |= rcode;
        self
    }

    pub(crate) fn truncated(mut self) -> Self {
        self.0[2] |= TC;
        self
    }

    pub(crate) fn answer(self, kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.record(6, kind, ttl, data)
    }

    pub(crate) fn authority(self, kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.record(8, kind, ttl, data)
    }

    pub(crate) fn additional(self, kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.record(10, kind, ttl, data)
    }

    fn record(mut self, count: usize, kind: u16, ttl: u32, data: &[u8]) -> Self {
        let now = u16_at(&self.0, count).unwrap();
        put_u16(&mut self.0, count, now + 1);
        self.0.extend_from_slice(&[0xc0, 12]);
        self.0.extend_from_slice(&kind.to_be_bytes());
        self.0.extend_from_slice(&[0, 1]);
        self.0.extend_from_slice(&ttl.to_be_bytes());
        self.0.extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.0.extend_from_slice(data);
        self
    }

    pub(crate) fn reply(self) -> Reply {
        Reply::parse(self.0).unwrap()
    }
}
