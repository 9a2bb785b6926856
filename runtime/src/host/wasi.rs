//! What does an orchestrator get when it calls WASI? Our own, deterministic WASI 0.2.
//!
//! Clocks read the turn's time, randomness comes from the execution's seed, there is no environment and no file, and
//! what is printed becomes log lines. All else that WASI has is linked too, since the same module's activities may need it, and
//! traps with a line that says what to do. Functions are matched by name alone: wasmtime checks the types.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, LinkerInstance, Lower, Resource, ResourceType};

use super::state::{Denied, GuestState};
use crate::model::{LogLevel, Seed};

/// The generator of all randomness in one execution.
///
/// ChaCha8 with the execution's seed as the first half of its key. A test pins what it gives, since every stored
/// execution depends on it.
pub(super) fn random(seed: Seed) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&seed.0);
    ChaCha8Rng::from_seed(key)
}

/// The most random bytes that one call may ask for: far above any honest need, since the host has to hold them.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// `wasi:clocks/wall-clock.datetime`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// `wasi:io/streams.stream-error`.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "the contract of WASI has this case; our streams never fail")]
    LastOperationFailed(Resource<Handle>),
    #[component(name = "closed")]
    Closed,
}

/// What stands behind every WASI resource here. The number says which: an output stream is [`STDOUT`] or [`STDERR`], a pollable
/// [`READY`] or [`NEVER`].
struct Handle;

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const READY: u32 = 0;
const NEVER: u32 = 1;

/// How a WASI resource is linked.
pub(super) fn resource_type() -> ResourceType {
    ResourceType::host::<Handle>()
}

type Cx<'a> = StoreContextMut<'a, GuestState>;
type Written = Result<(), StreamError>;

