//! What does a program do to the files of one folder? Put under it with `LD_PRELOAD`, this library has the names of the C library's
//! functions, does what they do, and writes it down; or refuses, if it is told to.
//!
//! Made for a program as ours is: the functions of the 64-bit interface of Linux that Rust's standard library and SQLite call. What it does
//! to the file system otherwise is not in the trace, which [`dacapo_disk::Disk::check`] notices. Everything that changes a file happens under
//! one lock, so that the trace has the order in which it happened.

#![allow(unsafe_code, reason = "the interface of the C library")]
#![allow(clippy::missing_safety_doc, reason = "each function is as safe as the one whose name it has")]

mod calls;
mod layer;
