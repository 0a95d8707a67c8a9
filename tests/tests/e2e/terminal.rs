//! `-t`: the command has a terminal, and it behaves like the one that podvmm was started on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::harness::{Bench, guest_dir, podvmm, slowness};
use crate::pods::{Pod, podvmm_does};
use crate::rootfs;

/// A terminal with podvmm on it, and a user who types and reads.
struct Terminal {
    master: File,
    slave: OwnedFd,
    child: Child,
    screen: Arc<Mutex<String>>,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Terminal {
    fn open(script: &str) -> Self {
        let root = rootfs::shared().to_str().expect("it is a plain path");
        Self::open_with(&[
            "run", "-i", "-t", "--rootfs", root, "--", "sh", "-c", script,
        ])
    }

    fn open_with(args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pty can be made");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        tcsetwinsize(&master, size(33, 101)).expect("it is a terminal");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let slave = rustix::fs::open(
            name,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .expect("it can be opened");
        let stdio = || Stdio::from(slave.try_clone().expect("descriptors are left"));
        // setsid makes the terminal podvmm's own, as a terminal emulator does.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(podvmm())
            .args(args)
            .env("PODVMM_GUEST_DIR", guest_dir())
            .env("TERM", "xterm")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("setsid is part of util-linux");
        let master = File::from(master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut from, into) = (
            master.try_clone().expect("descriptors are left"),
            screen.clone(),
        );
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut part) {
                let text = String::from_utf8_lossy(&part[..read]);
                into.lock().expect("nobody panics with it").push_str(&text);
            }
        });
        Self {
            master,
            slave,
            child,
            screen,
        }
    }

    fn screen(&self) -> String {
        self.screen.lock().expect("nobody panics with it").clone()
    }

    fn types(&mut self, keys: &str) {
        self.master
            .write_all(keys.as_bytes())
            .expect("the terminal is open");
    }

    fn wait_for(&self, text: &str) {
        let until = Instant::now() + Duration::from_secs(10) * slowness();
        while !self.screen().contains(text) {
            assert!(
                Instant::now() < until,
                "no {text:?} on the screen: {:?}",
                self.screen()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn ends_with(mut self, status: i32) {
        let until = Instant::now() + Duration::from_secs(10) * slowness();
        loop {
            if let Some(ended) = self.child.try_wait().expect("it is our child") {
                assert_eq!(ended.code(), Some(status), "{:?}", self.screen());
                return;
            }
            if Instant::now() > until {
                let _ = self.child.kill();
                panic!("it did not end; the screen: {:?}", self.screen());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn the_command_has_a_terminal_of_the_same_size() {
    let _bench = Bench::new();
    let terminal = Terminal::open("tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && exit 5");
    terminal.wait_for("/dev/pts/");
    terminal.wait_for("33 101");
    terminal.ends_with(5);
}

#[test]
fn a_new_size_is_passed_on() {
    let _bench = Bench::new();
    let mut terminal = Terminal::open("echo ready; read x; stty size");
    terminal.wait_for("ready");
    tcsetwinsize(&terminal.master, size(44, 132)).unwrap();
    std::thread::sleep(Duration::from_millis(300) * slowness());
    terminal.types("\r");
    terminal.wait_for("44 132");
    terminal.ends_with(0);
}

#[test]
fn what_is_typed_is_echoed_once_and_read() {
    let _bench = Bench::new();
    let mut terminal = Terminal::open("echo ready; read x; echo \"<$x>\"");
    terminal.wait_for("ready");
    terminal.types("typed\r");
    terminal.wait_for("<typed>");
    assert_eq!(
        terminal.screen().matches("typed").count(),
        2,
        "{:?}",
        terminal.screen()
    );
    terminal.ends_with(0);
}

#[test]
fn control_c_interrupts_the_command_and_not_the_pod() {
    let _bench = Bench::new();
    let mut terminal =
        Terminal::open("trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 1; done");
    terminal.wait_for("ready");
    terminal.types("\x03");
    terminal.wait_for("caught");
    terminal.ends_with(9);
}

#[test]
fn control_d_is_the_end_of_input() {
    let _bench = Bench::new();
    let mut terminal = Terminal::open("echo ready; cat; echo end");
    terminal.wait_for("ready");
    terminal.types("line\r\x04");
    terminal.wait_for("end");
    terminal.ends_with(0);
}

#[test]
fn the_terminal_is_given_back_as_it_was() {
    let _bench = Bench::new();
    let terminal = Terminal::open("echo ready; sleep 1; exit 0");
    let before = tcgetattr(&terminal.slave).unwrap();
    terminal.wait_for("ready");
    let slave = terminal.slave.try_clone().unwrap();
    terminal.ends_with(0);
    let after = tcgetattr(&slave).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
}

#[test]
fn a_shell_can_be_used() {
    let _bench = Bench::new();
    let mut terminal = Terminal::open("PS1='prompt> ' exec sh -i");
    terminal.wait_for("prompt> ");
    terminal.types("echo $((6 * 7))\r");
    terminal.wait_for("\n42");
    terminal.types("exit 11\r");
    terminal.ends_with(11);
}

#[test]
fn a_shell_can_be_added_to_a_pod_that_runs_and_its_own_command_attached() {
    let _bench = Bench::new();
    let own = "while read line; do echo got:$line; done; echo over; exit 3";
    let _pod = Pod::start("e2e-tty", &["-i", "-t"], own);
    let shell = "PS1='prompt> ' exec sh -i";
    let mut terminal = Terminal::open_with(&["exec", "-it", "e2e-tty", "--", "sh", "-c", shell]);
    terminal.wait_for("prompt> ");
    terminal.types("stty size; tty\r");
    terminal.wait_for("33 101");
    terminal.wait_for("/dev/pts/");
    tcsetwinsize(&terminal.master, size(44, 132)).unwrap();
    std::thread::sleep(Duration::from_millis(300) * slowness());
    terminal.types("stty size\r");
    terminal.wait_for("44 132");
    terminal.types("sleep 1000\r");
    std::thread::sleep(Duration::from_millis(100) * slowness());
    terminal.types("\x03");
    terminal.types("echo $((6 * 7))\r");
    terminal.wait_for("\n42");
    terminal.types("exit 11\r");
    terminal.ends_with(11);

    let mut terminal = Terminal::open_with(&["attach", "e2e-tty"]);
    // What was written before is in the log: it shows that the streams are joined by an answer.
    std::thread::sleep(Duration::from_millis(300) * slowness());
    terminal.types("one\r");
    terminal.wait_for("got:one");
    terminal.types("\x10\x11");
    terminal.ends_with(0);
    let mut terminal = Terminal::open_with(&["attach", "e2e-tty/main"]);
    std::thread::sleep(Duration::from_millis(300) * slowness());
    terminal.types("two\r");
    terminal.wait_for("got:two");
    terminal.types("\x04");
    terminal.wait_for("over");
    terminal.ends_with(3);
    let log = podvmm_does(&["logs", "e2e-tty"]).status(0).text();
    assert!(log.contains("got:one") && log.contains("over"), "{log}");
}
