//! A guest's FUSE client: requests as Linux lays them out, replies taken apart.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test kit reports by panicking"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Driver;
use crate::fs::Fs;
use crate::fs::spec::{
    AttrOut, CreateIn, Dirent, EntryOut, GetattrIn, GetxattrIn, InHeader, InitIn, InitInExt,
    InitOut, MkdirIn, MknodIn, NAME_MAX, Opcode, OpenIn, OpenOut, OutHeader, ROOT, ReadIn,
    ReleaseIn, Rename2In, SetxattrExt, SetxattrIn, WriteIn, WriteOut, init,
};

/// Queue of FORGET.
pub const HIPRIO: u16 = 0;
const REQUESTS: u16 = 1;
const HEADER: u32 = size_of::<OutHeader>() as u32;
/// Room for replies whose size does not matter.
const ROOM: u32 = 4096;

/// Reply or errno (positive).
pub type Reply<T> = Result<T, i32>;

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The entry as it came.
    pub dirent: Dirent,
    /// What READDIRPLUS says more.
    pub plus: Option<EntryOut>,
}

/// A client with a session.
pub struct FuseClient {
    driver: Driver,
    unique: u64,
    /// User and group of all requests.
    pub caller: (u32, u32),
    /// The device's answer to INIT.
    pub init: InitOut,
}

impl FuseClient {
    /// Brings `device` up and sends INIT as Linux 6.12 does.
    #[must_use]
    pub fn start(device: Fs) -> Self {
        let mut client = Self::without_session(device);
        client.init = client.say_hello().expect("INIT");
        client
    }

    /// Brings `device` up and no more.
    #[must_use]
    pub fn without_session(device: Fs) -> Self {
        Self {
            driver: Driver::start(Box::new(device), !0),
            unique: 0,
            caller: (0, 0),
            init: InitOut::default(),
        }
    }

    /// The driver below.
    pub fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    /// INIT.
    ///
    /// # Errors
    /// The device's errno.
    pub fn say_hello(&mut self) -> Reply<InitOut> {
        let hello = InitIn {
            major: 7,
            minor: 41,
            max_readahead: 128 << 10,
            flags: !0,
        };
        debug_assert_ne!(hello.flags & init::INIT_EXT as u32, 0);
        let more = InitInExt {
            flags2: !0,
            unused: [0; 11],
        };
        self.get(Opcode::Init, ROOT, &[hello.as_bytes(), more.as_bytes()])
    }

    /// A request's header.
    pub fn header(&mut self, opcode: u32, node: u64, body: usize) -> InHeader {
        self.unique += 2;
        InHeader {
            len: (size_of::<InHeader>() + body) as u32,
            opcode,
            unique: self.unique,
            nodeid: node,
            uid: self.caller.0,
            gid: self.caller.1,
            pid: 1,
            ..InHeader::default()
        }
    }

    /// Sends a request and gives the body of its reply.
    ///
    /// # Errors
    /// The device's errno.
    ///
    /// # Panics
    /// When the reply is malformed.
    pub fn call(&mut self, opcode: Opcode, node: u64, body: &[&[u8]], room: u32) -> Reply<Vec<u8>> {
        self.call_on(REQUESTS, opcode as u32, node, body, room)
    }

    /// As [`call`](Self::call) on any queue with any opcode.
    ///
    /// # Errors
    /// The device's errno.
    ///
    /// # Panics
    /// When the reply is malformed.
    pub fn call_on(
        &mut self,
        queue: u16,
        opcode: u32,
        node: u64,
        body: &[&[u8]],
        room: u32,
    ) -> Reply<Vec<u8>> {
        let len = body.iter().map(|part| part.len()).sum();
        let header = self.header(opcode, node, len);
        let mut readable = vec![header.as_bytes()];
        readable.extend(body.iter().filter(|part| !part.is_empty()));
        let writable = [HEADER, room];
        let writable = if room == 0 {
            &writable[..1]
        } else {
            &writable[..]
        };
        let reply = self.driver.request(queue, &readable, writable);
        let (out, rest) = OutHeader::read_from_prefix(&reply).expect("a reply has a header");
        assert_eq!(out.unique, header.unique, "a reply names its request");
        assert_eq!(
            out.len as usize,
            reply.len(),
            "a reply is as long as it says"
        );
        match out.error {
            0 => Ok(rest.to_vec()),
            error => {
                assert!(rest.is_empty(), "an error has no body");
                assert!((-4095..0).contains(&error), "an errno: {error}");
                Err(-error)
            }
        }
    }

    fn get<T: FromBytes + Immutable>(
        &mut self,
        opcode: Opcode,
        node: u64,
        body: &[&[u8]],
    ) -> Reply<T> {
        let reply = self.call(opcode, node, body, ROOM)?;
        Ok(T::read_from_bytes(&reply).expect("a reply of the right size"))
    }

