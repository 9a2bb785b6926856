//! What is lost if the server is killed at any moment? Clients do all that can be done, it is killed and started again, over and over; then what
//! the server has is compared with what it had acknowledged.

mod story;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use hdrhistogram::Histogram;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use self::story::{Books, Kind, Story};
use super::{Place, now_ms};
use crate::http::{self, Answer, Connection, INSTANCES};
use crate::server;
use crate::tell;

/// How long everything may take to come to its end after the last start.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many versions of the guests are uploaded in turn.
const VERSIONS: u64 = 3;

/// Kill the server again and again under a mixed load, and compare what it has in the end with what it had acknowledged
#[derive(Debug, clap::Args)]
pub(super) struct Crash {
    /// How often it is killed
    #[arg(long, value_name = "N", default_value = "200")]
    rounds: NonZeroU32,

    /// How many clients there are, each with a connection of its own
    #[arg(long, value_name = "C", default_value = "8")]
    clients: NonZeroUsize,

    /// How long after its start the server is killed at the earliest, in milliseconds
    #[arg(long, value_name = "MS", default_value = "50")]
    earliest: u64,

    /// And at the latest
    #[arg(long, value_name = "MS", default_value = "1000")]
    latest: u64,

    /// Which of all possible courses this takes; another one each time if it is not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Numbers that look random: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// What one client did, and what it was told.
struct Client<'a> {
    number: usize,
    random: Random,
    stories: Vec<Story>,
    books: &'a RefCell<Books>,
    module: &'a [u8],
}

impl Crash {
    pub(super) async fn run(&self, place: &Place<'_>) -> Result<String> {
        let seed = self.seed.unwrap_or_else(now_ms);
        self.play(place, seed).await.with_context(|| format!("with --seed {seed}"))
    }

    async fn play(&self, place: &Place<'_>, seed: u64) -> Result<String> {
        tell(format_args!("seed {seed}"));
        let mut random = Random(seed);
        let books = RefCell::new(Books::default());
        let client =
            |number| Client { number, random: Random(random.next()), stories: Vec::new(), books: &books, module: &place.module };
        let mut clients: Vec<Client<'_>> = (0..self.clients.get()).map(client).collect();
        let mut ready_ms = Histogram::<u64>::new(3).context("make a histogram")?;

        let mut server = place.start()?;
        server.upload(&place.module).await?;
        let began = Instant::now();
        for round in 1..=self.rounds.get() {
            let lives_ms = self.earliest + random.below(self.latest.saturating_sub(self.earliest) + 1);
            let work = join_all(clients.iter_mut().map(|client| client.work(server.address)));
            // None of them ends by itself before the server does.
            let _ = timeout(Duration::from_millis(lives_ms), work).await;
            server.kill().with_context(|| format!("in round {round}"))?;
            clients.iter_mut().for_each(Client::cut_off);
            if let Some(wrong) = &books.borrow().wrong {
                bail!("in round {round} {wrong}");
            }
            let start = Instant::now();
            server = place.start()?;
            server.ready().await?;
            ready_ms += u64::try_from(start.elapsed().as_millis())?;
            if round % 20 == 0 {
                tell(format_args!("{round} rounds"));
            }
        }
        let took = began.elapsed();

        let stories: Vec<Story> = clients.into_iter().flat_map(|client| client.stories).collect();
        let mut connection = Connection::open(server.address).await?;
        let books = books.into_inner();
        for story in &stories {
            story.check_pause(&status(&mut connection, server.address, &story.id).await?)?;
        }
        let end = Instant::now();
        let rewound = finish(&mut connection, server.address, &stories).await.with_context(|| server.log())?;
        let ended_in = end.elapsed();
        for story in &stories {
            story.check_end(&status(&mut connection, server.address, &story.id).await?)?;
            if let Some(child) = story.child() {
                story.check_child(&status(&mut connection, server.address, &child).await?)?;
            }
        }
        let modules = get(&mut connection, server.address, "/admin/modules").await?.to_string();
        for digest in &books.uploaded {
            ensure!(modules.contains(digest.as_str()), "an upload was acknowledged, and version {digest} is not there");
        }
        server.stop()?;
        let verified: Value = serde_json::from_str(&server::verify(place.program, &place.folder.join("data"))?)?;
        let Books { acknowledged, refused, cut_off, .. } = books;
        let items: usize = stories.iter().map(|story| story.items.len()).sum();
        Ok(format!(
            "{} kills in {:.0} s, {} to {} ms after each start (seed {seed}, {} clients)\n\
             {acknowledged} requests acknowledged, {refused} refused, {cut_off} cut off; nothing acknowledged is missing, nothing is there twice\n\
             {} instances of clients and {items} events; {rewound} rewound at the end; all had ended {:.1} s after the last start\n\
             ready after a kill: p50 {} ms, at most {} ms\n\
             dacapo verify: sound; {} instances, {} events, {} turns replayed",
            self.rounds,
            took.as_secs_f64(),
            self.earliest,
            self.latest,
            self.clients,
            stories.len(),
            ended_in.as_secs_f64(),
            ready_ms.value_at_quantile(0.5),
            ready_ms.max(),
            verified["instances"],
            verified["events"],
            verified["turns"],
        ))
    }
}

