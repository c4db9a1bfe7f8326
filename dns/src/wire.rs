//! Replies as bytes. A reply of another server is passed on as it came: only its ID, flags, times
//! to live and OPT are ours, so that record types nobody here knows of arrive whole (RFC 3597).
//! This walks records; it does not read what is in them.

use std::time::Duration;

mod write;

pub(crate) use write::{header_only, query, refusal};

pub(crate) const HEADER: usize = 12;

/// The UDP payload we offer and keep to: what passes every path unfragmented.
pub(crate) const UDP_LIMIT: u16 = 1232;

/// Nothing is kept for longer than a day, whatever its TTL.
pub(crate) const MAX_TTL: u32 = 86_400;
/// A negative answer is not kept for longer than RFC 2308 section 5 finds sensible.
const MAX_NEGATIVE_TTL: u32 = 10_800;

const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const AD: u8 = 0x20;
const CD: u8 = 0x10;

const NO_ERROR: u8 = 0;
const NX_DOMAIN: u8 = 3;
const SOA: u16 = 6;
const OPT: u16 = 41;
const ANY: u16 = 255;

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the message ends too early")]
    Short,
    #[error("the message is not a reply to one question")]
    NotAReply,
    #[error("a name in the message is malformed")]
    Name,
}

/// A reply, walked once: its records may be cut off, counted down and given another header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Header, question and records; no OPT.
    bytes: Vec<u8>,
    question_end: usize,
    records: Vec<Span>,
    extended: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    section: Section,
    kind: u16,
    /// Where the four bytes of the TTL begin.
    ttl: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Answer,
    Authority,
    Additional,
}

impl Reply {
    /// Walks a reply. Its OPT, which speaks of one hop only, is taken off, and with it whatever
    /// follows it (hints and signatures of that hop).
    ///
    /// # Errors
    /// When it is not a whole reply to one question whose name is spelt out.
    pub fn parse(mut bytes: Vec<u8>) -> Result<Self, WireError> {
        let header = bytes.get(..HEADER).ok_or(WireError::Short)?;
        if header[2] & QR == 0 || u16_at(&bytes, 4)? != 1 {
            return Err(WireError::NotAReply);
        }
        let question_end = question_end(&bytes)?;
        let mut reply = Self {
            bytes: Vec::new(),
            question_end,
            records: Vec::new(),
            extended: 0,
        };
        let mut at = question_end;
        let mut kept = question_end;
        let mut seen_opt = false;
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        for (index, section) in sections.into_iter().enumerate() {
            for _ in 0..u16_at(&bytes, 6 + 2 * index)? {
                let fixed = skip_name(&bytes, at)?;
                let span = span(&bytes, section, fixed)?;
                at = span.end;
                if span.kind == OPT {
                    if !seen_opt {
                        reply.extended = bytes[span.ttl];
                    }
                    seen_opt = true;
                }
                if !seen_opt {
                    kept = at;
                    reply.records.push(span);
                }
            }
        }
        bytes.truncate(kept);
        let additional = |span: &&Span| span.section == Section::Additional;
        let hints = reply.records.iter().filter(additional).count();
        // At most as many as the message had, which counted them in 16 bits.
        put_u16(&mut bytes, 10, hints as u16);
        reply.bytes = bytes;
        Ok(reply)
    }

    /// The response code, with the upper bits of EDNS.
    pub fn rcode(&self) -> u16 {
        u16::from(self.extended) << 4 | u16::from(self.bytes[3] & 0x0f)
    }

    /// Whether the sender cut the reply short.
    pub fn truncated(&self) -> bool {
        self.bytes[2] & TC != 0
    }

    /// The question as it stands in the message: name, type and class.
    pub fn question(&self) -> &[u8] {
        &self.bytes[HEADER..self.question_end]
    }

    /// The message without its OPT.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same reply of one who does not answer for the zone.
    pub(crate) fn unauthoritative(mut self) -> Self {
        self.bytes[2] &= !AA;
        self
    }

    /// The bytes that the reply takes.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<Span>()
    }

    /// How long the reply may be kept; `None` if it may not be. A positive answer lasts as long as
    /// its shortest record; a negative one no longer than its SOA says (RFC 2308 section 5), and
    /// without a SOA it is not kept at all.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        let rcode = self.rcode();
        if self.truncated() || (rcode != NO_ERROR.into() && rcode != NX_DOMAIN.into()) {
            return None;
        }
        let asked = u16_at(&self.bytes, self.question_end - 4).ok()?;
        let answers =
            |span: &&Span| span.section == Section::Answer && (span.kind == asked || asked == ANY);
        let shortest = self.records.iter().map(|span| self.ttl(span)).min();
        let positive = rcode == NO_ERROR.into() && self.records.iter().find(answers).is_some();
        let seconds = if positive {
            shortest?.min(MAX_TTL)
        } else {
            shortest?.min(self.minimum()?).min(MAX_NEGATIVE_TTL)
        };
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// The SOA's last field, if one stands in the authority section.
    fn minimum(&self) -> Option<u32> {
        let soa = |span: &&Span| span.section == Section::Authority && span.kind == SOA;
        let span = self.records.iter().find(soa)?;
        // Two names and five numbers: at least 22 bytes.
        let start = span.ttl + 6;
        (span.end - start >= 22).then(|| u32_at(&self.bytes, span.end - 4))
    }

    fn ttl(&self, span: &Span) -> u32 {
        let ttl = u32_at(&self.bytes, span.ttl);
        // RFC 2181 section 8: a TTL with its top bit set is zero.
        if ttl > i32::MAX as u32 { 0 } else { ttl }
    }
}

/// Whether a message says that it was cut short.
pub(crate) fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & TC != 0)
}

/// The end of the only question, whose name must be spelt out: nothing stands before it to point to.
pub(crate) fn question_end(bytes: &[u8]) -> Result<usize, WireError> {
    let mut at = HEADER;
    loop {
        match bytes.get(at).ok_or(WireError::Short)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(*length),
            _ => return Err(WireError::Name),
        }
        if at - HEADER > 254 {
            return Err(WireError::Name);
        }
    }
    let end = at + 5;
    if end > bytes.len() {
        Err(WireError::Short)
    } else {
        Ok(end)
    }
}

fn skip_name(bytes: &[u8], start: usize) -> Result<usize, WireError> {
    let mut at = start;
    loop {
        match bytes.get(at).ok_or(WireError::Short)? {
            0 => return Ok(at + 1),
            length @ 1..=63 => at += 1 + usize::from(*length),
            0xc0.. => {
                // Only backwards, so that no chain of pointers is endless (RFC 1035 section 4.1.4).
                let target = usize::from(u16_at(bytes, at)? & 0x3fff);
                if target < start && target >= HEADER {
                    return Ok(at + 2);
                }
                return Err(WireError::Name);
            }
            _ => return Err(WireError::Name),
        }
        if at - start > 254 {
            return Err(WireError::Name);
        }
    }
}

fn span(bytes: &[u8], section: Section, fixed: usize) -> Result<Span, WireError> {
    let end = fixed + 10 + usize::from(u16_at(bytes, fixed + 8)?);
    if end > bytes.len() {
        return Err(WireError::Short);
    }
    Ok(Span {
        section,
        kind: u16_at(bytes, fixed)?,
        ttl: fixed + 4,
        end,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, WireError> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(WireError::Short),
    }
}

/// Four bytes inside a record whose bounds were checked when it was walked.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_u16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
