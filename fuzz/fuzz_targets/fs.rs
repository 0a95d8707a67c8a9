//! Requests to the file system device: plausible ones, damaged ones and noise. Whatever they are, a
//! reply is well-formed, a directory beside the export stays as it is, and so does a read-only one.
#![no_main]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use podvmm_devices::fs::spec::Opcode;
use podvmm_devices::fs::{Export, Fs, FsConfig, FsSettings, XattrPolicy};
use podvmm_devices::testkit::fuse::{FuseClient, parse_entries};

const NAMES: [&str; 12] = [
    "a", "d", "f", "link", "abs", "new", "..", ".", "", "a/b", "../outside", "/etc",
];
const MAX_STEPS: usize = 64;

#[derive(Arbitrary, Debug)]
enum Step {
    Lookup { node: u8, name: u8 },
    Create { node: u8, name: u8, flags: u16, mode: u16, tmp: bool },
    Mkdir { node: u8, name: u8 },
    Mknod { node: u8, name: u8, mode: u16, rdev: u8 },
    Symlink { node: u8, name: u8, target: u8 },
    Link { node: u8, parent: u8, name: u8 },
    Rename { from: u8, old: u8, to: u8, new: u8, flags: u8 },
    Unlink { node: u8, name: u8, directory: bool },
    Open { node: u8, flags: u16, directory: bool },
    Read { handle: u8, offset: u32, size: u16 },
    List { handle: u8, offset: u64, size: u16, plus: bool },
    Write { handle: u8, offset: u32, data: Vec<u8> },
    Forget { node: u8, count: u8 },
    /// Any opcode with any body, about a node that exists or not.
    Raw { queue: bool, opcode: u8, node: u8, body: Vec<u8>, room: u16 },
    /// As it comes, header and all.
    Noise { bytes: Vec<u8>, room: Option<u16> },
    Reset,
    Pause,
}

struct World {
    path: PathBuf,
    client: FuseClient,
    nodes: Vec<u64>,
    handles: Vec<(u64, u64)>,
}

