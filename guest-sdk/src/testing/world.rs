//! Plays the host for a scenario: knows what is going to happen and to whom, and notes what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use uuid::Uuid;

use crate::bindings::exports::dacapo::guest::orchestrator::{
    Action, ActivityCall, Answer, ChildCall, ChildStart, Continuation, End, Event, HttpCall, Outcome, Progress, RaisedEvent,
    SentEvent, Start,
};
use crate::context::ceil_to_ms;
use crate::executor::Executor;
use crate::http::without_query;
use crate::{ActivityContext, Error, HttpRequest, HttpResponse, Result};

/// Far more turns than any honest test takes, and over in about a second.
const TURNS_MAX: usize = 100_000;

/// Makes an execution of one orchestrator, and runs nothing yet.
pub(super) type Make = Rc<dyn Fn(Start) -> Executor>;

/// How a function answers.
struct Mock<'a> {
    run: Answers<'a>,
    takes: Duration,
}

type Answers<'a> = Box<dyn FnMut(ActivityContext, String) -> Result<String> + 'a>;

/// How the rest of the world answers.
struct HttpMock<'a> {
    run: HttpAnswers<'a>,
    takes: Duration,
}

type HttpAnswers<'a> = Box<dyn FnMut(&HttpRequest) -> Result<HttpResponse> + 'a>;

/// What was seen from outside.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) calls: Vec<String>,
    pub(super) started: Vec<String>,
    pub(super) sent: Vec<String>,
    pub(super) requests: Vec<String>,
    pub(super) heartbeats: Vec<String>,
    /// Of the orchestrator under test alone, as those that follow.
    pub(super) asked: Vec<String>,
    pub(super) continued: Vec<String>,
    pub(super) custom_status: Option<String>,
}

/// All instances of a scenario and what surrounds them.
#[derive(Default)]
pub(super) struct World<'a> {
    /// By the functions' name in lower case.
    mocks: BTreeMap<String, Mock<'a>>,
    /// Orchestrators that run here. By name in lower case.
    real: BTreeMap<String, Make>,
    http: Option<HttpMock<'a>>,
    /// From the script, with the time since the start.
    events: Vec<(Duration, Happening)>,
    /// How long after the start to stop, if it is said.
    pub(super) until: Option<Duration>,
    /// What is going to happen and to which instance, by its time, and by the order in which it became known.
    agenda: BTreeMap<(u64, usize), (usize, Happening)>,
    known: usize,
    /// The first one is under test.
    instances: Vec<Instance>,
    turns: usize,
    told: Told,
}

/// What happens to an instance.
enum Happening {
    /// An execution begins.
    Begin,
    /// An answer to the execution of this number.
    Resolved(usize, Answer),
    /// An event from outside: its name and its value.
    Raised(String, String),
}

/// One instance and its executions.
struct Instance {
    id: String,
    make: Make,
    executor: Executor,
    /// Those before the current one, and that one.
    executions: Vec<Execution>,
    tasks: Tasks,
    /// All that were raised to the current execution.
    raised: Vec<RaisedEvent>,
    /// What runs of the task of this first attempt have told last.
    progress: BTreeMap<u32, String>,
    /// Which task of which execution of which instance gets the end.
    parent: Option<(usize, usize, u32)>,
    has_ended: bool,
}

/// What is recorded of one execution, so that it can be played again.
pub(super) struct Execution {
    /// Which one; 0 is under test.
    pub(super) instance: usize,
    /// How many executions of the instance came before it.
    number: usize,
    start: Start,
    make: Make,
    turns: Vec<Turn>,
}

/// One call of the executor, as a history would have it.
struct Turn {
    now_ms: u64,
    events: Vec<Event>,
    progress: Progress,
}

impl<'a> World<'a> {
    pub(super) fn mock(&mut self, name: String, run: Answers<'a>) {
        self.mocks.insert(name, Mock { run, takes: Duration::ZERO });
    }

    pub(super) fn mock_http(&mut self, run: HttpAnswers<'a>) {
        self.http = Some(HttpMock { run, takes: Duration::ZERO });
    }

    pub(super) fn make_real(&mut self, name: &str, make: Make) {
        self.real.insert(name.to_lowercase(), make);
    }

    /// How long the function takes that has this name in lower case.
    pub(super) fn takes(&mut self, name: &str) -> Option<&mut Duration> {
        self.mocks.get_mut(name).map(|mock| &mut mock.takes)
    }

