//! The allocator of guests without WASI.
//!
//! It takes what the linker left of the initial memory before it grows the memory. A `memory.grow` in every new instance
//! costs more time than the rest of the instantiation, and a page per instance. This `dlmalloc` does so by itself; the
//! one inside `std` need not, since its version is the toolchain's choice.

use dlmalloc::GlobalDlmalloc;

#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;
