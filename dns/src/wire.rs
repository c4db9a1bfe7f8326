//! Replies as bytes. A reply of another server is passed on as it came: only its ID, flags, times
//! to live and OPT are ours, so that record types nobody here knows of arrive whole (RFC 3597).
//! This walks records; it does not read what is in them.

use std::time::Duration;

use crate::query::Request;

pub(crate) const HEADER: usize = 12;
const OPT_LEN: usize = 11;

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

/// Whether a message says that it was cut short.
pub(crate) fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & TC != 0)
}

fn push_opt(out: &mut Vec<u8>, dnssec_ok: bool, extended: u8) {
    let [high, low] = UDP_LIMIT.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    out.extend_from_slice(&[0, 0, OPT as u8, high, low, extended, 0, flags, 0, 0, 0]);
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
pub(crate) mod testing {
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{Made, question};
    use super::*;
    use crate::query::{Received, receive};

    fn request(edns: Option<bool>) -> Request {
        match receive(&query(99, &question("NAME.example", 1), edns, false)) {
            Received::Request(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reply_is_passed_on_with_the_clients_id_spelling_and_times_counted_down() {
        let made = Made::new(&question("name.example", 1))
            .answer(1, 300, &[1, 2, 3, 4])
            .answer(0xff01, 100, b"nobody knows what");
        let out = made
            .clone()
            .reply()
            .unauthoritative()
            .write(&request(None), 512, 50);
        let want = Made::new(&question("NAME.example", 1))
            .answer(1, 250, &[1, 2, 3, 4])
            .answer(0xff01, 50, b"nobody knows what");
        assert_eq!(out[..2], [0, 99]);
        assert_eq!(out[2..4], [QR | RD, RA]);
        assert_eq!(out[4..], want.0[4..]);
    }

    #[test]
    fn a_cut_reply_keeps_every_whole_record_that_fits_and_says_so() {
        let mut made = Made::new(&question("name.example", 1));
        for at in 0..100 {
            made = made.answer(1, 60, &[10, 0, 0, at]);
        }
        let reply = made.reply();
        for (edns, limit) in [(None, 512), (Some(false), 512), (Some(true), 1232)] {
            let out = reply.write(&request(edns), limit, 0);
            let count = usize::from(u16_at(&out, 6).unwrap());
            let opt = edns.map_or(0, |_| OPT_LEN);
            assert_eq!(count, (limit - opt - 30) / 16);
            assert_eq!(out.len(), 30 + 16 * count + opt);
            assert!(is_truncated(&out));
            Reply::parse(out).unwrap();
        }
        let whole = reply.write(&request(None), 65_535, 0);
        assert!(!is_truncated(&whole));
        assert_eq!(u16_at(&whole, 6), Ok(100));
    }

    #[test]
    fn hints_that_do_not_fit_leave_no_trace() {
        let made = Made::new(&question("name.example", 1))
            .answer(1, 60, &[1; 4])
            .additional(16, 60, &[0; 600]);
        let out = made.reply().write(&request(None), 512, 0);
        assert!(!is_truncated(&out));
        assert_eq!((u16_at(&out, 6), u16_at(&out, 10)), (Ok(1), Ok(0)));
    }

    #[test]
    fn the_opt_of_another_hop_goes_no_further() {
        let opt = [0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 4, 0, 15, 0, 0];
        let mut made = Made::new(&question("name.example", 1)).answer(1, 60, &[1; 4]);
        made.0.extend_from_slice(&opt);
        made.0[11] = 1;
        let bare = made.clone().reply().write(&request(None), 512, 0);
        assert_eq!((bare.len(), u16_at(&bare, 10)), (46, Ok(0)));
        let ours = made.reply().write(&request(Some(true)), 512, 0);
        assert_eq!(ours[46..], [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    }

    #[test]
    fn ad_is_told_to_those_who_asked() {
        let mut made = Made::new(&question("name.example", 1)).answer(1, 60, &[1; 4]);
        made.0[3] |= AD;
        let reply = made.reply();
        let asked = |edns| reply.write(&request(edns), 512, 0)[3] & AD != 0;
        assert!(asked(Some(true)));
        let mut silent = request(None);
        silent.wants_authentic = false;
        assert_eq!(reply.write(&silent, 512, 0)[3] & AD, 0);
    }

    #[test]
    fn malformed_replies_are_refused() {
        let good = Made::new(&question("name.example", 1))
            .answer(1, 60, &[1; 4])
            .0;
        for end in 0..good.len() {
            assert!(Reply::parse(good[..end].to_vec()).is_err(), "{end} bytes");
        }
        let mut forward = good.clone();
        forward[31] = 200;
        assert_eq!(Reply::parse(forward), Err(WireError::Name));
        let mut to_itself = good.clone();
        to_itself[31] = 30;
        assert_eq!(Reply::parse(to_itself), Err(WireError::Name));
        let mut question = good;
        question[2] &= !QR;
        assert_eq!(Reply::parse(question), Err(WireError::NotAReply));
    }

    proptest! {
        #[test]
        fn whatever_parses_is_written_within_the_limit_and_parses_again(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            records in 0u8..4,
            limit in 512usize..1300,
            age in any::<u32>(),
        ) {
            // Random headers rarely pass; make these likely to.
            if bytes.len() > 12 {
                bytes[2] |= QR;
                bytes[4..12].copy_from_slice(&[0, 1, 0, records, 0, 0, 0, 1]);
            }
            if let Ok(reply) = Reply::parse(bytes) {
                for edns in [None, Some(true)] {
                    let out = reply.write(&request(edns), limit, age);
                    prop_assert!(out.len() <= limit);
                    prop_assert!(Reply::parse(out).is_ok());
                }
            }
        }

        #[test]
        fn a_mutated_reply_does_not_panic(at in 0usize..120, to in any::<u8>(), age in any::<u32>()) {
            let mut made = Made::new(&question("name.example", 1))
                .answer(1, 60, &[1; 4])
                .authority(6, 60, &[0; 22])
                .additional(41, 60, &[0, 10, 0, 0]);
            let at = at % made.0.len();
            made.0[at] = to;
            if let Ok(reply) = Reply::parse(made.0) {
                reply.lifetime();
                prop_assert!(reply.write(&request(Some(false)), 512, age).len() <= 512);
            }
        }
    }
}
