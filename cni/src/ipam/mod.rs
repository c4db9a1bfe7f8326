//! The addresses of this node's containers: which are free (`pool`), who has which (`lease`), and
//! where that is written down (`store`). Runs inside the agent, its only writer.

mod lease;
mod leases;
mod pool;
mod store;

pub use lease::{Lease, State};
pub use leases::{Allocation, LeaseError, Leases, Restored};
pub use pool::{Pool, PoolError};
pub use store::{Corrupt, DiskStore, Loaded, MemoryStore, Store};
