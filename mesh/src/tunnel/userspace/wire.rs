//! What of WireGuard's messages and of its padding is looked at outside boringtun.

/// The first byte of each message.
pub(super) const INITIATION: u8 = 1;
pub(super) const RESPONSE: u8 = 2;
pub(super) const COOKIE: u8 = 3;
pub(super) const DATA: u8 = 4;

/// Packets up to this size are padded; beyond, padding might exceed what the path carries.
const PAD_UP_TO: usize = 1280;

/// A number in a message: an index.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    word.try_into().ok().map(u32::from_le_bytes)
}

/// The first `len` bytes of the buffer and zeros behind them, up to a multiple of 16 (the paper's
/// section 5.4.6).
pub(super) fn padded(buffer: &mut [u8], len: usize) -> &[u8] {
    let wanted = len.next_multiple_of(16);
    if wanted > PAD_UP_TO || wanted > buffer.len() {
        return &buffer[..len];
    }
    buffer[len..wanted].fill(0);
    &buffer[..wanted]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_padded_with_zeros_as_far_as_every_path_carries() {
        let mut buffer = [7; 1500];
        assert_eq!(
            padded(&mut buffer, 17)[15..],
            [[7, 7].as_slice(), &[0; 15]].concat()
        );
        let mut length = |len| padded(&mut buffer, len).len();
        assert_eq!(
            [0, 16, 1280, 1281, 1500].map(&mut length),
            [0, 16, 1280, 1281, 1500]
        );
        assert_eq!(padded(&mut buffer[..20], 19).len(), 19);
    }
}