    pub(super) fn http_takes(&mut self) -> Option<&mut Duration> {
        self.http.as_mut().map(|mock| &mut mock.takes)
    }

    pub(super) fn raise_at(&mut self, after: Duration, name: &str, data: String) {
        self.events.push((after, Happening::Raised(name.to_owned(), data)));
    }

    /// Runs the orchestrator that `start` names and `make` makes, until it ends or the script says so.
    #[track_caller]
    pub(super) fn play(&mut self, start: Start, start_ms: u64, make: Make) -> Told {
        self.begin(start_ms, start, start_ms, make, None);
        self.events.sort_by_key(|(after, _)| *after);
        for (after, event) in std::mem::take(&mut self.events) {
            self.schedule(start_ms.saturating_add(ceil_to_ms(after)), 0, event);
        }
        let stop_ms = self.until.map_or(u64::MAX, |until| start_ms.saturating_add(ceil_to_ms(until)));
        let mut now_ms = start_ms;
        loop {
            match self.agenda.first_key_value() {
                Some((&(due_ms, _), _)) if due_ms > stop_ms => break,
                Some((&(due_ms, _), _)) => now_ms = now_ms.max(due_ms),
                None if self.until.is_some() && !self.instances[0].executor.open_tasks().is_empty() => break,
                None => self.panic_stuck(),
            }
            let later = self.agenda.split_off(&(now_ms, usize::MAX));
            // One turn for each instance that something happens to, in the order of what happens first.
            let mut due: Vec<(usize, Vec<Happening>)> = Vec::new();
            for (instance, happening) in std::mem::replace(&mut self.agenda, later).into_values() {
                match due.iter_mut().find(|(known, _)| *known == instance) {
                    Some((_, happenings)) => happenings.push(happening),
                    None => due.push((instance, vec![happening])),
                }
            }
            for (instance, happenings) in due {
                self.turn(instance, now_ms, start_ms, happenings);
            }
            if self.instances[0].has_ended {
                break;
            }
            self.check_turns(now_ms - start_ms);
        }
        std::mem::take(&mut self.told)
    }

    /// All executions, by instance and in their order.
    pub(super) fn into_executions(self) -> Vec<Execution> {
        self.instances.into_iter().flat_map(|instance| instance.executions).collect()
    }

    /// Adds an instance whose first turn is at `at_ms`.
    fn begin(&mut self, start_ms: u64, start: Start, at_ms: u64, make: Make, parent: Option<(usize, usize, u32)>) {
        let number = self.instances.len();
        self.instances.push(Instance {
            id: start.instance_id.clone(),
            executor: make(start.clone()),
            executions: vec![Execution { instance: number, number: 0, start, make: make.clone(), turns: Vec::new() }],
            make,
            tasks: Tasks { start_ms, names: Vec::new() },
            raised: Vec::new(),
            progress: BTreeMap::new(),
            parent,
            has_ended: false,
        });
        self.schedule(at_ms, number, Happening::Begin);
    }

    /// Lets `happenings` come to an instance, and does what it then asks for.
    #[track_caller]
    fn turn(&mut self, number: usize, now_ms: u64, start_ms: u64, happenings: Vec<Happening>) {
        let instance = &mut self.instances[number];
        let current = instance.executions.len() - 1;
        let mut events = vec![Event::TurnStarted(now_ms)];
        let begins = happenings.iter().any(|happening| matches!(happening, Happening::Begin));
        for happening in happenings {
            match happening {
                Happening::Resolved(execution, answer) if execution == current => events.push(Event::Resolved(answer)),
                Happening::Raised(name, data) => {
                    let event = RaisedEvent { number: count(instance.raised.len()), name, data };
                    instance.raised.push(event.clone());
                    events.push(Event::Raised(event));
                }
                Happening::Begin | Happening::Resolved(..) => {}
            }
        }
        if instance.has_ended || !begins && events.len() == 1 {
            return; // It came too late.
        }
        let progress = instance.executor.advance(events.clone());
        self.turns += 1;

        let first_task = instance.tasks.names.len();
        let asked = instance.tasks.describe_all(&progress.actions);
        if number == 0 {
            self.told.asked.extend(asked);
            self.told.custom_status = progress.custom_status.clone().or(self.told.custom_status.take());
        }
        let (actions, outcome) = (progress.actions.clone(), progress.outcome.clone());
        instance.has_ended = matches!(outcome, Some(End::Completed(_) | End::Failed(_)));
        instance.executions[current].turns.push(Turn { now_ms, events, progress });
        self.act(number, now_ms, start_ms, first_task, &actions, outcome.is_some());
        match outcome {
            Some(End::Completed(json)) => self.answer_parent(number, now_ms, Outcome::Completed(json)),
            Some(End::Failed(failure)) => self.answer_parent(number, now_ms, Outcome::Failed(failure)),
            Some(End::ContinuedAsNew(next)) => self.continue_as_new(number, now_ms, next),
            Some(End::Extension(_)) | None => {}
        }
    }

