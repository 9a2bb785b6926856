//! Which functions may carry an attribute, and what is said to the others.
//!
//! Every error points at the part of the user's code that has to change and says what to write there.

use std::mem::discriminant;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens as _;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{
    Error, FnArg, GenericArgument, ItemFn, LitStr, PathArguments, Result, ReturnType, Safety, Signature, Token, Type,
    TypeReference,
};

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

    /// What its context is called.
    pub(crate) fn context(self) -> &'static str {
        match self {
            Self::Activity => "ActivityContext",
            Self::Orchestrator => "Context",
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
        let message = format!("`#[{}]` goes on an `async fn` with a body: {error}", role.attribute());
        Error::new(error.span(), message)
    })
}

/// Checks a signature and takes it apart.
pub(crate) fn shape(role: Role, signature: &Signature) -> Result<Shape<'_>> {
    check_qualifiers(role, signature)?;
    let mut shape = Shape { arguments: Vec::new(), returned: returned(role, signature)? };
    for argument in &signature.inputs {
        let kind = classify(role, argument)?;
        if shape.arguments.iter().any(|known| discriminant(known) == discriminant(&kind)) {
            let advice = match kind {
                Argument::Context => "leave this one out",
                Argument::Input(_) => "put several values into a tuple or a struct",
            };
            return Err(Error::new_spanned(argument, format!("{}: {advice}", role.arguments())));
        }
        shape.arguments.push(kind);
    }
    if role == Role::Orchestrator {
        check_context_comes_first(signature, &shape)?;
    }
    Ok(shape)
}

fn check_context_comes_first(signature: &Signature, shape: &Shape<'_>) -> Result<()> {
    let with = |input: &str| format!("write `async fn {}(ctx: Context{input})`", signature.ident);
    let is_context = |argument: &Argument<'_>| matches!(argument, Argument::Context);
    let Some(first) = signature.inputs.first() else {
        let message = format!("{}: {}", Role::Orchestrator.arguments(), with(""));
        return Err(Error::new(signature.paren_token.span.join(), message));
    };
    match shape.arguments.iter().position(is_context) {
        Some(0) => Ok(()),
        Some(_) => Err(Error::new_spanned(first, format!("the context of an orchestrator comes first: {}", with(", …")))),
        None => Err(Error::new_spanned(first, format!("{}: {}", Role::Orchestrator.arguments(), with(", …")))),
    }
}

fn check_qualifiers(role: Role, signature: &Signature) -> Result<()> {
    let name = role.attribute();
    if signature.asyncness.is_none() {
        let message = format!("write `async fn`: an {name} is asynchronous, even if it awaits nothing");
        return Err(Error::new_spanned(signature.fn_token, message));
    }
    if !signature.generics.params.is_empty() {
        let message = format!("write concrete types: an {name} is known by its name alone, so it cannot be generic");
        return Err(Error::new_spanned(&signature.generics.params, message));
    }
    let is_safe_rust = matches!(signature.safety, Safety::Default) && signature.abi.is_none();
    if signature.constness.is_some() || !is_safe_rust {
        let message = format!("write a plain `async fn`, without another keyword: the host calls an {name} by its name alone");
        return Err(Error::new_spanned(signature, message));
    }
    Ok(())
}

fn classify(role: Role, argument: &FnArg) -> Result<Argument<'_>> {
    let argument = match argument {
        FnArg::Typed(argument) => argument,
        FnArg::Receiver(receiver) => {
            let message = format!("an {} is a free function without `self`: move it out of the `impl`", role.attribute());
            return Err(Error::new_spanned(receiver, message));
        }
    };
    match &*argument.ty {
        Type::Reference(reference) => {
            let message = format!(
                "write `{}`: the host hands it over by value, and nobody keeps what it could borrow from",
                owned(reference)
            );
            Err(Error::new_spanned(reference, message))
        }
        Type::ImplTrait(open) => Err(Error::new_spanned(open, "write a concrete type: the input is read from JSON as this type")),
        ty if is_path_to(ty, role.context()) => Ok(Argument::Context),
        ty if is_path_to(ty, "Context") => {
            let message = "only orchestrators have a `Context`: leave it out and do what needs it in the orchestrator that calls this, or \
                           take an `ActivityContext` to know which call this is";
            Err(Error::new_spanned(ty, message))
        }
        ty if is_path_to(ty, "ActivityContext") => {
            Err(Error::new_spanned(ty, "only activities have an `ActivityContext`: write `ctx: Context`"))
        }
        input => Ok(Argument::Input(input)),
    }
}