impl Client<'_> {
    /// Works until it is dropped; without a server there is nothing to be done.
    async fn work(&mut self, server: SocketAddr) {
        let Ok(mut connection) = Connection::open(server).await else { return std::future::pending().await };
        while self.step(&mut connection, server).await.is_ok() {}
        std::future::pending().await
    }

    /// The round is over: nobody knows what came of a request that had no answer.
    fn cut_off(&mut self) {
        if self.stories.iter_mut().map(Story::cut_off).filter(|was_cut| *was_cut).count() > 0 {
            self.books.borrow_mut().cut_off += 1;
        }
    }

    /// One request, chosen at random among those that there is something to do with.
    async fn step(&mut self, connection: &mut Connection, server: SocketAddr) -> Result<()> {
        let dice = self.random.below(100);
        let chosen = match dice {
            0..30 => None,
            30..55 => self.choose(|story| story.kind == Kind::Collect),
            55..90 => self.choose(|_| true),
            90..92 => return self.upload(connection, server).await,
            _ => self.choose(|story| story.kind == Kind::Gamble),
        };
        let Some(at) = chosen else { return self.start(connection, server).await };
        let number = self.books.borrow_mut().next_number();
        let recursive = self.random.below(2) == 0;
        let story = &mut self.stories[at];
        let (method, rest, body) = match dice {
            30..55 => ("POST", "/raiseEvent/item".to_owned(), story.raise(number)),
            55..61 => ("POST", story.terminate(recursive), String::new()),
            61..71 => ("POST", story.pause(true), String::new()),
            71..82 => ("POST", story.pause(false), String::new()),
            82..90 => ("DELETE", story.purge(), String::new()),
            _ => ("POST", "/rewind".to_owned(), String::new()),
        };
        let path = format!("{INSTANCES}/{}{rest}", story.id);
        let answer = connection.ask(&http::request(method, &path, server, "application/json", body.as_bytes())).await?;
        self.stories[at].answered(answer.status);
        self.books.borrow_mut().count(&answer);
        Ok(())
    }

    fn choose(&mut self, fits: impl Fn(&Story) -> bool) -> Option<usize> {
        // Of the last ones, so that there is something going on with them.
        let first = self.stories.len().saturating_sub(30);
        let some: Vec<usize> =
            (first..self.stories.len()).filter(|at| self.stories[*at].may_be_asked() && fits(&self.stories[*at])).collect();
        let at = self.random.below(some.len() as u64);
        some.get(usize::try_from(at).unwrap_or(0)).copied()
    }

    async fn start(&mut self, connection: &mut Connection, server: SocketAddr) -> Result<()> {
        let number = self.books.borrow_mut().next_number();
        let kind = Kind::ALL[usize::try_from(self.random.below(Kind::ALL.len() as u64))?];
        let story = Story::new(format!("client-{}-{number}", self.number), kind, number);
        let path = format!("/api/orchestrators/{}/{}", kind.function(), story.id);
        let request = http::request("POST", &path, server, "application/json", story.input().as_bytes());
        self.stories.push(story);
        let answer = connection.ask(&request).await?;
        if let Some(story) = self.stories.last_mut() {
            story.answered(answer.status);
        }
        self.books.borrow_mut().count(&answer);
        Ok(())
    }

    /// Uploads a version of the guests, which differs in a part that nobody looks at.
    async fn upload(&mut self, connection: &mut Connection, server: SocketAddr) -> Result<()> {
        let version = u8::try_from(self.random.below(VERSIONS))?;
        // A custom section: its kind, its length, the length of its name, its name, one byte.
        let module = [self.module, &[0, 7, 5], b"trial", &[version]].concat();
        let request = http::request("PUT", "/admin/modules/bench", server, "application/wasm", &module);
        let answer = connection.ask(&request).await?;
        let mut books = self.books.borrow_mut();
        if let (200 | 201, Ok(body)) = (answer.status, serde_json::from_slice::<Value>(&answer.body)) {
            let digest = body["digest"].as_str().context("find the digest of an upload")?;
            books.uploaded.insert(digest.to_owned());
        }
        books.count(&answer);
        Ok(())
    }
}