    /// Does what was asked for, unless the same turn cancels it or ends: then no host does it either. The first task among
    /// `actions` is `first_task`.
    #[track_caller]
    fn act(&mut self, number: usize, now_ms: u64, start_ms: u64, first_task: usize, actions: &[Action], ended: bool) {
        let current = self.instances[number].executions.len() - 1;
        let cancelled = |action: &Action| if let Action::Cancel(task) = action { Some(*task) } else { None };
        let cancels: BTreeSet<u32> = actions.iter().filter_map(cancelled).collect();
        self.agenda.retain(|_, (instance, happening)| {
            *instance != number
                || !matches!(happening, Happening::Resolved(of, answer) if *of == current && cancels.contains(&answer.task))
        });
        // Children live on, but nobody waits for them.
        for child in &mut self.instances {
            child.parent =
                child.parent.filter(|parent| !(parent.0 == number && parent.1 == current && cancels.contains(&parent.2)));
        }

        let asks = actions.iter().filter(|action| cancelled(action).is_none());
        for (task, action) in (count(first_task)..).zip(asks).filter(|(task, _)| !cancels.contains(task)) {
            let answer = match action {
                Action::StartDetached(start) => {
                    self.start(number, now_ms, start_ms, task, start);
                    continue;
                }
                Action::SendEvent(sent) => {
                    self.send(now_ms, sent);
                    continue;
                }
                Action::Activity(ActivityCall { name, input, .. }) | Action::SubOrchestration(ChildCall { name, input, .. }) => {
                    self.told.calls.push(format!("{name}({input})"));
                    match action {
                        _ if ended => continue,
                        Action::Activity(call) => Some(self.invoke(number, task, call)),
                        Action::SubOrchestration(call) => self.call_child(number, now_ms, start_ms, task, call),
                        _ => unreachable!("the pattern before has only these"),
                    }
                }
                Action::Http(call) => {
                    self.told.requests.push(format!("{} {}", call.method, call.uri));
                    if ended { None } else { Some(self.request(number, call)) }
                }
                Action::Timer(due_ms) => Some((Duration::from_millis(due_ms.saturating_sub(now_ms)), Outcome::Fired)),
                // The orchestrator's own side answers it.
                Action::WaitEvent(_) => None,
                other => unreachable!("nothing in a `Context` asks for {other:?}"),
            };
            if let Some((takes, outcome)) = answer.filter(|_| !ended) {
                let due_ms = now_ms.saturating_add(ceil_to_ms(takes));
                self.schedule(due_ms, number, Happening::Resolved(current, Answer { task, outcome }));
            }
        }
    }

    /// The answer of an activity, and when it comes.
    #[track_caller]
    fn invoke(&mut self, number: usize, task: u32, call: &ActivityCall) -> (Duration, Outcome) {
        let instance = &mut self.instances[number];
        let start = &instance.current().start;
        let Some(mock) = self.mocks.get_mut(&call.name.to_lowercase()) else {
            panic!(
                "orchestrator {} calls activity {name}({}), which this test does not answer. Mock it by \
                 `.activity(function, |input| …)`, or by `.activity_named({name:?}, |input| …)` if another module has it, or \
                 run the function itself by `.real(function)`",
                start.function,
                call.input,
                name = call.name,
            );
        };
        let first_attempt = call.first_attempt.unwrap_or(task);
        let context = ActivityContext {
            instance_id: start.instance_id.clone(),
            task,
            attempt: call.attempt,
            idempotency_key: format!("{}:{first_attempt}", start.generation),
            progress: instance.progress.get(&first_attempt).cloned(),
            ..ActivityContext::default()
        };
        let heartbeats = context.heartbeats.clone();
        let outcome = outcome((mock.run)(context, call.input.clone()));
        let heartbeats = std::mem::take(&mut *heartbeats.lock().expect("nothing panics while it holds this"));
        self.told.heartbeats.extend(heartbeats.iter().map(|progress| format!("{}: {progress}", call.name)));
        if let Some(last) = heartbeats.last() {
            instance.progress.insert(first_attempt, last.clone());
        }
        in_time("Timeout", &format!("activity {}", call.name), mock.takes, call.timeout_ms, outcome)
    }

