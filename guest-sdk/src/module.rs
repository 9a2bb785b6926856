//! How do the functions of a module meet the host? `module!` exports them, and this file answers the host's calls.

use std::cell::RefCell;
use std::future;
use std::marker::PhantomData;

use crate::bindings::exports::dacapo::guest::{activity, catalog, orchestrator, query};
use crate::executor::Executor;
use crate::function::{Definition, Entry};
use crate::{ActivityContext, Error, Result, log};

/// Makes a module of these functions. Goes into the root of a `cdylib` crate, once.
///
/// ```
/// # use dacapo_guest::prelude::*;
/// # #[activity] async fn charge(cents: u32) -> Result<()> { Ok(()) }
/// # #[orchestrator] async fn order(ctx: Context, cents: u32) -> Result<()> { ctx.call(charge, cents).await }
/// dacapo_guest::module!(order, charge);
/// # fn main() {}
/// ```
///
/// Names are compared without case, and two functions with the same one do not compile.
#[macro_export]
macro_rules! module {
    ($($function:path),+ $(,)?) => {
        const _: () = {
            const FUNCTIONS: &[$crate::__private::Definition] = &[$($crate::__private::define($function)),+];
            $crate::__private::assert_names_differ(FUNCTIONS);

            /// Outside a host there is nobody to export this to, but it is compiled all the same.
            #[allow(dead_code)]
            struct Functions;

            impl $crate::__private::Module for Functions {
                const FUNCTIONS: &'static [$crate::__private::Definition] = FUNCTIONS;
            }

            #[cfg(target_family = "wasm")]
            #[allow(unsafe_code, reason = "a component's exports pass values as raw parts")]
            const _: () = {
                type Exports = $crate::__private::Exports<Functions>;
                $crate::__private::export!(Exports with_types_in $crate::__private);
            };
        };
    };
}

/// What `module!` lists.
pub trait Module {
    /// In the order of the list.
    const FUNCTIONS: &'static [Definition];
}

/// The exports of `M`.
pub struct Exports<M>(PhantomData<M>);

thread_local! {
    /// The one execution of this component instance, from `begin` on.
    static EXECUTION: RefCell<Option<Executor>> = const { RefCell::new(None) };
}

impl<M: Module> catalog::Guest for Exports<M> {
    fn describe() -> catalog::Description {
        let functions = M::FUNCTIONS.iter().map(|function| catalog::Function {
            name: function.name.to_owned(),
            role: match function.entry {
                Entry::Orchestrator(_) => catalog::Role::Orchestrator,
                Entry::Activity(_) => catalog::Role::Activity,
            },
            properties: Vec::new(),
        });
        catalog::Description {
            generator: concat!("dacapo-guest ", env!("CARGO_PKG_VERSION")).to_owned(),
            functions: functions.collect(),
        }
    }
}

impl<M: Module> orchestrator::Guest for Exports<M> {
    fn begin(start: orchestrator::Start) {
        log::report_panics();
        EXECUTION.set(Some(prepare(M::FUNCTIONS, start)));
    }

    fn advance(events: Vec<orchestrator::Event>) -> orchestrator::Progress {
        EXECUTION
            .with_borrow_mut(|execution| execution.as_mut().expect("the host calls `begin` before `advance`").advance(events))
    }
}

impl<M: Module> query::Guest for Exports<M> {
    fn ask(question: query::Question) -> Result<String, query::Failure> {
        EXECUTION.with_borrow(|execution| {
            let execution = execution.as_ref().expect("the host calls `begin` before `ask`");
            execution.ask(&question.name, &question.input).map_err(Error::into_failure)
        })
    }
}

impl<M: Module> activity::Guest for Exports<M> {
    fn invoke(invocation: activity::Invocation) -> Result<String, activity::Failure> {
        log::report_panics();
        invoke(M::FUNCTIONS, invocation).map_err(Error::into_failure)
    }
}

