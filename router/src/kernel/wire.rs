//! Netlink messages as bytes: headers and attributes in, headers and attributes out.
//!
//! What every netlink family shares; it knows nothing of links, routes or tables.

use std::net::IpAddr;

/// Of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A message being built. Its sequence number is given when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `flags` are `NLM_F_*`, to which `NLM_F_REQUEST` is added; `body` is the family's own header.
    pub(crate) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// # Panics
    /// Never: values are addresses, names and numbers of ours; one that overflowed a length field
    /// would be cut, and the kernel would refuse the message.
    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A NUL-terminated string.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub(crate) fn address(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(address) => self.attr(kind, &address.octets()),
            IpAddr::V6(address) => self.attr(kind, &address.octets()),
        }
    }

    /// An attribute made of attributes. `kind` carries `NLA_F_NESTED` where the family asks for it.
    pub(crate) fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.put(kind, &[]);
        let mut whole = inside(self);
        let length = (whole.bytes.len() - start) as u16;
        whole.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        whole
    }

    /// Bytes inside a nest that are not an attribute (`struct ifinfomsg` of a veth's peer).
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Asks for an acknowledgement.
    pub(crate) fn acknowledged(mut self) -> Self {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | libc::NLM_F_ACK as u16;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    pub(crate) fn into_bytes(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Of a notification: the port of the socket that asked for the change.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> Received<'a> {
    /// What an acknowledgement or `NLMSG_DONE` says: 0, or the error number.
    pub(crate) fn errno(&self) -> i32 {
        i32_at(self.body, 0).unwrap_or(0).saturating_neg()
    }

    /// The attributes that follow a family header of `header` bytes.
    pub(crate) fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes(self.body.get(header.next_multiple_of(4)..).unwrap_or(&[]))
    }
}

/// The messages of a datagram; ends at the first that is cut short.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        if length < HEADER {
            return None;
        }
        let message = datagram.get(..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Received {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            port: u32_at(message, 12)?,
            body: &message[HEADER..],
        })
    })
}

/// Attributes one after another; ends at the first that is cut short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter()
            .find_map(|(k, value)| (k == kind).then_some(value))
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        u32_at(self.find(kind)?, 0)
    }

    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.find(kind)?;
        let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
        std::str::from_utf8(&value[..end]).ok()
    }

    pub(crate) fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or(&[]))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        // The top two bits are flags (nested, network byte order).
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// An address of 4 or 16 bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let bytes = Message::new(24, 0x400, &[2, 0, 0, 0])
            .text(3, "weft0")
            .nest(8, |m| m.u32(2, 1420))
            .into_bytes(7);
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].kind, read[0].sequence), (24, 7));
        let attributes = read[0].attributes(4);
        assert_eq!(attributes.text(3), Some("weft0"));
        assert_eq!(attributes.nested(8).u32(2), Some(1420));
    }

    #[test]
    fn no_datagram_of_the_corpus_panics_a_reader() {
        let mut links = 0;
        crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "netlink", |bytes| {
            let mut size = 0;
            for message in messages(bytes) {
                size += message.body.len() + HEADER;
                let _ = message.errno();
                links += usize::from(crate::kernel::netlink::link(&message).is_some());
                let _ = crate::kernel::netlink::is_local(&message);
                for header in [4, 8, 12, 16] {
                    let attributes = message.attributes(header);
                    for (kind, value) in attributes {
                        let _ = (address(value), attributes.text(kind));
                        let _ = attributes.nested(kind).u32(2);
                    }
                }
            }
            assert!(size <= bytes.len(), "no more is read than there is");
        });
        assert!(links > 100, "{links} were read as links");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for message in messages(&bytes) {
                let _ = message.errno();
                for (_, value) in message.attributes(12) {
                    let _ = Attributes(value).count();
                }
            }
        }
    }
}