    /// The answer of a child that is mocked; of one that runs here it comes later.
    #[track_caller]
    fn call_child(
        &mut self,
        number: usize,
        now_ms: u64,
        start_ms: u64,
        task: u32,
        call: &ChildCall,
    ) -> Option<(Duration, Outcome)> {
        let parent = self.instances[number].current();
        let name = call.name.to_lowercase();
        if let Some(mock) = self.mocks.get_mut(&name) {
            return Some((mock.takes, outcome((mock.run)(ActivityContext::default(), call.input.clone()))));
        }
        let Some(make) = self.real.get(&name).cloned() else {
            panic!(
                "orchestrator {} calls orchestrator {name}({}), which this test does not answer. Mock it by \
                 `.orchestrator(function, |input| …)`, or by `.orchestrator_named({name:?}, |input| …)` if another module has it, or \
                 run the function itself by `.real(function)`",
                parent.start.function,
                call.input,
                name = call.name,
            );
        };
        let start = parent.child(task, &call.name, call.instance_id.as_deref(), &call.input, &call.tags, true);
        if self.live(&start.instance_id).is_some() {
            let message = format!("an instance with the ID {:?} is alive", start.instance_id);
            return Some((Duration::ZERO, outcome(Err(Error::new("InstanceExists", message)))));
        }
        let execution = parent.number;
        self.begin(start_ms, start, now_ms, make, Some((number, execution, task)));
        None
    }

    fn start(&mut self, number: usize, now_ms: u64, start_ms: u64, task: u32, start: &ChildStart) {
        let parent = self.instances[number].current();
        let child = parent.child(task, &start.name, start.instance_id.as_deref(), &start.input, &start.tags, false);
        self.told.started.push(format!("{}({}) as {}", start.name, start.input, child.instance_id));
        let make = self.real.get(&start.name.to_lowercase()).cloned();
        if let Some(make) = make.filter(|_| self.live(&child.instance_id).is_none()) {
            self.begin(start_ms, child, now_ms.max(start.at_ms.unwrap_or(0)), make, None);
        }
    }

    fn send(&mut self, now_ms: u64, SentEvent { instance_id, name, data }: &SentEvent) {
        self.told.sent.push(format!("{name} to {instance_id}: {data}"));
        if let Some(receiver) = self.live(instance_id) {
            self.schedule(now_ms, receiver, Happening::Raised(name.clone(), data.clone()));
        }
    }

    /// The answer of whoever is asked by HTTP, and when it comes.
    #[track_caller]
    fn request(&mut self, number: usize, call: &HttpCall) -> (Duration, Outcome) {
        let HttpCall { method, uri, headers, body, timeout_ms, .. } = call;
        let Some(mock) = &mut self.http else {
            panic!(
                "orchestrator {} asks for {method} {uri}, which this test does not answer: do so by `.http(|request| …)`",
                self.instances[number].current().start.function
            );
        };
        let mut request = HttpRequest::new(method, uri);
        (request.headers, request.body) = (headers.clone(), body.clone());
        let answer = (mock.run)(&request).and_then(|response| Ok(serde_json::to_string(&response)?));
        in_time("HttpTimeout", &format!("the request to {}", without_query(uri)), mock.takes, *timeout_ms, outcome(answer))
    }

    fn answer_parent(&mut self, child: usize, now_ms: u64, outcome: Outcome) {
        if let Some((instance, execution, task)) = self.instances[child].parent {
            self.schedule(now_ms, instance, Happening::Resolved(execution, Answer { task, outcome }));
        }
    }

