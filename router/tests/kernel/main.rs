//! The kernel module against a real kernel: each test in a network namespace of its own, what we
//! set seen by `ip`, `nft` and packets.

mod attachments;
mod firewall;
mod pods;
mod routes;
mod scale;
mod space;
mod sysctls;