/// Brings everything to its end: resumes what is suspended, ends what waits for events, rewinds what has failed. How much was rewound.
async fn finish(connection: &mut Connection, server: SocketAddr, stories: &[Story]) -> Result<u64> {
    let (began, mut rewound) = (Instant::now(), 0);
    let dying: Vec<String> = stories.iter().filter(|story| story.takes_its_child_along()).filter_map(Story::child).collect();
    loop {
        let path = format!("{INSTANCES}?runtimeStatus=Running,Pending,Suspended,Failed&top=1000&showInput=false");
        let open = get(connection, server, &path).await?;
        let open = open.as_array().context("read the list of what is open")?;
        if open.is_empty() {
            return Ok(rewound);
        }
        ensure!(began.elapsed() < PATIENCE, "{} instances do not come to their end, among them {}", open.len(), open[0]);
        for row in open {
            let id = row["instanceId"].as_str().context("find the ID of an instance")?;
            let (rest, body) = match (row["runtimeStatus"].as_str(), row["name"].as_str()) {
                (Some("Suspended"), _) => ("resume", ""),
                // Not for any other reason, such as that the server died in one of its turns.
                (Some("Failed"), Some("Gamble")) if row["output"].to_string().contains("no luck") => ("rewind", ""),
                (Some("Failed"), _) => bail!("it must not fail: {row}"),
                (_, Some("Collect")) if !dying.iter().any(|child| child == id) => ("raiseEvent/item", "null"),
                _ => continue,
            };
            let request = http::request("POST", &format!("{INSTANCES}/{id}/{rest}"), server, "application/json", body.as_bytes());
            let answer = connection.ask(&request).await?;
            rewound += u64::from(rest == "rewind" && answer.status == 202);
            // It may have ended meanwhile, or be busy with it.
            ensure!(matches!(answer.status, 202 | 410 | 412 | 500), "{rest} of {id}: {answer}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn get(connection: &mut Connection, server: SocketAddr, path: &str) -> Result<Value> {
    let answer = connection.ask(&http::request("GET", path, server, "application/json", b"")).await?;
    ensure!(answer.status == 200, "{path}: {answer}");
    serde_json::from_slice(&answer.body).with_context(|| format!("read {path}"))
}

/// The status of an instance, whatever its HTTP status.
async fn status(connection: &mut Connection, server: SocketAddr, id: &str) -> Result<Answer> {
    let path = format!("{INSTANCES}/{id}?edition=current");
    connection.ask(&http::request("GET", &path, server, "application/json", b"")).await
}