    /// Lets an instance go on as a new execution, in a turn of its own.
    fn continue_as_new(&mut self, number: usize, now_ms: u64, next: Continuation) {
        let instance = &mut self.instances[number];
        if number == 0 {
            self.told.continued.push(next.input.clone());
        }
        let last = instance.current();
        let start = Start { generation: derived(&last.start, "successor"), input: next.input, ..last.start.clone() };
        let execution = Execution {
            instance: number,
            number: last.number + 1,
            start: start.clone(),
            make: last.make.clone(),
            turns: Vec::new(),
        };
        instance.executor = (instance.make)(start);
        instance.executions.push(execution);
        instance.tasks.names.clear();
        instance.progress.clear();
        let raised = std::mem::take(&mut instance.raised);
        self.schedule(now_ms, number, Happening::Begin);
        for event in next.keep {
            let RaisedEvent { name, data, .. } = raised[event as usize].clone();
            self.schedule(now_ms, number, Happening::Raised(name, data));
        }
    }

    /// The instance of this ID that has not ended.
    fn live(&self, id: &str) -> Option<usize> {
        self.instances.iter().position(|instance| instance.id == id && !instance.has_ended)
    }

    fn schedule(&mut self, due_ms: u64, instance: usize, happening: Happening) {
        self.agenda.insert((due_ms, self.known), (instance, happening));
        self.known += 1;
    }

    #[track_caller]
    fn check_turns(&self, elapsed_ms: u64) {
        assert!(
            self.turns < TURNS_MAX,
            "orchestrator {} has not ended after {TURNS_MAX} turns, at {:?} after its start. Last it asked for: {}. If it is to \
             run for ever, stop the test by `.until(duration)`",
            self.instances[0].current().start.function,
            Duration::from_millis(elapsed_ms),
            self.told.asked.last().map_or("nothing", String::as_str)
        );
    }

    /// Nothing is going to happen, so all that is open are events from outside, and children that wait for some.
    #[track_caller]
    fn panic_stuck(&self) -> ! {
        let name = &self.instances[0].current().start.function;
        let waits = self.waits(0);
        if waits.is_empty() {
            panic!(
                "orchestrator {name} waits, but for nothing that it asked its context for: whatever it awaits, such as a channel \
                 whose sender is gone or waits itself, can never wake it"
            );
        }
        panic!("orchestrator {name} waits for what never comes: {waits}. Raise events by `.event_at(after, name, &data)`");
    }

    /// The open tasks of an instance, in words.
    fn waits(&self, number: usize) -> String {
        let instance = &self.instances[number];
        let waits = instance.executor.open_tasks().into_iter().map(|task| {
            let child = self.instances.iter().position(|child| child.parent == Some((number, instance.current().number, task)));
            let task = &instance.tasks.names[task as usize];
            child.map_or_else(|| task.clone(), |child| format!("{task}, which waits for {}", self.waits(child)))
        });
        waits.collect::<Vec<_>>().join(", ")
    }
}

impl Instance {
    fn current(&self) -> &Execution {
        self.executions.last().expect("an instance has an execution")
    }
}

impl Execution {
    /// How it ended, if it did.
    pub(super) fn outcome(&self) -> Option<&End> {
        self.turns.last()?.progress.outcome.as_ref()
    }

    /// The time of its last turn.
    pub(super) fn now_ms(&self) -> u64 {
        self.turns.last().map_or(0, |turn| turn.now_ms)
    }

    /// Asks a copy of it, as the host does.
    pub(super) fn ask(&self, name: &str, input: &str) -> Result<String> {
        let mut executor = (self.make)(self.start.clone());
        for turn in &self.turns {
            executor.advance(turn.events.clone());
        }
        executor.ask(name, input)
    }

    /// Plays its turns to fresh executors, as they were and with each event on its own.
    #[track_caller]
    pub(super) fn check_replay(&self, start_ms: u64) {
        self.check_replay_by("", start_ms, |executor, events| executor.advance(events));
        self.check_replay_by(", with each event in a call of its own", start_ms, |executor, events| {
            merge(events.into_iter().map(|event| executor.advance(vec![event])))
        });
    }

    #[track_caller]
    fn check_replay_by(&self, how: &str, start_ms: u64, advance: impl Fn(&mut Executor, Vec<Event>) -> Progress) {
        let mut executor = (self.make)(self.start.clone());
        let mut tasks = Tasks { start_ms, names: Vec::new() };
        for (number, turn) in self.turns.iter().enumerate() {
            let progress = advance(&mut executor, turn.events.clone());
            if progress == turn.progress {
                tasks.describe_all(&progress.actions);
                continue;
            }
            let known = tasks.names.len();
            let first = tasks.describe(&turn.progress);
            tasks.names.truncate(known);
            let again = tasks.describe(&progress);
            let execution =
                if self.number == 0 { String::new() } else { format!(" after continuing as new for time {}", self.number) };
            panic!(
                "orchestrator {name} is not deterministic: the replay of turn {number}{execution}{how} differs\n  first:  {first}\n  \
                 replay: {again}\nNatively the usual cause is the real time, randomness, the order of a HashMap, or a \
                 `static` or other state that outlives the run. Use ctx.now() and ctx.new_uuid(), or let an activity do it.",
                name = self.start.function,
            );
        }
    }

