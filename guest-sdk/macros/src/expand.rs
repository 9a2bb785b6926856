//! What an attribute makes of a function.
//!
//! `async fn bake(loaf: Loaf) -> Result<Bread>` becomes `fn bake() -> impl Activity<Input = Loaf, Output = Bread>`: a function
//! that can be named in calls and shadowed by variables like any other, and whose type says all about the activity. The
//! body moves into an associated function of a type within, where no name of the user's can clash with it.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, ItemFn, Result, Type, parse_quote};

use crate::signature::{Argument, Arguments, Role, check_name, parse_function, shape, value};

/// The item that replaces `function`, or the error that says what is wrong with it.
pub(crate) fn expand(role: Role, arguments: TokenStream, function: TokenStream) -> TokenStream {
    try_expand(role, arguments, function).unwrap_or_else(syn::Error::into_compile_error)
}

fn try_expand(role: Role, arguments: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let arguments: Arguments = syn::parse2(arguments)?;
    let ItemFn { attrs, vis, sig, block, .. } = parse_function(role, function)?;
    let shape = shape(role, &sig)?;

    let ident = &sig.ident;
    let name = arguments.name.map_or_else(|| ident.to_string().trim_start_matches("r#").to_owned(), |name| name.value());
    check_name(&name, ident.span())?;

    let unit: Type = parse_quote!(());
    let input = shape.arguments.iter().find_map(|argument| match argument {
        Argument::Input(ty) => Some(*ty),
        Argument::Context => None,
    });
    let input = input.unwrap_or(&unit);
    let returned = shape.returned;
    let Words { function_trait, context, options, entry } = Words::of(role);

    // Errors about what is returned point at it: at the `T` of a `Result<T>`, or at something that is none.
    let at = value(returned).unwrap_or(returned).span();
    let output = quote_spanned!(at=> <#returned as ::dacapo_guest::__private::Fallible>::Value);
    let into_result = quote_spanned!(at=> <#returned as ::dacapo_guest::__private::Fallible>::into_result);
    let passed = shape.arguments.iter().map(|argument| match argument {
        Argument::Context => format_ident!("context"),
        Argument::Input(_) => format_ident!("input"),
    });

    Ok(quote! {
        #(#attrs)*
        #vis fn #ident() -> impl ::dacapo_guest::#function_trait<Input = #input, Output = #output> {
            struct __Definition;

            impl __Definition {
                #sig #block
            }

            impl ::dacapo_guest::Function for __Definition {
                const NAME: &'static str = #name;
                type Input = #input;
                type Output = #output;
                type Options = ::dacapo_guest::#options;
                const ENTRY: ::dacapo_guest::__private::Entry = ::dacapo_guest::__private::Entry::#entry::<Self>();
            }

            impl ::dacapo_guest::#function_trait for __Definition {
                #[allow(unused_variables, reason = "not every function takes both")]
                async fn run(context: ::dacapo_guest::#context, input: #input) -> ::dacapo_guest::Result<#output> {
                    #into_result(Self::#ident(#(#passed),*).await)
                }
            }

            __Definition
        }
    })
}

/// The names in `dacapo_guest` that belong to a role.
struct Words {
    function_trait: Ident,
    context: Ident,
    options: Ident,
    entry: Ident,
}

