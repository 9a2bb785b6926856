//! Functions that misbehave. The server has to survive each of them and say what it did.

use std::hint::black_box;

use dacapo_guest::prelude::*;

/// Never gives its thread back.
#[orchestrator(name = "Loop")]
pub(crate) async fn loop_for_ever(_ctx: Context) -> Result<()> {
    spin()
}

/// Panics in its first turn.
#[orchestrator(name = "Panic")]
pub(crate) async fn panic(_ctx: Context) -> Result<()> {
    panic!("the oven is cold")
}

/// Takes memory without end and keeps it.
#[orchestrator(name = "Grow")]
pub(crate) async fn grow(_ctx: Context) -> Result<()> {
    take_all_memory()
}

/// Runs out of stack.
#[orchestrator(name = "Recurse")]
pub(crate) async fn recurse(_ctx: Context) -> Result<u64> {
    Ok(descend(0))
}

#[allow(unconditional_recursion, reason = "that is what it is for")]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    black_box(descend(depth + 1)) + frame[0]
}

/// Looks for a file, which no orchestrator has, and returns what it is told.
#[orchestrator(name = "ReadFile")]
pub(crate) async fn read_file(_ctx: Context) -> Result<String> {
    match std::fs::read("/etc/hostname") {
        Ok(_) => bail!("an orchestrator has read a file"),
        Err(error) => Ok(error.to_string()),
    }
}

/// Waits for what never comes, and asks the host for nothing.
#[orchestrator(name = "Forever")]
pub(crate) async fn forever(_ctx: Context) -> Result<()> {
    std::future::pending().await
}

/// Calls `PanicActivity`.
#[orchestrator(name = "CallPanicActivity")]
pub(crate) async fn call_panic(ctx: Context) -> Result<()> {
    ctx.call(panic_activity, ()).await
}

/// Calls `LoopActivity`.
#[orchestrator(name = "CallLoopActivity")]
pub(crate) async fn call_loop(ctx: Context) -> Result<()> {
    ctx.call(loop_activity, ()).await
}

/// Panics.
#[activity(name = "PanicActivity")]
pub(crate) async fn panic_activity() -> Result<()> {
    panic!("the oven is on fire")
}

/// Never comes back.
#[activity(name = "LoopActivity")]
pub(crate) async fn loop_activity() -> Result<()> {
    spin()
}

/// Takes the fourth of three.
#[orchestrator(name = "OutOfBounds")]
pub(crate) async fn out_of_bounds(_ctx: Context) -> Result<u32> {
    let loaves = black_box(vec![1, 2, 3]);
    Ok(loaves[black_box(3)])
}

/// Expects what is not so.
#[orchestrator(name = "Unwrap")]
pub(crate) async fn unwrap(_ctx: Context) -> Result<u32> {
    Ok(black_box("two").parse::<u32>().expect("a number of loaves"))
}

/// Divides by nothing, in a function of its own.
#[orchestrator(name = "DivideByZero")]
pub(crate) async fn divide_by_zero(_ctx: Context) -> Result<u32> {
    Ok(share(7, black_box(0)))
}

#[inline(never)]
fn share(loaves: u32, guests: u32) -> u32 {
    loaves / guests
}

/// Reads a file and fails with what it is told.
#[orchestrator(name = "NeedFile")]
pub(crate) async fn need_file(_ctx: Context) -> Result<String> {
    Ok(std::fs::read_to_string("/etc/recipe")?)
}

/// Reads the environment and fails with what it is told.
#[orchestrator(name = "NeedEnvironment")]
pub(crate) async fn need_environment(_ctx: Context) -> Result<String> {
    Ok(std::env::var("RECIPE")?)
}

/// Opens a connection.
#[orchestrator(name = "Connect")]
pub(crate) async fn connect(_ctx: Context) -> Result<()> {
    std::net::TcpStream::connect("127.0.0.1:80")?;
    Ok(())
}

/// Starts a thread.
#[orchestrator(name = "SpawnThread")]
pub(crate) async fn spawn_thread(_ctx: Context) -> Result<()> {
    std::thread::spawn(|| ());
    Ok(())
}

/// Sleeps without the host.
#[orchestrator(name = "SleepThread")]
pub(crate) async fn sleep_thread(_ctx: Context) -> Result<()> {
    std::thread::sleep(std::time::Duration::from_secs(1));
    Ok(())
}

/// Ends its process.
#[orchestrator(name = "Exit")]
pub(crate) async fn exit(_ctx: Context) -> Result<()> {
    std::process::exit(3)
}

/// Fails with an error that has a cause.
#[orchestrator(name = "FailWithCauses")]
pub(crate) async fn fail_with_causes(_ctx: Context) -> Result<()> {
    let loaves: Result<u32> = "two".parse().map_err(Error::from);
    loaves.map(drop).map_err(|cause| Error::new("OrderRefused", "the order cannot be read").caused_by(cause))
}

/// Calls an activity by a name that is nearly one.
#[orchestrator(name = "MistypedActivity")]
pub(crate) async fn mistyped_activity(ctx: Context) -> Result<u32> {
    ctx.call_named("Ecko", &1).await
}

/// Calls an activity with something else than it takes.
#[orchestrator(name = "WrongInput")]
pub(crate) async fn wrong_input(ctx: Context) -> Result<u32> {
    ctx.call_named("Echo", &"one").await
}

/// Reads an answer as something else than it is.
#[orchestrator(name = "WrongOutput")]
pub(crate) async fn wrong_output(ctx: Context) -> Result<String> {
    ctx.call_named("Echo", &1).await
}

/// Calls an activity of this name, which fails in its own way.
#[orchestrator(name = "CallActivity")]
pub(crate) async fn call_activity(ctx: Context, name: String) -> Result<()> {
    ctx.call_named(&name, &()).await
}

/// Asks for `Echo`, and then for what never comes back: somebody may look at its history in between.
#[orchestrator(name = "EchoThenLoop")]
pub(crate) async fn echo_then_loop(ctx: Context) -> Result<()> {
    ctx.call_named::<u32>("Echo", &1).await?;
    ctx.call(loop_activity, ()).await
}

/// Takes the fourth of three.
#[activity(name = "OutOfBoundsActivity")]
pub(crate) async fn out_of_bounds_activity() -> Result<u32> {
    let loaves = black_box(vec![1, 2, 3]);
    Ok(loaves[black_box(3)])
}

/// Runs out of stack.
#[activity(name = "RecurseActivity")]
pub(crate) async fn recurse_activity() -> Result<u64> {
    Ok(descend(0))
}

/// Takes memory without end and keeps it.
#[activity(name = "GrowActivity")]
pub(crate) async fn grow_activity() -> Result<()> {
    take_all_memory()
}

/// Writes a file.
#[activity(name = "WriteFileActivity")]
pub(crate) async fn write_file_activity() -> Result<()> {
    std::fs::write("/tmp/recipe", "flour")?;
    Ok(())
}

/// Opens a connection.
#[activity(name = "ConnectActivity")]
pub(crate) async fn connect_activity() -> Result<()> {
    std::net::TcpStream::connect("127.0.0.1:80")?;
    Ok(())
}

/// Ends its process.
#[activity(name = "ExitActivity")]
pub(crate) async fn exit_activity() -> Result<()> {
    std::process::exit(3)
}

fn take_all_memory() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1_u8; 1 << 20]));
        black_box(&kept);
    }
}

fn spin() -> ! {
    loop {
        black_box(());
    }
}