    /// What the child starts with that `task` asks for.
    fn child(&self, task: u32, name: &str, id: Option<&str>, input: &str, tags: &[(String, String)], is_awaited: bool) -> Start {
        Start {
            function: name.to_owned(),
            instance_id: id.map_or_else(|| format!("{}:{task:04x}", self.start.generation), str::to_owned),
            generation: derived(&self.start, &format!("child {task}")),
            input: input.to_owned(),
            parent: is_awaited.then(|| self.start.instance_id.clone()),
            tags: tags.to_vec(),
            extensions: Vec::new(),
        }
    }
}

/// A generation that nothing else in the scenario has.
fn derived(start: &Start, what: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{} {what}", start.generation).as_bytes()).simple().to_string()
}

fn outcome(answer: Result<String>) -> Outcome {
    match answer {
        Ok(json) => Outcome::Completed(json),
        Err(error) => Outcome::Failed(error.into_failure()),
    }
}

/// `outcome` after `takes`, or a failure of this kind when the time is up.
fn in_time(late: &str, what: &str, takes: Duration, timeout_ms: Option<u64>, outcome: Outcome) -> (Duration, Outcome) {
    match timeout_ms {
        Some(timeout_ms) if ceil_to_ms(takes) > timeout_ms => {
            let failure = Error::new(late, format!("{what} was not done within {timeout_ms} ms"));
            (Duration::from_millis(timeout_ms), Outcome::Failed(failure.into_failure()))
        }
        _ => (takes, outcome),
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("memory ends before the numbers do")
}

/// Puts actions into words: keeps what the tasks so far were, by their numbers.
struct Tasks {
    start_ms: u64,
    names: Vec<String>,
}

impl Tasks {
    fn describe_all(&mut self, actions: &[Action]) -> Vec<String> {
        actions.iter().map(|action| self.describe_action(action)).collect()
    }

    fn describe_action(&mut self, action: &Action) -> String {
        let name = match action {
            Action::Cancel(task) => return format!("cancel {}", self.names[*task as usize]),
            Action::Activity(ActivityCall { name, input, .. }) | Action::SubOrchestration(ChildCall { name, input, .. }) => {
                format!("{name}({input})")
            }
            Action::StartDetached(start) => format!("start {}({})", start.name, start.input),
            Action::SendEvent(sent) => format!("send {} to {}: {}", sent.name, sent.instance_id, sent.data),
            Action::Http(call) => format!("{} {}", call.method, call.uri),
            Action::Timer(due_ms) => format!("timer {:?}", Duration::from_millis(due_ms.saturating_sub(self.start_ms))),
            Action::WaitEvent(name) => format!("event {name}"),
            other => unreachable!("nothing in a `Context` asks for {other:?}"),
        };
        self.names.push(name.clone());
        name
    }

    /// All that a turn brought about.
    fn describe(&mut self, progress: &Progress) -> String {
        let status = progress.custom_status.as_ref().map(|status| format!("custom status {status}"));
        let end = progress.outcome.as_ref().map(|end| match end {
            End::Completed(output) => format!("returned {output}"),
            End::Failed(failure) => format!("failed with {}: {}", failure.kind, failure.message),
            End::ContinuedAsNew(next) => format!("continued as new with {} and events {:?}", next.input, next.keep),
            other => unreachable!("nothing in a `Context` ends with {other:?}"),
        });
        let words: Vec<_> = self.describe_all(&progress.actions).into_iter().chain(status).chain(end).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }
}

/// What several calls brought about, as if they had been one.
fn merge(calls: impl Iterator<Item = Progress>) -> Progress {
    let mut merged = Progress { actions: Vec::new(), custom_status: None, outcome: None };
    for call in calls {
        merged.actions.extend(call.actions);
        merged.custom_status = call.custom_status.or(merged.custom_status);
        merged.outcome = merged.outcome.or(call.outcome);
    }
    merged
}

#[cfg(test)]
mod tests;
