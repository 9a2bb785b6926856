//! Dacapo runs durable orchestrations that are WebAssembly modules: it records what happens to each, and whenever it has to, it plays
//! the module again from the top against that record.
//!
//! In reading order: [`model`] is the data, [`replay`] the heart, [`engine`] what drives it, [`host`] how guests run, [`store`] what
//! is kept, [`api`] the HTTP side, [`cli`] the command line, [`metrics`] what all of them count, [`descriptors`] what the system allows. Arrows point that way only: `cli → api → engine → {host, store} → model`.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod engine;
#[cfg(test)]
mod fuzz;
pub mod host;
pub mod limits;
mod memory;
pub mod metrics;
pub mod model;
mod priority;
pub mod replay;
pub mod store;