impl Words {
    fn of(role: Role) -> Self {
        let (function_trait, options) = match role {
            Role::Activity => ("Activity", "ActivityOptions"),
            Role::Orchestrator => ("Orchestrator", "ChildOptions"),
        };
        Self {
            function_trait: format_ident!("{function_trait}"),
            context: format_ident!("{}", role.context()),
            options: format_ident!("{options}"),
            entry: format_ident!("{}", role.attribute()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expands `#[role(arguments)] function` and expects an error that contains `expected`, at the text `at`.
    #[track_caller]
    fn check_refused(role: Role, arguments: &str, function: &str, at: &str, expected: &str) {
        let error = try_expand(role, arguments.parse().unwrap(), function.parse().unwrap()).expect_err("is refused");
        assert!(error.to_string().contains(expected), "{error}");
        let place = error.span().source_text().unwrap_or_default();
        assert_eq!(place, at, "{error}");
    }

    fn check_accepted(role: Role, arguments: &str, function: &str) -> String {
        let expanded = try_expand(role, arguments.parse().unwrap(), function.parse().unwrap()).expect("is accepted");
        syn::parse2::<ItemFn>(expanded.clone()).expect("is a function");
        expanded.to_string()
    }

    #[test]
    fn a_function_is_called_by_its_own_name_or_by_a_given_one() {
        let source = "async fn bake(loaf: Loaf) -> Result<Bread> { oven(loaf) }";
        assert!(check_accepted(Role::Activity, "", source).contains("= \"bake\""));
        assert!(check_accepted(Role::Activity, "name = \"Bake bread\",", source).contains("= \"Bake bread\""));
    }

    #[test]
    fn the_context_of_an_activity_may_stand_on_either_side() {
        check_accepted(Role::Activity, "", "async fn bake(c: ActivityContext, loaf: Loaf) -> Result<()> {}");
        check_accepted(Role::Activity, "", "async fn bake(loaf: Loaf, c: dacapo_guest::ActivityContext) -> Result<()> {}");
    }

    #[test]
    fn an_unknown_argument_of_the_attribute_is_refused() {
        let source = "async fn bake() -> Result<()> {}";
        check_refused(Role::Activity, "nome = \"x\"", source, "nome", "the only argument is `name");
        check_refused(Role::Activity, "name = \"a/b\"", source, "\"a/b\"", "leave out '/'");
        check_refused(Role::Activity, "name = \"\"", source, "\"\"", "at least one character");
    }

    #[test]
    fn a_function_that_is_not_async_is_refused() {
        check_refused(Role::Activity, "", "fn bake() -> Result<()> {}", "fn", "write `async fn`");
    }

    #[test]
    fn self_is_refused() {
        check_refused(Role::Activity, "", "async fn bake(&self) -> Result<()> {}", "&self", "free function");
    }

    #[test]
    fn generics_are_refused() {
        check_refused(Role::Activity, "", "async fn bake<T>(loaf: T) -> Result<()> {}", "T", "cannot be generic");
        let source = "async fn bake(loaf: impl Loaf) -> Result<()> {}";
        check_refused(Role::Activity, "", source, "impl Loaf", "concrete type");
    }

    #[test]
    fn a_missing_return_type_is_refused() {
        check_refused(Role::Activity, "", "async fn bake() {}", ")", "write `-> Result<()>`");
    }

    #[test]
    fn a_second_input_is_refused() {
        let source = "async fn bake(a: u8, b: u8) -> Result<()> {}";
        check_refused(Role::Activity, "", source, "b: u8", "at most one input");
        let source = "async fn bake(ctx: Context, a: u8, b: u8) -> Result<()> {}";
        check_refused(Role::Orchestrator, "", source, "b: u8", "at most one input");
    }

    #[test]
    fn an_orchestrator_without_context_is_refused() {
        check_refused(Role::Orchestrator, "", "async fn bake() -> Result<()> {}", "()", "`async fn bake(ctx: Context)`");
    }

    #[test]
    fn an_activity_with_an_orchestrators_context_is_refused() {
        let source = "async fn bake(ctx: Context) -> Result<()> {}";
        check_refused(Role::Activity, "", source, "Context", "only orchestrators have a `Context`");
    }

    #[test]
    fn a_borrowed_input_is_refused() {
        let source = "async fn bake(loaf: &str) -> Result<()> {}";
        check_refused(Role::Activity, "", source, "&str", "by value");
    }

    #[test]
    fn anything_but_a_function_is_refused() {
        check_refused(Role::Activity, "", "struct Bake;", "struct", "goes on an `async fn`");
    }
}