impl World {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("podvmm-fuzz-fs-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        for side in ["inside", "outside", "fixed"] {
            fs::create_dir_all(path.join(side).join("d")).unwrap();
            fs::write(path.join(side).join("a"), side).unwrap();
            fs::write(path.join(side).join("d/f"), side).unwrap();
        }
        symlink("../outside", path.join("inside/link")).unwrap();
        symlink(path.join("outside"), path.join("inside/abs")).unwrap();
        let dir = |name: &str| Export::new(name, fs::File::open(path.join(name)).unwrap().into());
        let inside = dir("inside").unwrap().writable().xattr(XattrPolicy::User);
        let settings = FsSettings {
            max_nodes: 40,
            max_node_fds: 3,
            max_handles: 8,
            ..FsSettings::default()
        };
        let config = FsConfig::try_from(settings).unwrap();
        let device = Fs::new(config, [inside, dir("fixed").unwrap()]).unwrap();
        let mut world = Self {
            client: FuseClient::start(device),
            path,
            nodes: Vec::new(),
            handles: Vec::new(),
        };
        world.meet();
        world
    }

    /// Gets to know what a guest knows after its mount.
    fn meet(&mut self) {
        self.handles.clear();
        self.nodes = vec![1, 0, 77];
        for path in ["inside", "fixed", "inside/a", "fixed/a", "inside/d", "inside/link"] {
            self.nodes.extend(self.client.walk(path));
        }
    }

    fn node(&self, index: u8) -> u64 {
        self.nodes[usize::from(index) % self.nodes.len()]
    }

    fn handle(&self, index: u8) -> (u64, u64) {
        let at = usize::from(index) % self.handles.len().max(1);
        self.handles.get(at).copied().unwrap_or((1, 1))
    }

    fn step(&mut self, step: Step) {
        let name = |index: u8| NAMES[usize::from(index) % NAMES.len()];
        match step {
            Step::Lookup { node, name: n } => {
                let found = self.client.lookup(self.node(node), name(n));
                self.nodes.extend(found.map(|entry| entry.nodeid));
            }
            Step::Create { node, name: n, flags, mode, tmp } => {
                let opcode = if tmp { Opcode::Tmpfile } else { Opcode::Create };
                let (node, flags) = (self.node(node), i32::from(flags));
                if let Ok((entry, open)) =
                    self.client.create_by(opcode, node, name(n), flags, mode.into())
                {
                    self.nodes.push(entry.nodeid);
                    self.handles.push((entry.nodeid, open.fh));
                }
            }
            Step::Mkdir { node, name: n } => {
                let made = self.client.mkdir(self.node(node), name(n), 0o755);
                self.nodes.extend(made.map(|entry| entry.nodeid));
            }
            Step::Mknod { node, name: n, mode, rdev } => {
                let made = self.client.mknod(self.node(node), name(n), mode.into(), rdev.into());
                self.nodes.extend(made.map(|entry| entry.nodeid));
            }
            Step::Symlink { node, name: n, target } => {
                let made = self.client.symlink(self.node(node), name(n), name(target));
                self.nodes.extend(made.map(|entry| entry.nodeid));
            }
            Step::Link { node, parent, name: n } => {
                let _ = self.client.link(self.node(node), self.node(parent), name(n));
            }
            Step::Rename { from, old, to, new, flags } => {
                let (from, to) = (self.node(from), self.node(to));
                let flags = u32::from(flags);
                let _ = self.client.rename((from, name(old)), (to, name(new)), flags);
            }
            Step::Unlink { node, name: n, directory } => {
                let opcode = if directory { Opcode::Rmdir } else { Opcode::Unlink };
                let _ = self.client.unlink(opcode, self.node(node), name(n));
            }
            Step::Open { node, flags, directory } => {
                let node = self.node(node);
                let open = if directory {
                    self.client.opendir(node)
                } else {
                    self.client.open(node, flags.into())
                };
                self.handles.extend(open.map(|open| (node, open.fh)));
            }
            Step::Read { handle, offset, size } => {
                let (node, fh) = self.handle(handle);
                let _ = self.client.read(node, fh, offset.into(), size.into());
            }
            Step::List { handle, offset, size, plus } => self.list(handle, offset, size, plus),
            Step::Write { handle, offset, data } => {
                let (node, fh) = self.handle(handle);
                let _ = self.client.write(node, fh, offset.into(), &data);
            }
            Step::Forget { node, count } => {
                self.client.forget(self.node(node), count.into());
            }
            Step::Raw { queue, opcode, node, mut body, room } => {
                bound(opcode.into(), &mut body);
                let node = self.node(node);
                let room = u32::from(room);
                let silent = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt];
                if !Opcode::new(opcode.into()).is_some_and(|opcode| silent.contains(&opcode)) {
                    let queue = queue.into();
                    let _ = self.client.call_on(queue, opcode.into(), node, &[&body], room);
                }
            }
            Step::Noise { mut bytes, room } => self.noise(&mut bytes, room),
            Step::Reset => self.reset(),
            Step::Pause => {
                self.client.driver().transport().pause();
                self.client.driver().transport().resume();
            }
        }
    }

    fn list(&mut self, handle: u8, offset: u64, size: u16, plus: bool) {
        let (node, fh) = self.handle(handle);
        let opcode = if plus { Opcode::Readdirplus } else { Opcode::Readdir };
        let mut body = Vec::new();
        body.extend_from_slice(&fh.to_le_bytes());
        body.extend_from_slice(&offset.to_le_bytes());
        body.extend_from_slice(&u64::from(size).to_le_bytes());
        body.extend_from_slice(&[0; 16]);
        if let Ok(reply) = self.client.call(opcode, node, &[&body], size.into()) {
            let _ = parse_entries(&reply, plus);
        }
    }

    fn noise(&mut self, bytes: &mut [u8], room: Option<u16>) {
        if let Some(opcode) = bytes.get(4..8) {
            let opcode = u32::from_le_bytes([opcode[0], opcode[1], opcode[2], opcode[3]]);
            if let Some(body) = bytes.get_mut(40..) {
                bound(opcode, body);
            }
        }
        let room: Vec<u32> = room.into_iter().map(u32::from).collect();
        if bytes.is_empty() && room.is_empty() {
            return;
        }
        let driver = self.client.driver();
        driver.post(1, &[bytes], &room);
        loop {
            if driver.poll(1).is_some() {
                return;
            }
            if driver.needs_reset() {
                return self.reset();
            }
            std::thread::yield_now();
        }
    }

    fn reset(&mut self) {
        self.client.driver().bring_up(!0);
        self.client.say_hello().expect("INIT after a reset");
        self.meet();
    }
}

/// Keeps a request from filling the disk of whoever runs this.
fn bound(opcode: u32, body: &mut [u8]) {
    let large = match Opcode::new(opcode) {
        Some(Opcode::Fallocate) => 18..24,
        Some(Opcode::CopyFileRange) => 42..48,
        _ => return,
    };
    if let Some(bytes) = body.get_mut(large) {
        bytes.fill(0);
    }
}

fn check(path: &Path, side: &str) {
    let dir = path.join(side);
    let list = |dir: &Path| fs::read_dir(dir).unwrap().count();
    assert_eq!((list(&dir), list(&dir.join("d"))), (2, 1), "{side} is as it was");
    for file in ["a", "d/f"] {
        assert_eq!(fs::read(dir.join(file)).unwrap(), side.as_bytes());
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps.into_iter().take(MAX_STEPS) {
        world.step(step);
        if world.client.driver().needs_reset() {
            world.reset();
        }
    }
    check(&world.path, "outside");
    check(&world.path, "fixed");
});
