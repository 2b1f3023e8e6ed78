//! The binary itself: a state directory, the server as a process of its own, and the command line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nodeinit::client::{ServerUrl, Session};
use nodeinit::clock::Clock;
use nodeinit::maintenance::key;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Node, Operator, Stranger, TestDatabase};

/// Longer than a start takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_mins(1);

/// The binary, with nothing of ours in its environment.
pub fn nodeinit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodeinit"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("NODEINIT_") || name == "STATE_DIRECTORY" || name == "NOTIFY_SOCKET" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// What a command that has ended left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub bytes: Vec<u8>,
    pub err: String,
}

impl Ran {
    /// The one JSON document on stdout.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Exit 0; anything else is told in full.
    pub fn done(self) -> Ran {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Runs a command to its end with `input` on its stdin.
pub fn run(mut command: Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // The command may end without having read it.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        bytes: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A state directory and a database, for servers that come and go.
pub struct Home {
    // Dropped in this order.
    pub database: TestDatabase,
    pub dir: TempDir,
}

impl Home {
    /// With a secret key where the server makes none itself.
    pub fn new() -> Home {
        let home = Home::without_key();
        if home.database.is_postgres() {
            key::make(&home.path("secret.key")).unwrap();
        }
        home
    }

    pub fn without_key() -> Home {
        let dir = tempfile::Builder::new().prefix("nodeinit").tempdir().unwrap();
        let database = TestDatabase::new(dir.path());
        Home { database, dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary, told of this state directory and database by its environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = nodeinit();
        command.env("NODEINIT_STATE_DIR", self.dir.path());
        command.env("NODEINIT_DATABASE_URL", self.database.url());
        command.current_dir(self.dir.path());
        command.args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        run(self.command(args), b"")
    }

    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        run(self.command(args), input)
    }

    pub fn serve(&self) -> Process {
        self.serve_with(&[])
    }

    /// A second server over the database of `first`, reached by `url`, with its key and a state
    /// directory of its own.
    pub fn serve_beside(&self, first: &Home, url: &str) -> Process {
        let mut command = self.command(&["serve"]);
        command.env("NODEINIT_DATABASE_URL", url);
        command.env("NODEINIT_SECRET_KEY_FILE", first.path("secret.key"));
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        Process::spawn(command, self.path("admin.sock"))
    }

    /// A server on free ports, once it has said that it is up.
    pub fn serve_with(&self, flags: &[&str]) -> Process {
        let mut command = self.command(&["serve"]);
        for (name, value) in [("--listen", "127.0.0.1:0"), ("--admin-listen", "127.0.0.1:0")] {
            if !flags.contains(&name) {
                command.args([name, value]);
            }
        }
        command.args(flags);
        Process::spawn(command, self.path("admin.sock"))
    }
}

/// A server as a process. It is killed when this is dropped.
pub struct Process {
    pub node: SocketAddr,
    pub admin: Option<SocketAddr>,
    pub socket: PathBuf,
    /// The lines that name its addresses.
    pub addresses: Vec<String>,
    child: Child,
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub fn spawn(mut command: Command, socket: PathBuf) -> Process {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let said = Arc::new(Mutex::new(String::new()));
        let (line_out, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let all = said.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let mut all = all.lock().unwrap();
                all.push_str(&line);
                all.push('\n');
                drop(all);
                let _ = line_out.send(line);
            }
        });
        let mut process = Process {
            node: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: None,
            socket,
            addresses: Vec::new(),
            child,
            said,
            reader: Some(reader),
        };
        let address = |line: &str| {
            let url = line.split("://").nth(1)?;
            url.split('/').next()?.parse::<SocketAddr>().ok()
        };
        loop {
            let line = match lines.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("it does not come up: {}", process.said()),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended: {}", process.said()),
            };
            let Some(told) = line.strip_prefix("nodeinit: ") else { continue };
            if told.starts_with("warning") {
                continue;
            }
            process.addresses.push(line.clone());
            if told.starts_with("nodes on ") {
                process.node = address(&line).expect("an address");
            } else if told.starts_with("admin on ") {
                process.admin = Some(address(&line).expect("an address"));
            } else if told.starts_with("admin socket on ") {
                return process;
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said on stderr so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end: the exit code, or -1 when a signal ended it.
    pub fn wait(&mut self) -> i32 {
        let began = Instant::now();
        while !self.has_ended() {
            assert!(began.elapsed() < PATIENCE, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait(), -1);
    }

    /// SIGTERM, and everything it said.
    pub fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        assert_eq!(self.wait(), 0, "{}", self.said());
        self.said()
    }

    pub fn operator(&self) -> Operator {
        Operator { session: Session::new(ServerUrl::Unix(self.socket.clone())) }
    }

    /// Adds a node with a token, and returns what the machine knows.
    pub fn node(&self, system_id: &str) -> Node {
        self.operator().add(system_id, serde_json::json!({}));
        self.credentials(system_id)
    }

    pub fn credentials(&self, system_id: &str) -> Node {
        Node::new(self.node, Clock::System, &self.operator().token(system_id))
    }

    pub fn observer(&self) -> Stranger {
        Stranger { address: self.admin.expect("an admin listener") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nothing listens on just now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).unwrap().mode() & 0o777
}