/// What to write in place of a reference.
fn owned(reference: &TypeReference) -> String {
    match &*reference.elem {
        Type::Slice(slice) => format!("Vec<{}>", source(&slice.elem)),
        ty if is_path_to(ty, "str") => "String".to_owned(),
        ty => source(ty),
    }
}

fn source(ty: &Type) -> String {
    ty.to_token_stream().to_string().replace(' ', "")
}

fn is_path_to(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

fn returned(role: Role, signature: &Signature) -> Result<&Type> {
    match &signature.output {
        ReturnType::Type(_, returned) => match value(returned) {
            Some(value) if is_path_to(value, "Context") => {
                let message = "a `Context` belongs to its execution and cannot leave it: return what it told you, such as `ctx.instance_id()`";
                Err(Error::new_spanned(value, message))
            }
            None if is_plain(returned) => {
                let message = format!("write `Result<{}>`: an {} always returns a result", source(returned), role.attribute());
                Err(Error::new_spanned(returned, message))
            }
            _ => Ok(returned),
        },
        ReturnType::Default => {
            let message =
                format!("write `-> Result<()>` behind this: an {} always returns a result, if only of nothing", role.attribute());
            Err(Error::new(signature.paren_token.span.close(), message))
        }
    }
}

/// Whether a type is none that could be an alias of `Result`.
fn is_plain(ty: &Type) -> bool {
    const NAMES: [&str; 13] =
        ["String", "Vec", "Option", "Box", "bool", "char", "u32", "i32", "u64", "i64", "usize", "f64", "HashMap"];
    matches!(ty, Type::Tuple(_) | Type::Array(_) | Type::Reference(_)) || NAMES.iter().any(|name| is_path_to(ty, name))
}

/// The `T` of a `Result<T>`, if what is returned is spelled like that.
pub(crate) fn value(returned: &Type) -> Option<&Type> {
    let Type::Path(path) = returned else { return None };
    let result = path.path.segments.last().filter(|last| last.ident == "Result")?;
    let PathArguments::AngleBracketed(arguments) = &result.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(value) => Some(value),
        _ => None,
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
        let refused = |at: Span| Error::new(at, "the only argument is `name = \"…\"`, the name that callers use");
        let at = input.span();
        let name: LitStr = match input.call(syn::Ident::parse_any) {
            Ok(key) if key == "name" && input.parse::<Token![=]>().is_ok() => {
                let at = input.span();
                input.parse().map_err(|_| Error::new(at, "a name stands in quotes: `name = \"…\"`"))?
            }
            _ => return Err(refused(at)),
        };
        input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            return Err(refused(input.span()));
        }
        check_name(&name.value(), name.span())?;
        Ok(Self { name: Some(name) })
    }
}

/// The rules of the guest contract for names.
pub(crate) fn check_name(name: &str, span: Span) -> Result<()> {
    let fault = if name.is_empty() {
        "a name has at least one character; without `name = …` the function's own is taken".to_owned()
    } else if name.chars().count() > NAME_CHARS_MAX {
        format!("this name has {} characters, and may have {NAME_CHARS_MAX}", name.chars().count())
    } else if let Some(bad) = name.chars().find(|c| matches!(c, '/' | '\\' | '#' | '?') || c.is_control()) {
        format!("a name is part of URLs: leave out {bad:?}")
    } else {
        return Ok(());
    };
    Err(Error::new(span, fault))
}

/// From `wit/guest.wit`.
const NAME_CHARS_MAX: usize = 256;
