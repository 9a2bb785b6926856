//! The attributes of `dacapo-guest`, which re-exports them and documents what they make of a function.

use proc_macro::TokenStream;

mod expand;
mod signature;

/// Makes an `async fn` an activity: a function that does work which may take time, fail, and touch the world.
///
/// It takes at most one input, and beside it, if it wants to know which call it is, an `ActivityContext`. It returns
/// `Result<T>`, or a `Result<T, E>` with any error. Input and output have to be serialisable with serde.
///
/// Callers know it by the function's name, or by another one: `#[activity(name = "E1_SayHello")]`.
#[proc_macro_attribute]
pub fn activity(arguments: TokenStream, function: TokenStream) -> TokenStream {
    expand::expand(signature::Role::Activity, arguments.into(), function.into()).into()
}

/// Makes an `async fn` an orchestrator: a function that says durably what is done in which order.
///
/// It takes a `Context` and at most one input, and returns `Result<T>`, or a `Result<T, E>` with any error. The input has
/// to be deserialisable and the output serialisable with serde.
///
/// Callers know it by the function's name, or by another one: `#[orchestrator(name = "E1_HelloSequence")]`.
#[proc_macro_attribute]
pub fn orchestrator(arguments: TokenStream, function: TokenStream) -> TokenStream {
    expand::expand(signature::Role::Orchestrator, arguments.into(), function.into()).into()
}