    /// LOOKUP of one name.
    ///
    /// # Errors
    /// The device's errno.
    pub fn lookup(&mut self, parent: u64, name: &str) -> Reply<EntryOut> {
        self.get(Opcode::Lookup, parent, &[name.as_bytes(), b"\0"])
    }

    /// LOOKUP of each component of `path` from the root on.
    ///
    /// # Errors
    /// The device's errno.
    pub fn walk(&mut self, path: &str) -> Reply<u64> {
        let mut node = ROOT;
        for name in path.split('/') {
            node = self.lookup(node, name)?.nodeid;
        }
        Ok(node)
    }

    /// FORGET, on the queue made for it.
    pub fn forget(&mut self, node: u64, nlookup: u64) {
        let header = self.header(Opcode::Forget as u32, node, 8);
        let reply = self
            .driver
            .request(HIPRIO, &[header.as_bytes(), &nlookup.to_le_bytes()], &[]);
        assert!(reply.is_empty());
    }

    /// GETATTR.
    ///
    /// # Errors
    /// The device's errno.
    pub fn getattr(&mut self, node: u64) -> Reply<AttrOut> {
        self.get(Opcode::Getattr, node, &[GetattrIn::default().as_bytes()])
    }

    /// OPEN.
    ///
    /// # Errors
    /// The device's errno.
    pub fn open(&mut self, node: u64, flags: i32) -> Reply<OpenOut> {
        let args = OpenIn {
            flags: flags as u32,
            open_flags: 0,
        };
        self.get(Opcode::Open, node, &[args.as_bytes()])
    }

    /// OPENDIR.
    ///
    /// # Errors
    /// The device's errno.
    pub fn opendir(&mut self, node: u64) -> Reply<OpenOut> {
        self.get(Opcode::Opendir, node, &[OpenIn::default().as_bytes()])
    }

    /// READ.
    ///
    /// # Errors
    /// The device's errno.
    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Reply<Vec<u8>> {
        let args = read_in(fh, offset, size);
        self.call(Opcode::Read, node, &[args.as_bytes()], size)
    }

    /// WRITE.
    ///
    /// # Errors
    /// The device's errno.
    pub fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Reply<u32> {
        self.write_with(node, fh, offset, data, 0, 0)
    }

    /// WRITE with flags.
    ///
    /// # Errors
    /// The device's errno.
    pub fn write_with(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        data: &[u8],
        write_flags: u32,
        flags: i32,
    ) -> Reply<u32> {
        let args = WriteIn {
            fh,
            offset,
            size: data.len() as u32,
            write_flags,
            flags: flags as u32,
            ..WriteIn::default()
        };
        let out: WriteOut = self.get(Opcode::Write, node, &[args.as_bytes(), data])?;
        Ok(out.size)
    }

    /// RELEASE.
    ///
    /// # Errors
    /// The device's errno.
    pub fn release(&mut self, node: u64, fh: u64) -> Reply<()> {
        let args = ReleaseIn {
            fh,
            ..ReleaseIn::default()
        };
        self.get::<()>(Opcode::Release, node, &[args.as_bytes()])
    }

    /// CREATE.
    ///
    /// # Errors
    /// The device's errno.
    ///
    /// # Panics
    /// When the reply is malformed.
    pub fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Reply<(EntryOut, OpenOut)> {
        self.create_by(Opcode::Create, parent, name, flags, mode)
    }

