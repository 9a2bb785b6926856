//! Functions that take much of what the host keeps for them: header fields, requests and streams.

use std::hint::black_box;

use dacapo_guest::log;
use dacapo_guest::prelude::*;

/// What is under the libraries that speak WASI.
#[cfg(target_family = "wasm")]
#[allow(unsafe_code, reason = "the canonical ABI takes pointers, and no library lets its caller go so far")]
mod raw {
    #[link(wasm_import_module = "wasi:http/types@0.2.0")]
    unsafe extern "C" {
        #[link_name = "[constructor]fields"]
        fn new_fields() -> i32;
        #[link_name = "[method]fields.append"]
        fn append(fields: i32, name: *const u8, name_length: usize, value: *const u8, value_length: usize, answer: *mut u8);
        #[link_name = "[constructor]outgoing-request"]
        fn new_request(fields: i32) -> i32;
        #[link_name = "[method]outgoing-request.set-authority"]
        fn set_authority(request: i32, is_some: i32, text: *const u8, length: usize) -> i32;
        #[link_name = "[method]outgoing-request.set-method"]
        fn set_method(request: i32, kind: i32, text: *const u8, length: usize) -> i32;
    }

    #[link(wasm_import_module = "wasi:cli/stdout@0.2.0")]
    unsafe extern "C" {
        #[link_name = "get-stdout"]
        fn get_stdout() -> i32;
    }

    /// Keeps header fields for ever; says whether the host took the value.
    pub(super) fn keep_fields(value: &[u8]) -> bool {
        let mut answer = [0_u8; 16];
        unsafe { append(new_fields(), b"x".as_ptr(), 1, value.as_ptr(), value.len(), answer.as_mut_ptr()) };
        answer[0] == 0
    }

    /// Keeps a request for ever; says whether the host took the authority.
    pub(super) fn keep_authority(text: &[u8]) -> bool {
        unsafe { set_authority(new_request(new_fields()), 1, text.as_ptr(), text.len()) == 0 }
    }

    /// Keeps a request for ever; says whether the host took the method.
    pub(super) fn keep_method(text: &[u8]) -> bool {
        const OTHER: i32 = 9;
        unsafe { set_method(new_request(new_fields()), OTHER, text.as_ptr(), text.len()) == 0 }
    }

    /// Keeps a stream for ever.
    pub(super) fn keep_stream() {
        unsafe { get_stdout() };
    }
}

#[cfg(not(target_family = "wasm"))]
mod raw {
    pub(super) fn keep_fields(_: &[u8]) -> bool {
        unreachable!("there is no host")
    }

    pub(super) fn keep_authority(_: &[u8]) -> bool {
        unreachable!("there is no host")
    }

    pub(super) fn keep_method(_: &[u8]) -> bool {
        unreachable!("there is no host")
    }

    pub(super) fn keep_stream() {
        unreachable!("there is no host")
    }
}

/// Makes so many things of a kind with so many bytes each, keeps them all, and returns how many the host took.
#[activity(name = "Hoard")]
pub(crate) async fn hoard((kind, count, bytes): (String, u32, usize)) -> Result<usize> {
    let text = vec![b'a'; bytes];
    let keep: fn(&[u8]) -> bool = match kind.as_str() {
        "fields" => raw::keep_fields,
        "authority" => raw::keep_authority,
        "method" => raw::keep_method,
        _ => bail!("there is no such kind"),
    };
    Ok((0..count).filter(|_| keep(&text)).count())
}

/// Calls `Hoard`.
#[orchestrator(name = "CallHoard")]
pub(crate) async fn call_hoard(ctx: Context, what: (String, u32, usize)) -> Result<usize> {
    ctx.call(hoard, what).await
}

/// Takes so many streams and keeps them, and then waits for the event `go`.
#[orchestrator(name = "HoardStreams")]
pub(crate) async fn hoard_streams(ctx: Context, count: u32) -> Result<()> {
    (0..count).for_each(|_| raw::keep_stream());
    ctx.event("go").await
}

/// Says something in every way, and never comes back.
#[activity(name = "TalkAndLoop")]
pub(crate) async fn talk_and_loop() -> Result<()> {
    println!("printed before it hung");
    log::info!(order = 7, baker = ?"Ada", flour = %"rye", "logged before it hung, {} times", 1);
    loop {
        black_box(0);
    }
}
