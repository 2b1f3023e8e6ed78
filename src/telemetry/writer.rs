//! Lines gathered in memory and written by one thread, so that no request waits for stderr.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that wait, in bytes. Past it, lines are counted instead.
const ROOM: usize = 8 << 20;
/// A buffer that grew larger than this is not kept.
const KEPT: usize = 1 << 20;
/// How long lines are gathered before they are written.
const GATHERING: Duration = Duration::from_millis(20);
/// How long the end waits for a reader of stderr who does not read.
const LAST: Duration = Duration::from_secs(1);

/// Whole lines on their way to one writer.
pub struct Log {
    waiting: Mutex<Waiting>,
    came: Condvar,
    went: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    dropped: u64,
    /// Whether the thread is writing what it has taken.
    is_writing: bool,
    /// Whether somebody wants it written at once.
    is_urgent: bool,
}

impl Log {
    /// A log whose lines go to stderr, if a thread can be had for it.
    pub fn to_stderr() -> Option<&'static Log> {
        Log::start(|bytes| {
            // Other threads may write there too: under this lock lines stay whole.
            let _ = io::stderr().lock().write_all(bytes);
        })
    }

    /// It stays for as long as the process does.
    fn start(write: impl FnMut(&[u8]) + Send + 'static) -> Option<&'static Log> {
        let log: &'static Log = Box::leak(Box::new(Log {
            waiting: Mutex::default(),
            came: Condvar::new(),
            went: Condvar::new(),
        }));
        let writer = std::thread::Builder::new().name("log".into());
        writer.spawn(move || log.write_on(write)).ok().map(|_| log)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one line, with its end.
    pub fn line(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.lines.len() + line.len() > ROOM {
            waiting.dropped += 1;
            return;
        }
        let is_first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if is_first {
            self.came.notify_one();
        }
    }

    /// Waits until what was gathered so far is written, but not for ever.
    pub fn flush(&self) {
        let mut waiting = self.waiting();
        waiting.is_urgent = true;
        self.came.notify_one();
        let pending = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        let _ = self.went.wait_timeout_while(waiting, LAST, pending);
    }

    fn write_on(&self, mut write: impl FnMut(&[u8])) {
        let mut lines = Vec::new();
        let mut waiting = self.waiting();
        loop {
            while waiting.lines.is_empty() && waiting.dropped == 0 {
                waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            if !waiting.is_urgent {
                drop(waiting);
                std::thread::sleep(GATHERING);
                waiting = self.waiting();
            }
            std::mem::swap(&mut lines, &mut waiting.lines);
            let dropped = std::mem::take(&mut waiting.dropped);
            (waiting.is_writing, waiting.is_urgent) = (true, false);
            drop(waiting);

            if dropped > 0 {
                put_dropped(&mut lines, dropped);
            }
            write(&lines);
            lines.clear();
            if lines.capacity() > KEPT {
                lines = Vec::new();
            }
            waiting = self.waiting();
            waiting.is_writing = false;
            self.went.notify_all();
        }
    }
}

fn put_dropped(lines: &mut Vec<u8>, dropped: u64) {
    lines.extend_from_slice(b"{\"timestamp\":\"");
    super::put_timestamp(lines);
    // Writing to memory cannot fail.
    let _ = writeln!(
        lines,
        "\",\"level\":\"WARN\",\"message\":\"lines were dropped: stderr is read too slowly\",\
         \"lines\":{dropped}}}"
    );
}

/// The lines of `tracing`: each comes whole, in one write.
impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn lines_of_many_threads_come_out_whole_and_all_of_them() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let into = written.clone();
        let log = Log::start(move |bytes| into.lock().unwrap().extend_from_slice(bytes)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for number in 0..1000 {
                        log.line(format!("{thread} {number} {}\n", "x".repeat(number)).as_bytes());
                    }
                });
            }
        });
        log.flush();
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let mut next = [0; 4];
        for line in text.lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [thread, number, rest] = parts[..] else { panic!("{line}") };
            let (thread, number): (usize, usize) =
                (thread.parse().unwrap(), number.parse().unwrap());
            assert_eq!((next[thread], rest.len()), (number, number), "{line}");
            next[thread] += 1;
        }
        assert_eq!(next, [1000; 4]);
    }

    #[test]
    fn a_reader_who_stops_holds_up_nobody_and_is_told_what_he_missed() {
        let (go_on, blocked) = mpsc::channel::<()>();
        let (into, written) = mpsc::channel();
        let log = Log::start(move |bytes: &[u8]| {
            let _ = blocked.recv();
            let _ = into.send(bytes.to_vec());
        })
        .unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let began = std::time::Instant::now();
        let lines = 3 * ROOM / line.len();
        for _ in 0..lines {
            log.line(&line);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(log.waiting().lines.len() <= ROOM);
        drop(go_on);
        log.flush();
        let text = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
        let (whole, told): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('x'));
        let missed: Vec<u64> = told
            .iter()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["lines"].as_u64().unwrap()
            })
            .collect();
        assert!(missed[0] > 0);
        assert_eq!(whole.len() as u64 + missed.iter().sum::<u64>(), lines as u64);
    }
}
