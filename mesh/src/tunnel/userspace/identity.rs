//! The device's own key, and the limit to handshakes that hangs on it.

use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;

use crate::{PrivateKey, PublicKey};

/// The device's own key, and what is computed from it once.
pub(super) struct Identity {
    pub(super) private: PrivateKey,
    pub(super) secret: x25519::StaticSecret,
    pub(super) public: x25519::PublicKey,
    pub(super) key: PublicKey,
    /// Stands in for a key that the device has not been given yet: nobody knows it, and nothing is
    /// sent or taken by it.
    pub(super) is_stand_in: bool,
    /// Checks `mac1` and bounds the handshakes of the whole device.
    pub(super) limiter: RateLimiter,
    /// boringtun counts again in each peer's protocol; it was counted already.
    pub(super) uncounted: Arc<RateLimiter>,
}

/// Handshake messages a second, beyond which a sender must first prove its address.
pub(super) const HANDSHAKES: u64 = 400;

impl Identity {
    pub(super) fn new(private: &PrivateKey) -> Self {
        let secret = private.secret();
        let public = x25519::PublicKey::from(&secret);
        Self {
            limiter: RateLimiter::new(&public, HANDSHAKES),
            uncounted: Arc::new(RateLimiter::new(&public, u64::MAX)),
            key: PublicKey::from_bytes(*public.as_bytes()),
            is_stand_in: false,
            private: private.clone(),
            secret,
            public,
        }
    }

    pub(super) fn stand_in() -> Result<Self, getrandom::Error> {
        Ok(Self {
            is_stand_in: true,
            ..Self::new(&PrivateKey::generate()?)
        })
    }
}
