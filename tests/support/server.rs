//! A server of a test's own: the built binary, on a free port, with a data directory that goes when the test ends.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use dacapo::limits::Limits;
use dacapo_disk::Layer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Client, DEADLINE_S, eventually, guests};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_dacapo-under-test");

/// The default hub.
pub(crate) const HUB: &str = "DurableFunctionsHub";

/// What kind of server a test wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    /// Without any module, and without a data directory. All others have `tests/guests` in the default hub, under the name `guests`.
    pub(crate) empty: bool,
    /// A data directory that it takes in the place of a new one; with the test guests, if it has them.
    pub(crate) data: Option<PathBuf>,
    /// With keys. The client sends the master key.
    pub(crate) keys: bool,
    /// What a shell does just before it becomes the server, such as `ulimit -n 220`; empty for no shell.
    pub(crate) shell: &'static str,
    /// With a listener for workers, beside one with keys.
    pub(crate) workers: bool,
    /// On a disk that can be full or fail to sync, see [`Server::disk`].
    pub(crate) disk: bool,
    /// What it logs, as `DACAPO_LOG` has it; empty for the default.
    pub(crate) log: &'static str,
    /// What its configuration file says beside the limits: settings, then tables such as `[hubs.NAME.network]`.
    pub(crate) configuration: String,
    /// What `serve` gets besides.
    pub(crate) arguments: &'static [&'static str],
}

impl Setup {
    pub(crate) fn limits(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub(crate) fn start(self) -> Server {
        Server::with(self)
    }

    /// A configuration file with what differs from the defaults.
    fn file(&self) -> String {
        let (Ok(Value::Object(limits)), Ok(Value::Object(defaults))) =
            (serde_json::to_value(&self.limits), serde_json::to_value(Limits::default()))
        else {
            panic!("limits are an object");
        };
        let changed = limits.iter().filter(|(name, value)| defaults[*name] != **value);
        // What stands on its own comes before the first table.
        let mut file = format!("{}\n[limits]\n", self.configuration);
        if self.limits.stop_grace_ms == Limits::default().stop_grace_ms {
            // What still runs when a test is over need not come to its end.
            file.push_str("stop_grace_ms = 100\n");
        }
        changed.fold(file, |file, (name, value)| file + &format!("{name} = {value}\n"))
    }
}

/// A running server; also a client of it. When it goes, it is stopped and all that it stored is replayed.
pub(crate) struct Server {
    setup: Setup,
    folder: TempDir,
    disk: Option<Layer>,
    process: Option<Process>,
    client: Client,
}

struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// One with the test guests, without keys.
    pub(crate) fn start() -> Self {
        Self::with(Setup::default())
    }

    /// One without any module, without keys.
    pub(crate) fn empty() -> Self {
        Self::with(Setup { empty: true, ..Setup::default() })
    }

    fn with(setup: Setup) -> Self {
        let folder = TempDir::with_prefix("dacapo-test-").expect("make a folder");
        let data = folder.path().join("data");
        match &setup.data {
            Some(there) => fs::rename(there, &data).expect("move the data directory"),
            None => DirBuilder::new().mode(0o700).create(&data).expect("make the data directory"),
        }
        if !setup.empty && setup.data.is_none() {
            prepared().iter().for_each(|file| file.write(&data));
        }
        fs::write(folder.path().join("dacapo.toml"), setup.file()).expect("write the configuration");
        let disk = setup.disk.then(|| Layer::new(&data, folder.path()).expect("put a disk under the server"));
        let mut server = Self { setup, folder, disk, process: None, client: Client::new("http://nowhere.invalid") };
        server.restart();
        server
    }

    /// Starts it again on the same data directory, after [`Server::kill`] or [`Server::stop`].
    pub(crate) fn restart(&mut self) {
        self.restart_at("127.0.0.1:0");
    }