/// Links `function` of `interface` (without version), which is WASI's or the guest contract's, or a trap that says what to do instead.
pub(super) fn define(linker: &mut LinkerInstance<'_, GuestState>, interface: &str, function: &str) -> wasmtime::Result<()> {
    match (interface, function) {
        ("wasi:clocks/wall-clock", "now") => linker.func_wrap(function, |cx: Cx<'_>, (): ()| {
            let now_ms = cx.data().now_ms;
            let nanoseconds = u32::try_from(now_ms % 1_000).expect("below 1,000") * 1_000_000;
            Ok((Datetime { seconds: now_ms / 1_000, nanoseconds },))
        }),
        ("wasi:clocks/wall-clock", "resolution") => {
            linker.func_wrap(function, |_: Cx<'_>, (): ()| Ok((Datetime { seconds: 0, nanoseconds: 1_000_000 },)))
        }
        ("wasi:clocks/monotonic-clock", "now") => {
            linker.func_wrap(function, |cx: Cx<'_>, (): ()| Ok((cx.data().now_ms.saturating_mul(1_000_000),)))
        }
        ("wasi:clocks/monotonic-clock", "resolution") => linker.func_wrap(function, |_: Cx<'_>, (): ()| Ok((1_000_000_u64,))),
        ("wasi:clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            linker.func_wrap(function, |_: Cx<'_>, (_,): (u64,)| Ok((Resource::<Handle>::new_own(NEVER),)))
        }

        ("wasi:random/random", "get-random-bytes") | ("wasi:random/insecure", "get-insecure-random-bytes") => {
            linker.func_wrap(function, |mut cx: Cx<'_>, (length,): (u64,)| {
                if length > RANDOM_BYTES_MAX {
                    return Err(Denied::error(format!(
                        "asks for {length} random bytes at once; at most {RANDOM_BYTES_MAX} are given"
                    )));
                }
                let mut bytes = vec![0; usize::try_from(length).expect("checked above")];
                cx.data_mut().random.fill_bytes(&mut bytes);
                Ok((bytes,))
            })
        }
        ("wasi:random/random", "get-random-u64") | ("wasi:random/insecure", "get-insecure-random-u64") => {
            linker.func_wrap(function, |mut cx: Cx<'_>, (): ()| Ok((cx.data_mut().random.next_u64(),)))
        }
        ("wasi:random/insecure-seed", "insecure-seed") => linker.func_wrap(function, |mut cx: Cx<'_>, (): ()| {
            let random = &mut cx.data_mut().random;
            Ok(((random.next_u64(), random.next_u64()),))
        }),

        ("wasi:cli/environment", "get-environment") => {
            linker.func_wrap(function, |_: Cx<'_>, (): ()| Ok((Vec::<(String, String)>::new(),)))
        }
        ("wasi:cli/environment", "get-arguments") => linker.func_wrap(function, |_: Cx<'_>, (): ()| Ok((Vec::<String>::new(),))),
        ("wasi:cli/environment", "initial-cwd") => linker.func_wrap(function, |_: Cx<'_>, (): ()| Ok((None::<String>,))),
        ("wasi:cli/stdin", "get-stdin") => stream(linker, function, STDIN),
        ("wasi:cli/stdout", "get-stdout") => stream(linker, function, STDOUT),
        ("wasi:cli/stderr", "get-stderr") => stream(linker, function, STDERR),
        (
            "wasi:cli/terminal-stdin" | "wasi:cli/terminal-stdout" | "wasi:cli/terminal-stderr",
            "get-terminal-stdin" | "get-terminal-stdout" | "get-terminal-stderr",
        ) => linker.func_wrap(function, |_: Cx<'_>, (): ()| Ok((None::<Resource<Handle>>,))),
        ("wasi:filesystem/preopens", "get-directories") => {
            linker.func_wrap(function, |mut cx: Cx<'_>, (): ()| {
                // The guest gets an error code that says little; this line says what to do.
                let message = "an orchestrator has no files: read and write them in an activity, and await it with `ctx.call`";
                cx.data_mut().lines.push(LogLevel::Warn, "dacapo".into(), message.into());
                Ok((Vec::<(Resource<Handle>, String)>::new(),))
            })
        }

        ("wasi:io/streams", "[method]output-stream.check-write") => {
            linker.func_wrap(function, |_: Cx<'_>, (_,): (Resource<Handle>,)| Ok((Ok::<u64, StreamError>(64 << 10),)))
        }
        ("wasi:io/streams", "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush") => linker
            .func_wrap(function, |mut cx: Cx<'_>, (stream, bytes): (Resource<Handle>, Vec<u8>)| {
                cx.data_mut().lines.print(stream.rep() == STDERR, &bytes);
                Ok((Written::Ok(()),))
            }),
        ("wasi:io/streams", "[method]output-stream.flush" | "[method]output-stream.blocking-flush") => {
            linker.func_wrap(function, |_: Cx<'_>, (_,): (Resource<Handle>,)| Ok((Written::Ok(()),)))
        }
        ("wasi:io/streams", "[method]output-stream.subscribe" | "[method]input-stream.subscribe") => {
            linker.func_wrap(function, |_: Cx<'_>, (_,): (Resource<Handle>,)| Ok((Resource::<Handle>::new_own(READY),)))
        }
        ("wasi:io/streams", "[method]input-stream.read" | "[method]input-stream.blocking-read") => linker
            .func_wrap(function, |_: Cx<'_>, (_, _): (Resource<Handle>, u64)| {
                Ok((Err::<Vec<u8>, StreamError>(StreamError::Closed),))
            }),
        ("wasi:io/poll", "[method]pollable.ready") => {
            linker.func_wrap(function, |_: Cx<'_>, (pollable,): (Resource<Handle>,)| Ok((pollable.rep() == READY,)))
        }
        ("wasi:io/poll", "[method]pollable.block") => linker.func_wrap(
            function,
            |_: Cx<'_>, (pollable,): (Resource<Handle>,)| {
                if pollable.rep() == READY { Ok(()) } else { Err(cannot_block()) }
            },
        ),
        ("wasi:io/poll", "poll") => linker.func_wrap(function, |_: Cx<'_>, (pollables,): (Vec<Resource<Handle>>,)| {
            let ready: Vec<u32> = (0..).zip(&pollables).filter(|(_, it)| it.rep() == READY).map(|(n, _)| n).collect();
            if ready.is_empty() { Err(cannot_block()) } else { Ok((ready,)) }
        }),
        ("wasi:io/error", "[method]error.to-debug-string") => {
            linker.func_wrap(function, |_: Cx<'_>, (_,): (Resource<Handle>,)| Ok((String::from("closed"),)))
        }

        ("dacapo:guest/heartbeat", _) => {
            let message = "reports progress as a heartbeat, which only activities do: its history has all that it did, and \
                           `ctx.set_custom_status` shows people how far it is";
            linker.func_new(function, move |_, _, _, _| Err(Denied::error(message.into())))
        }
        ("wasi:cli/exit", _) => {
            let message = "ends its process (as `std::process::exit` does), and would take its own history with it: return a result \
                           instead, such as an error by `bail!`";
            linker.func_new(function, move |_, _, _, _| Err(Denied::error(message.into())))
        }
        _ => {
            let what = match interface.split_once('/').map_or(interface, |(package, _)| package) {
                "wasi:sockets" => "reaches for the network",
                "wasi:http" => "makes an HTTP request",
                "wasi:filesystem" => "reaches for files",
                _ => "calls what gives other answers at another time",
            };
            let message = format!(
                "{what} ({interface}#{function}), and replay could not repeat it: do this in an activity, and await it with `ctx.call`"
            );
            linker.func_new(function, move |_, _, _, _| Err(Denied::error(message.clone())))
        }
    }
}

fn stream(linker: &mut LinkerInstance<'_, GuestState>, function: &str, number: u32) -> wasmtime::Result<()> {
    linker.func_wrap(function, move |_: Cx<'_>, (): ()| Ok((Resource::<Handle>::new_own(number),)))
}

fn cannot_block() -> wasmtime::Error {
    let message = "blocks its thread (as `std::thread::sleep` does), but an orchestrator only ever waits for durable tasks: await \
                   what `ctx` offers, or do this in an activity";
    Denied::error(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every stored execution that drew randomness replays only as long as these stay.
    #[test]
    fn the_randomness_of_a_seed_never_changes() {
        let mut random = random(Seed([7; 16]));
        assert_eq!([random.next_u64(), random.next_u64()], [13_332_022_244_543_326_938, 6_724_864_288_149_190_636]);
    }
}