/// Prepares an execution; one of an unknown function fails in its first turn, since `begin` has no way to say it.
fn prepare(functions: &[Definition], start: orchestrator::Start) -> Executor {
    let run = functions.iter().find_map(|function| match function.entry {
        Entry::Orchestrator(run) if function.name == start.function => Some(run),
        _ => None,
    });
    let unknown = unknown("orchestrator", &start.function);
    Executor::new(start, |context, input| match run {
        Some(run) => run(context, input),
        None => Box::pin(future::ready(Err(unknown))),
    })
}

fn invoke(functions: &[Definition], invocation: activity::Invocation) -> Result<String> {
    let run = functions.iter().find_map(|function| match function.entry {
        Entry::Activity(run) if function.name == invocation.function => Some(run),
        _ => None,
    });
    let Some(run) = run else { return Err(unknown("activity", &invocation.function)) };
    let context = ActivityContext {
        instance_id: invocation.instance_id,
        task: invocation.task,
        attempt: invocation.attempt,
        idempotency_key: invocation.idempotency_key,
        progress: invocation.progress,
        ..ActivityContext::default()
    };
    run(context, invocation.input)
}

fn unknown(role: &str, name: &str) -> Error {
    Error::new("UnknownFunction", format!("this module has no {role} {name}")).non_retriable()
}

/// For `module!`, at compile time: no two names are the same but for the case of ASCII letters.
pub const fn assert_names_differ(functions: &[Definition]) {
    let mut first = 0;
    while first < functions.len() {
        let mut second = first + 1;
        while second < functions.len() {
            let (one, other) = (functions[first].name, functions[second].name);
            if one.eq_ignore_ascii_case(other) {
                panic!(
                    "{}",
                    Sentence::of(&["two functions of this module are called `", one, "` and `", other, SAME_NAME]).text()
                );
            }
            second += 1;
        }
        first += 1;
    }
}

/// The end of a sentence whose beginning says which two.
const SAME_NAME: &str = "`, and callers write names in any case: \
                         list each once, and give one of two another name, as in `#[activity(name = \"…\")]`";

/// A message of a panic at compile time, where nothing can be formatted.
struct Sentence {
    bytes: [u8; 1 << 10],
    length: usize,
}

impl Sentence {
    const fn of(parts: &[&str]) -> Self {
        let mut sentence = Self { bytes: [0; 1 << 10], length: 0 };
        let mut part = 0;
        while part < parts.len() {
            let bytes = parts[part].as_bytes();
            let mut byte = 0;
            while byte < bytes.len() && sentence.length < sentence.bytes.len() {
                sentence.bytes[sentence.length] = bytes[byte];
                (byte, sentence.length) = (byte + 1, sentence.length + 1);
            }
            part += 1;
        }
        sentence
    }