    /// The same at this address.
    pub(crate) fn restart_at(&mut self, address: &str) {
        assert!(self.process.is_none(), "it is running");
        let mut command = match self.setup.shell {
            "" => Command::new(PROGRAM),
            first => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{first} && exec \"$0\" \"$@\""), PROGRAM]);
                shell
            }
        };
        command.arg("serve").arg("--config").arg(self.folder.path().join("dacapo.toml"));
        command.args(["--listen", address]).arg("--data").arg(self.data());
        command.args(self.setup.arguments);
        if !self.setup.keys {
            command.arg("--no-auth");
        }
        if self.setup.workers {
            command.args(["--rpc-listen", "127.0.0.1:0"]);
        }
        if !self.setup.log.is_empty() {
            command.env("DACAPO_LOG", self.setup.log);
        }
        if let Some(disk) = &self.disk {
            disk.put_under(&mut command);
        }
        let (process, origin) = Process::spawn(command);
        self.process = Some(process);
        self.client = Client::new(&origin);
        if self.setup.keys {
            self.client = self.client.with_header("x-functions-key", &self.key("master"));
        }
    }

    /// The same with other limits.
    pub(crate) fn restart_with(&mut self, limits: Limits) {
        self.setup.limits = limits;
        fs::write(self.folder.path().join("dacapo.toml"), self.setup.file()).expect("write the configuration");
        self.restart();
    }

    /// The same with other arguments for `serve`.
    pub(crate) fn restart_with_arguments(&mut self, arguments: &'static [&'static str]) {
        self.setup.arguments = arguments;
        self.restart();
    }

    /// SIGKILL: no chance to tidy up.
    pub(crate) fn kill(&mut self) {
        let Process { mut child, .. } = self.process.take().expect("it is running");
        child.kill().expect("kill the server");
        child.wait().expect("wait for the server");
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) fn stop(&mut self) {
        self.ask_to_stop();
        let (status, log) = self.ended();
        assert!(status.success(), "the server ended with {status}:\n{log}");
    }

    /// SIGTERM, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        let Process { child, .. } = self.process.as_ref().expect("it is running");
        kill_process(Pid::from_child(child), Signal::TERM).expect("signal the server");
    }

    /// Waits for its end, however that comes, and returns what it has logged.
    pub(crate) fn ended(&mut self) -> (ExitStatus, String) {
        let mut process = self.process.take().expect("it is running");
        (process.ended(), process.log())
    }

    /// Whether the process still runs; a server must outlive whatever it is sent.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.child.try_wait().expect("ask for the server").is_none())
    }

    /// What it has logged since it was last started.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The number of its process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.as_ref().expect("it is running").child.id()
    }

    /// How much CPU time its child processes have taken, in ticks of the kernel.
    pub(crate) fn cpu_ticks_of_children(&self) -> u64 {
        let id = self.process_id();
        let line = fs::read_to_string(format!("/proc/{id}/stat")).expect("read about the server");
        let (_, fields) = line.rsplit_once(") ").expect("the name of the program stands in brackets");
        // User and system time of children that were waited for: fields 16 and 17, of which two stand before the bracket.
        fields.split(' ').skip(13).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    /// The disk that it was set up with.
    pub(crate) fn disk(&self) -> &Layer {
        self.disk.as_ref().expect("it was set up with a disk")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// One of its keys, `master` or `system`.
    pub(crate) fn key(&self, name: &str) -> String {
        let text = fs::read(self.data().join("keys.json")).expect("read the keys");
        let keys: Value = serde_json::from_slice(&text).expect("the keys are JSON");
        keys[name].as_str().expect("a key is text").to_owned()
    }

    /// Uploads a module to a hub, which has to work.
    pub(crate) fn upload(&self, hub: &str, name: &str, bytes: &[u8]) -> Value {
        let reply = self.client.put(&format!("/admin/modules/{name}?taskHub={hub}"), bytes);
        assert!(matches!(reply.status, 200 | 201), "upload {name}: {reply}");
        reply.json()
    }
}

impl Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            if let Some(Process { child, log }) = &mut self.process {
                // Best effort: the test has failed already, and this says why.
                let _ = child.kill();
                let _ = child.wait();
                eprintln!("the server's log:\n{}", log.lock().unwrap_or_else(PoisonError::into_inner));
            }
            return;
        }
        if self.process.is_some() {
            self.stop();
        }
        if let Err(error) = dacapo::engine::verify(&self.data(), &self.setup.limits) {
            panic!("what the server has stored is not as it should be: {error:#}");
        }
    }
}

