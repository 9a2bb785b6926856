//! What would a disk hold if the power went out now? And what does a server do on a disk that is full, or fails to sync?
//!
//! A [`Layer`] puts a library under a program that passes on what the program does to the files of a folder, writes it down in a
//! trace, and fails on demand. From a trace, a [`Disk`] makes as many states as one likes in which a power loss could have left
//! the folder.

mod crash;
mod disk;
mod layer;
pub mod trace;

pub use crash::{Dice, State};
pub use disk::Disk;
pub use layer::Layer;
