//! An nftables message: the family's header and attributes, written and read.
//!
//! No crate writes nftables' attributes; framing and sending are the socket's.

use std::convert::Infallible;

use netlink_packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};

/// A message, or one that came: what follows `struct nlmsghdr`.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// `flags` are `NLM_F_*`; `header` is the family's own.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut body = Vec::with_capacity(256);
        body.extend_from_slice(header);
        let mut message = Self { kind, flags, body };
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

    /// A NUL-terminated string.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// An attribute made of attributes. `kind` carries `NLA_F_NESTED`.
    pub(crate) fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.body.len();
        self.put(kind, &[]);
        let mut whole = inside(self);
        let length = (whole.body.len() - start) as u16;
        whole.body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        whole
    }

    /// Asks for an acknowledgement.
    pub(crate) fn acknowledged(mut self) -> Self {
        self.flags |= libc::NLM_F_ACK as u16;
        self
    }

    /// As the socket takes it.
    pub(crate) fn request(self) -> NetlinkMessage<Self> {
        let flags = self.flags;
        let payload = NetlinkPayload::InnerMessage(self);
        let mut request = NetlinkMessage::new(NetlinkHeader::default(), payload);
        request.header.flags = flags;
        request
    }

    /// The attributes that follow a family header of `header` bytes.
    pub(crate) fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes(self.body.get(header..).unwrap_or(&[]))
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            flags: header.flags,
            body: payload.to_vec(),
        })
    }
}

/// Attributes one after another; ends at the first that is cut short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter()
            .find_map(|(k, value)| (k == kind).then_some(value))
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

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let mut request = Message::new(24, 0x400, &[2, 0, 0, 0])
            .text(3, "weft0")
            .nest(8, |m| m.attr(2, &[1, 2, 3]))
            .request();
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let read = NetlinkMessage::<Message>::deserialize(&bytes).unwrap();
        assert_eq!((read.header.message_type, read.header.flags), (24, 0x400));
        let NetlinkPayload::InnerMessage(message) = read.payload else {
            panic!("{read:?}");
        };
        let attributes = message.attributes(4);
        assert_eq!(attributes.text(3), Some("weft0"));
        assert_eq!(attributes.nested(8).find(2), Some(&[1, 2, 3][..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for (kind, value) in Attributes(&bytes) {
                let _ = Attributes(value).count();
                let _ = Attributes(&bytes).text(kind);
            }
        }
    }
}
