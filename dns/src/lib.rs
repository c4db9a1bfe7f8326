//! The DNS server of a weft node: an immutable zone, a forwarder with a cache, and the sockets.
#![forbid(unsafe_code)]
