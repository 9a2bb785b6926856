//! What may an activity be called with?

/// What may stand for an input of type `T` in a call: everything that converts into one.
#[diagnostic::on_unimplemented(
    message = "this activity takes `{T}`, and is given `{Self}`",
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