impl Process {
    /// Starts a server and waits until it says where it listens.
    fn spawn(mut command: Command) -> (Self, String) {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start the server");
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, lines) = (child.stderr.take().expect("it is piped"), log.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let (mut stdout, (send, first)) = (BufReader::new(child.stdout.take().expect("it is piped")), mpsc::channel());
        thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = send.send(line);
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        let mut process = Self { child, log };
        let line = first.recv_timeout(Duration::from_secs(DEADLINE_S)).unwrap_or_default();
        match line.trim_end().strip_prefix("listening on ") {
            Some(origin) => (process, origin.to_owned()),
            None => {
                let _ = process.child.kill();
                let status = process.ended();
                panic!("the server began with {line:?} and ended with {status}:\n{}", process.log());
            }
        }
    }

    fn ended(&mut self) -> ExitStatus {
        eventually("the end of the server", || self.child.try_wait().expect("ask for the server"))
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the program, which has to come to its end, and returns what it said.
pub(crate) fn run_to_end(command: &mut Command) -> Output {
    /// Long enough to build the examples, if nobody has done it yet.
    const RUN_S_MAX: u64 = 300;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("start the program");
    let id = Pid::from_child(&child);
    let (send, ended) = mpsc::channel();
    thread::spawn(move || send.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(Duration::from_secs(RUN_S_MAX)) else {
        // Best effort: it must not outlive the test.
        let _ = kill_process(id, Signal::KILL);
        panic!("{command:?} did not end");
    };
    output.expect("wait for the program")
}

/// A file of a data directory.
struct StoredFile {
    path: PathBuf,
    permissions: Permissions,
    /// `None` for a folder.
    bytes: Option<Vec<u8>>,
}

impl StoredFile {
    fn write(&self, folder: &Path) {
        let path = folder.join(&self.path);
        match &self.bytes {
            Some(bytes) => fs::write(&path, bytes).expect("write a file"),
            None => fs::create_dir(&path).expect("make a folder"),
        }
        fs::set_permissions(&path, self.permissions.clone()).expect("set permissions");
    }
}

/// A data directory with the test guests uploaded and compiled, so that not every test has to wait for the compiler.
fn prepared() -> &'static [StoredFile] {
    static FILES: OnceLock<Vec<StoredFile>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut server = Server::empty();
        server.upload(HUB, "guests", guests::test_guests());
        server.stop();
        let mut files = Vec::new();
        list(&server.data(), Path::new(""), &mut files);
        files
    })
}

/// Lists what is in `folder` of `root`, each folder before its files.
fn list(root: &Path, folder: &Path, files: &mut Vec<StoredFile>) {
    for entry in fs::read_dir(root.join(folder)).expect("list a folder") {
        let entry = entry.expect("list a folder");
        let (path, found) = (folder.join(entry.file_name()), entry.metadata().expect("look at a file"));
        // Write permission for us, or nothing could be put into a copied folder.
        let permissions = Permissions::from_mode(found.permissions().mode() | 0o200);
        if found.is_dir() {
            files.push(StoredFile { path: path.clone(), permissions, bytes: None });
            list(root, &path, files);
        } else {
            let bytes = Some(fs::read(entry.path()).expect("read a file"));
            files.push(StoredFile { path, permissions, bytes });
        }
    }
}