    const fn text(&self) -> &str {
        match str::from_utf8(self.bytes.split_at(self.length).0) {
            Ok(text) => text,
            Err(_) => "two functions of this module have the same name", // Long names were cut within a character.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::__private::define;
    use crate::prelude::*;

    #[activity]
    async fn weigh(loaf: String) -> Result<usize> {
        Ok(loaf.len())
    }

    #[orchestrator]
    async fn bake(ctx: Context, loaf: String) -> Result<usize> {
        ctx.call(weigh, loaf).await
    }

    crate::module!(weigh, bake);

    const FUNCTIONS: [Definition; 2] = [define(weigh), define(bake)];

    fn start(function: &str, input: &str) -> orchestrator::Start {
        orchestrator::Start {
            function: function.to_owned(),
            instance_id: "loaf".to_owned(),
            generation: "0123456789abcdef0123456789abcdef".to_owned(),
            input: input.to_owned(),
            parent: None,
            tags: vec![],
            extensions: vec![],
        }
    }

    fn invocation(function: &str, input: &str, progress: Option<&str>) -> activity::Invocation {
        activity::Invocation {
            function: function.to_owned(),
            input: input.to_owned(),
            instance_id: "loaf".to_owned(),
            task: 0,
            attempt: 1,
            idempotency_key: "loaf-0".to_owned(),
            progress: progress.map(str::to_owned),
            extensions: vec![],
        }
    }

    /// What the first turn of `function` asks for and how it ends.
    fn check_begin(function: &str, input: &str, expected: &str) {
        let progress = prepare(&FUNCTIONS, start(function, input)).advance(vec![orchestrator::Event::TurnStarted(0)]);
        let answer = match (&progress.actions[..], progress.outcome) {
            ([orchestrator::Action::Activity(call)], None) => format!("asks for {} {}", call.name, call.input),
            ([], Some(orchestrator::End::Failed(failure))) => format!("{}: {}", failure.kind, failure.message),
            other => format!("{other:?}"),
        };
        assert_eq!(answer, expected);
    }

    fn check_invoke(function: &str, input: &str, expected: Result<&str, &str>) {
        let answer = invoke(&FUNCTIONS, invocation(function, input, None)).map_err(|error| error.to_string());
        assert_eq!(answer.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_function_is_found_by_role_and_name() {
        check_begin("bake", "\"rye\"", "asks for weigh \"rye\"");
        check_invoke("weigh", "\"rye\"", Ok("3"));
    }

    #[test]
    fn an_unknown_function_is_a_failure() {
        check_begin("brew", "null", "UnknownFunction: this module has no orchestrator brew");
        check_begin("weigh", "null", "UnknownFunction: this module has no orchestrator weigh");
        check_invoke("bake", "null", Err("UnknownFunction: this module has no activity bake"));
    }

    #[test]
    fn an_orchestrator_that_cannot_read_its_input_fails_in_its_first_turn() {
        let failure = "InvalidInput: orchestrator bake cannot read its input: \
                       invalid type: integer `7`, expected a string at line 1 column 1";
        check_begin("bake", "7", failure);
    }

    #[test]
    fn a_question_reaches_the_execution() {
        #[orchestrator]
        async fn wait(ctx: Context, loaf: String) -> Result<()> {
            ctx.on_query("loaf", move |_: ()| loaf.clone());
            ctx.event("done").await
        }
        struct Waiting;
        impl Module for Waiting {
            const FUNCTIONS: &'static [Definition] = &[define(wait)];
        }
        type Guest = Exports<Waiting>;
        let ask = |name: &str| {
            let question = query::Question { name: name.to_owned(), input: "null".to_owned(), extensions: vec![] };
            <Guest as query::Guest>::ask(question).map_err(|failure| failure.kind)
        };
        <Guest as orchestrator::Guest>::begin(start("wait", "\"rye\""));
        assert_eq!(ask("loaf"), Err("UnknownQuery".to_owned()));
        <Guest as orchestrator::Guest>::advance(vec![orchestrator::Event::TurnStarted(0)]);
        assert_eq!(ask("Loaf"), Ok("\"rye\"".to_owned()));
    }

    #[test]
    fn an_activity_gets_the_progress_of_an_earlier_run() {
        #[activity]
        async fn resume(run: ActivityContext) -> Result<Option<u32>> {
            Ok(run.progress())
        }
        let functions = [define(resume)];
        assert_eq!(invoke(&functions, invocation("resume", "null", None)).unwrap(), "null");
        assert_eq!(invoke(&functions, invocation("resume", "null", Some("7"))).unwrap(), "7");
    }

    #[test]
    fn names_that_differ_only_in_case_are_the_same() {
        let named = |name| Definition { name, ..define(bake) };
        assert_names_differ(&["bake", "weigh", "baker"].map(named));
        let panic = std::panic::catch_unwind(|| assert_names_differ(&["bake", "weigh", "Bake"].map(named))).unwrap_err();
        let message = panic.downcast_ref::<String>().expect("a text");
        assert!(message.starts_with("two functions of this module are called `bake` and `Bake`"), "{message}");
    }
}
