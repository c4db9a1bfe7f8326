//! When the agent should end: the operating system's signals, and `weft down`.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Why the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// SIGTERM or SIGINT: an upgrade or a stop, what is in the kernel stays.
    Signal,
    /// `weft down`: a goodbye to the mesh first.
    Goodbye,
}

/// Waits for either. `down` turns true at `weft down`.
pub(super) async fn ending(mut down: watch::Receiver<bool>) -> std::io::Result<Ending> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(Ending::Signal),
        _ = interrupt.recv() => Ok(Ending::Signal),
        _ = down.wait_for(|down| *down) => Ok(Ending::Goodbye),
    }
}
