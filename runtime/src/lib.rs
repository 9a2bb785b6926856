//! Durable orchestrations as WebAssembly modules.
pub mod clock;
pub mod engine;
pub mod host;
pub mod limits;
pub mod model;
pub mod replay;
pub mod store;