    /// CREATE or TMPFILE.
    ///
    /// # Errors
    /// The device's errno.
    ///
    /// # Panics
    /// When the reply is malformed.
    pub fn create_by(
        &mut self,
        opcode: Opcode,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Reply<(EntryOut, OpenOut)> {
        let args = CreateIn {
            flags: flags as u32,
            mode,
            umask: 0o22,
            open_flags: 0,
        };
        let body = [args.as_bytes(), name.as_bytes(), b"\0"];
        let reply = self.call(opcode, parent, &body, ROOM)?;
        let (entry, rest) = EntryOut::read_from_prefix(&reply).expect("entry");
        Ok((entry, OpenOut::read_from_bytes(rest).expect("open file")))
    }

    /// MKDIR.
    ///
    /// # Errors
    /// The device's errno.
    pub fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Reply<EntryOut> {
        let args = MkdirIn { mode, umask: 0 };
        self.get(
            Opcode::Mkdir,
            parent,
            &[args.as_bytes(), name.as_bytes(), b"\0"],
        )
    }

    /// MKNOD.
    ///
    /// # Errors
    /// The device's errno.
    pub fn mknod(&mut self, parent: u64, name: &str, mode: u32, rdev: u32) -> Reply<EntryOut> {
        let args = MknodIn {
            mode,
            rdev,
            ..MknodIn::default()
        };
        self.get(
            Opcode::Mknod,
            parent,
            &[args.as_bytes(), name.as_bytes(), b"\0"],
        )
    }

    /// SYMLINK.
    ///
    /// # Errors
    /// The device's errno.
    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Reply<EntryOut> {
        let body = [name.as_bytes(), b"\0", target.as_bytes(), b"\0"];
        self.get(Opcode::Symlink, parent, &body)
    }

    /// READLINK.
    ///
    /// # Errors
    /// The device's errno.
    pub fn readlink(&mut self, node: u64) -> Reply<String> {
        let reply = self.call(Opcode::Readlink, node, &[], ROOM)?;
        Ok(String::from_utf8_lossy(&reply).into_owned())
    }

    /// LINK.
    ///
    /// # Errors
    /// The device's errno.
    pub fn link(&mut self, node: u64, parent: u64, name: &str) -> Reply<EntryOut> {
        let body = [&node.to_le_bytes()[..], name.as_bytes(), b"\0"];
        self.get(Opcode::Link, parent, &body)
    }

    /// UNLINK or RMDIR.
    ///
    /// # Errors
    /// The device's errno.
    pub fn unlink(&mut self, opcode: Opcode, parent: u64, name: &str) -> Reply<()> {
        self.get(opcode, parent, &[name.as_bytes(), b"\0"])
    }

    /// RENAME2.
    ///
    /// # Errors
    /// The device's errno.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Reply<()> {
        let args = Rename2In {
            newdir: to.0,
            flags,
            padding: 0,
        };
        let body = [
            args.as_bytes(),
            from.1.as_bytes(),
            b"\0",
            to.1.as_bytes(),
            b"\0",
        ];
        self.get(Opcode::Rename2, from.0, &body)
    }

    /// SETXATTR.
    ///
    /// # Errors
    /// The device's errno.
    pub fn setxattr(&mut self, node: u64, name: &str, value: &[u8]) -> Reply<()> {
        let args = SetxattrIn {
            size: value.len() as u32,
            flags: 0,
        };
        let more = SetxattrExt::default();
        let body = [
            args.as_bytes(),
            more.as_bytes(),
            name.as_bytes(),
            b"\0",
            value,
        ];
        self.get(Opcode::Setxattr, node, &body)
    }

    /// GETXATTR with room for `size` bytes.
    ///
    /// # Errors
    /// The device's errno.
    pub fn getxattr(&mut self, node: u64, name: &str, size: u32) -> Reply<Vec<u8>> {
        let args = GetxattrIn { size, padding: 0 };
        let body = [args.as_bytes(), name.as_bytes(), b"\0"];
        self.call(Opcode::Getxattr, node, &body, size.max(8))
    }

    /// READDIR or READDIRPLUS until the end, in replies of `size` bytes.
    ///
    /// # Errors
    /// The device's errno.
    pub fn list(&mut self, opcode: Opcode, node: u64, fh: u64, size: u32) -> Reply<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let offset = entries.last().map_or(0, |entry| entry.dirent.off);
            let args = read_in(fh, offset, size);
            let reply = self.call(opcode, node, &[args.as_bytes()], size)?;
            if reply.is_empty() {
                return Ok(entries);
            }
            entries.extend(parse_entries(&reply, opcode == Opcode::Readdirplus));
        }
    }
}

fn read_in(fh: u64, offset: u64, size: u32) -> ReadIn {
    ReadIn {
        fh,
        offset,
        size,
        ..ReadIn::default()
    }
}

/// Takes a reply of READDIR(PLUS) apart, checking all that Linux checks.
///
/// # Panics
/// When it is malformed.
#[must_use]
pub fn parse_entries(mut reply: &[u8], plus: bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    while !reply.is_empty() {
        let mut at = reply;
        let entry_out = plus.then(|| {
            let (entry, rest) = EntryOut::read_from_prefix(at).expect("whole entry");
            at = rest;
            entry
        });
        let (dirent, rest) = Dirent::read_from_prefix(at).expect("whole entry");
        let len = dirent.namelen as usize;
        assert!((1..=NAME_MAX).contains(&len), "a name has a length");
        let name = &rest[..len];
        assert!(
            !name.contains(&0) && !name.contains(&b'/'),
            "a name is a name"
        );
        let used = (reply.len() - rest.len() + len).next_multiple_of(8);
        let padding = &reply[reply.len() - rest.len() + len..used];
        assert!(padding.iter().all(|byte| *byte == 0), "padding is zero");
        reply = &reply[used..];
        entries.push(Entry {
            name: String::from_utf8_lossy(name).into_owned(),
            dirent,
            plus: entry_out,
        });
    }
    entries
}
