//! The CNI side of weft: the specification's types, the plugin, its wire to the agent, and the
//! address management that runs inside the agent.
#![forbid(unsafe_code)]
