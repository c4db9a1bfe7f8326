//! Messages of ours: another server's reply for a client of ours, replies without records, queries.

use super::{AA, AD, CD, HEADER, MAX_TTL, OPT, QR, RA, RD, Reply, Section, TC, UDP_LIMIT};
use super::{put_u16, question_end};
use crate::query::Request;

pub(super) const OPT_LEN: usize = 11;

impl Reply {
    /// Writes the reply for `request`: its ID and its spelling of the question, the records that
    /// fit into `limit` bytes each whole, times to live less `age` seconds. TC is set when an
    /// answer or authority record had to go (RFC 2181 section 9: additional ones are hints).
    pub(crate) fn write(&self, request: &Request, limit: usize, age: u32) -> Vec<u8> {
        let room = limit.saturating_sub(request.edns.map_or(0, |_| OPT_LEN));
        let fit = self
            .records
            .iter()
            .take_while(|span| span.end <= room)
            .count();
        let kept = &self.records[..fit];
        let end = kept.last().map_or(self.question_end, |span| span.end);
        let mut out = Vec::with_capacity(end + OPT_LEN);
        out.extend_from_slice(&self.bytes[..end]);
        if request.question.len() == self.question_end - HEADER {
            out[HEADER..self.question_end].copy_from_slice(&request.question);
        }
        for span in kept {
            let ttl = self.ttl(span).min(MAX_TTL).saturating_sub(age);
            out[span.ttl..span.ttl + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        let cut = self
            .records
            .get(fit)
            .is_some_and(|span| span.section != Section::Additional);
        let flags = &self.bytes[2..4];
        let truncated = if cut { TC } else { flags[0] & TC };
        let authentic = if request.wants_authentic {
            flags[1] & AD
        } else {
            0
        };
        request.head(
            &mut out,
            flags[0] & AA | truncated,
            authentic | (flags[1] & 0x0f),
        );
        for (index, section) in [Section::Answer, Section::Authority, Section::Additional]
            .into_iter()
            .enumerate()
        {
            let count = kept.iter().filter(|span| span.section == section).count();
            put_u16(&mut out, 6 + 2 * index, count as u16);
        }
        request.opt(&mut out, 0);
        out
    }
}

impl Request {
    /// A reply without records. `rcode` may be above 15 only if the request had EDNS.
    pub(crate) fn bare(&self, rcode: u16) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        out.extend_from_slice(&self.question);
        self.head(&mut out, 0, (rcode & 0x0f) as u8);
        self.opt(&mut out, (rcode >> 4) as u8);
        out
    }

    fn head(&self, out: &mut [u8], first: u8, second: u8) {
        put_u16(out, 0, self.id);
        out[2] = QR | first | if self.recursion_desired { RD } else { 0 };
        out[3] = RA | second | if self.checking_disabled { CD } else { 0 };
        put_u16(out, 4, 1);
    }

    /// RFC 6891 section 6.1.1: a reply has an OPT if and only if the request had one.
    fn opt(&self, out: &mut Vec<u8>, extended: u8) {
        let Some(edns) = self.edns else { return };
        push_opt(out, edns.dnssec_ok, extended);
        let count = u16::from_be_bytes([out[10], out[11]]).saturating_add(1);
        put_u16(out, 10, count);
    }
}

/// A reply to a message of which only the header can be believed.
pub(crate) fn header_only(message: &[u8], rcode: u8) -> Option<Vec<u8>> {
    let mut out = message.get(..HEADER)?.to_vec();
    out[2] = QR | out[2] & (0x78 | RD);
    out[3] = RA | rcode;
    out[4..].fill(0);
    Some(out)
}

/// A reply to a query that is not looked into: its header and, if it is well formed, its question,
/// without which a resolver would not know it as its own. Never longer than the query.
pub(crate) fn refusal(message: &[u8], rcode: u8) -> Option<Vec<u8>> {
    let mut out = header_only(message, rcode)?;
    if message[2] & QR != 0 {
        return None;
    }
    if message[4..6] == [0, 1]
        && let Ok(end) = question_end(message)
    {
        out.extend_from_slice(&message[HEADER..end]);
        put_u16(&mut out, 4, 1);
    }
    Some(out)
}

/// A query of ours: recursion wanted, and AD so that the server says what it has validated
/// (RFC 6840 section 5.7).
pub(crate) fn query(id: u16, question: &[u8], edns: Option<bool>, unchecked: bool) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    put_u16(&mut out, 0, id);
    out[2] = RD;
    out[3] = AD | if unchecked { CD } else { 0 };
    put_u16(&mut out, 4, 1);
    out.extend_from_slice(question);
    if let Some(dnssec_ok) = edns {
        put_u16(&mut out, 10, 1);
        push_opt(&mut out, dnssec_ok, 0);
    }
    out
}

fn push_opt(out: &mut Vec<u8>, dnssec_ok: bool, extended: u8) {
    let [high, low] = UDP_LIMIT.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    out.extend_from_slice(&[0, 0, OPT as u8, high, low, extended, 0, flags, 0, 0, 0]);
}
