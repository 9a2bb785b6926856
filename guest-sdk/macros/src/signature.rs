//! Which functions may carry an attribute, and what is said to the others.
//!
//! Every error points at the part of the user's code that has to change and says what to write there.

use std::mem::discriminant;

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Error, FnArg, ItemFn, LitStr, Result, ReturnType, Safety, Signature, Token, Type};

/// Which attribute it is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    Activity,
    Orchestrator,
}

impl Role {
    /// The attribute's name.
    pub(crate) fn attribute(self) -> &'static str {
        match self {
            Self::Activity => "activity",
            Self::Orchestrator => "orchestrator",
        }
    }

    fn arguments(self) -> &'static str {
        match self {
            Self::Activity => "an activity takes at most one input, and an `ActivityContext` if it wants one",
            Self::Orchestrator => "an orchestrator takes `ctx: Context` and at most one input",
        }
    }
}

/// One argument of the function.
#[derive(Clone, Copy)]
pub(crate) enum Argument<'a> {
    Context,
    Input(&'a Type),
}

/// What the function takes and returns.
pub(crate) struct Shape<'a> {
    /// In the order of the source; at most one of each kind.
    pub(crate) arguments: Vec<Argument<'a>>,
    /// What stands behind `->`.
    pub(crate) returned: &'a Type,
}

/// Parses the item below the attribute.
pub(crate) fn parse_function(role: Role, function: TokenStream) -> Result<ItemFn> {
    syn::parse2(function).map_err(|error| {
        let message = format!("`#[{}]` goes on an `async fn`: {error}", role.attribute());
        Error::new(error.span(), message)
    })
}

/// Checks a signature and takes it apart.
pub(crate) fn shape(role: Role, signature: &Signature) -> Result<Shape<'_>> {
    check_qualifiers(role, signature)?;
    let mut shape = Shape { arguments: Vec::new(), returned: returned(role, signature)? };
    for argument in &signature.inputs {
        let kind = classify(role, shape.arguments.len(), argument)?;
        if shape.arguments.iter().any(|known| discriminant(known) == discriminant(&kind)) {
            let message = format!("{}; put several values into a tuple or a struct", role.arguments());
            return Err(Error::new_spanned(argument, message));
        }
        shape.arguments.push(kind);
    }
    if role == Role::Orchestrator && shape.arguments.is_empty() {
        let message = format!("{}: write `async fn {}(ctx: Context)`", role.arguments(), signature.ident);
        return Err(Error::new(signature.paren_token.span.join(), message));
    }
    Ok(shape)
}

fn check_qualifiers(role: Role, signature: &Signature) -> Result<()> {
    let name = role.attribute();
    if signature.asyncness.is_none() {
        let message = format!("write `async fn`: an {name} is asynchronous");
        return Err(Error::new_spanned(signature.fn_token, message));
    }
    if !signature.generics.params.is_empty() {
        let message = format!("write concrete types: an {name} is known by its name alone, so it cannot be generic");
        return Err(Error::new_spanned(&signature.generics.params, message));
    }
    let is_safe_rust = matches!(signature.safety, Safety::Default) && signature.abi.is_none();
    if signature.constness.is_some() || !is_safe_rust {
        return Err(Error::new_spanned(signature, format!("an {name} is a plain `async fn` with nothing before `async`")));
    }
    Ok(())
}

fn classify(role: Role, index: usize, argument: &FnArg) -> Result<Argument<'_>> {
    let argument = match argument {
        FnArg::Typed(argument) => argument,
        FnArg::Receiver(receiver) => {
            let message = format!("an {} is a free function without `self`: move it out of the `impl`", role.attribute());
            return Err(Error::new_spanned(receiver, message));
        }
    };
    let is_context = match role {
        Role::Activity => is_path_to(&argument.ty, "ActivityContext"),
        Role::Orchestrator => index == 0,
    };
    match &*argument.ty {
        Type::Reference(reference) => {
            let message = "take it by value, such as `String` instead of `&str`: it is kept across awaits";
            Err(Error::new_spanned(reference, message))
        }
        Type::ImplTrait(open) => Err(Error::new_spanned(open, "write a concrete type: the input is read from JSON as this type")),
        _ if is_context => Ok(Argument::Context),
        _ if role == Role::Activity && is_path_to(&argument.ty, "Context") => {
            let message = "only orchestrators have a `Context`; an activity may take an `ActivityContext`";
            Err(Error::new_spanned(&argument.ty, message))
        }
        input => Ok(Argument::Input(input)),
    }
}

fn is_path_to(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

fn returned(role: Role, signature: &Signature) -> Result<&Type> {
    match &signature.output {
        ReturnType::Type(_, returned) => Ok(returned),
        ReturnType::Default => {
            let message = format!("write `-> Result<()>` behind this: an {} can fail", role.attribute());
            Err(Error::new(signature.paren_token.span.close(), message))
        }
    }
}

/// What stands in the attribute's parentheses: nothing, or `name = "…"`.
pub(crate) struct Arguments {
    pub(crate) name: Option<LitStr>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.is_empty() {
            return Ok(Self { name: None });
        }
        let key = input.call(syn::Ident::parse_any)?;
        if key != "name" {
            return Err(Error::new_spanned(key, "the only argument is `name = \"…\"`"));
        }
        input.parse::<Token![=]>()?;
        let name: LitStr = input.parse()?;
        input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            return Err(input.error("the only argument is `name = \"…\"`"));
        }
        check_name(&name.value(), name.span())?;
        Ok(Self { name: Some(name) })
    }
}

/// The rules of the guest contract for names.
pub(crate) fn check_name(name: &str, span: Span) -> Result<()> {
    let fault = if name.is_empty() {
        "a name has at least one character".to_owned()
    } else if name.chars().count() > NAME_CHARS_MAX {
        format!("a name has at most {NAME_CHARS_MAX} characters")
    } else if let Some(bad) = name.chars().find(|c| matches!(c, '/' | '\\' | '#' | '?') || c.is_control()) {
        format!("a name is part of URLs: leave out {bad:?}")
    } else {
        return Ok(());
    };
    Err(Error::new(span, fault))
}

/// From `wit/guest.wit`.
const NAME_CHARS_MAX: usize = 256;
