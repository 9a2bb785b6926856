//! What may a function be called with?

/// What may stand for an input of type `T` in a call: everything that converts into one.
#[diagnostic::on_unimplemented(
    message = "this function takes `{T}`, and is given `{Self}`",
    label = "hand over `{T}`, or what converts into one; a number may need its type, as in `7_u64`"
)]
pub trait IntoInput<T> {
    /// The input.
    fn into_input(self) -> T;
}

#[diagnostic::do_not_recommend]
impl<T, I: Into<T>> IntoInput<T> for I {
    fn into_input(self) -> T {
        self.into()
    }
}

/// What may stand for options of type `O` in a call: everything that converts into them, such as a
/// [`RetryPolicy`](crate::RetryPolicy).
#[diagnostic::on_unimplemented(
    message = "this call takes `{O}`, and is given `{Self}`",
    label = "hand over a `RetryPolicy`; `ActivityOptions` if an activity is called, or `ChildOptions` if an orchestrator is"
)]
pub trait IntoOptions<O> {
    /// The options.
    fn into_options(self) -> O;
}

#[diagnostic::do_not_recommend]
impl<O, I: Into<O>> IntoOptions<O> for I {
    fn into_options(self) -> O {
        self.into()
    }
}
