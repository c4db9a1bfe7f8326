//! What must be on disk before it is used: written by a task of its own, never under the core's
//! lock. Requests that come while one is written are written together.

use tracing::warn;

use super::core::Kept;
use super::grant::Book;
use super::message::Message;
use super::node::{Node, lock};
use crate::NodeId;

/// Grants that wait for the disk; who gets none asks again.
const MAX_GRANTS_WAITING: usize = 1024;

/// What waits to be written, the latest of each.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    kept: Option<Kept>,
    book: Option<Book>,
    /// To be sent when the book is written.
    grants: Vec<(NodeId, Message)>,
}

impl Waiting {
    pub(super) fn keep(&mut self, kept: Kept) {
        self.kept = Some(kept);
    }

    /// The book has every grant that waits.
    pub(super) fn grant(&mut self, to: NodeId, message: Message, book: Book) {
        if self.grants.len() < MAX_GRANTS_WAITING {
            self.grants.push((to, message));
        }
        self.book = Some(book);
    }
}

impl Node {
    /// Writes what waits and goes on with it. Blocks; one call at a time, each told by `written`
    /// what book the last one left on disk.
    pub(super) fn keep_waiting(&self, mut written: Option<Book>) -> Option<Book> {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        if let Some(kept) = waiting.kept {
            let result = self.files.save_kept(kept).map_err(|e| e.to_string());
            self.drive(|core, now| core.saved(kept, result, now));
        }
        let Some(book) = waiting.book else {
            return written;
        };
        if written.as_ref() != Some(&book) {
            if let Err(error) = self.files.save_book(&book) {
                warn!(%error, "no grant given");
                return None;
            }
            written = Some(book);
        }
        let conns = lock(&self.conns);
        for (to, message) in waiting.grants {
            conns.send(to, &message);
        }
        written
    }
}
