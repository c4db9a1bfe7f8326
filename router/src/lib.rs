//! The weft node agent.
