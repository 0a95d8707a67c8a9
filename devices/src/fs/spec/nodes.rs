//! Headers, INIT, and requests about names and attributes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Start of each request.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InHeader {
    /// Bytes of the request with this header.
    pub len: u32,
    /// What is asked for.
    pub opcode: u32,
    /// Comes back in the reply.
    pub unique: u64,
    /// Which node it is about.
    pub nodeid: u64,
    /// User of the caller.
    pub uid: u32,
    /// Group of the caller.
    pub gid: u32,
    /// Process of the caller.
    pub pid: u32,
    /// Extensions in units of 8 bytes.
    pub total_extlen: u16,
    /// Nothing.
    pub padding: u16,
}

/// Start of each reply.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct OutHeader {
    /// Bytes of the reply with this header.
    pub len: u32,
    /// Zero or a negative errno.
    pub error: i32,
    /// From the request.
    pub unique: u64,
}

/// Attributes of a node.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Attr {
    /// Inode number that programs see.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// Last access, seconds.
    pub atime: u64,
    /// Last modification, seconds.
    pub mtime: u64,
    /// Last change, seconds.
    pub ctime: u64,
    /// Its nanoseconds.
    pub atimensec: u32,
    /// Its nanoseconds.
    pub mtimensec: u32,
    /// Its nanoseconds.
    pub ctimensec: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Preferred size of I/O.
    pub blksize: u32,
    /// `ATTR_*`.
    pub flags: u32,
}

/// A name and what it stands for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EntryOut {
    /// The node; zero when there is none and that may be cached.
    pub nodeid: u64,
    /// Always zero: numbers are never used twice.
    pub generation: u64,
    /// How long the name may be cached, seconds.
    pub entry_valid: u64,
    /// How long the attributes may be cached, seconds.
    pub attr_valid: u64,
    /// Its nanoseconds.
    pub entry_valid_nsec: u32,
    /// Its nanoseconds.
    pub attr_valid_nsec: u32,
    /// The attributes.
    pub attr: Attr,
}

/// FORGET.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ForgetIn {
    /// How many lookups are given back.
    pub nlookup: u64,
}

/// One entry of BATCH_FORGET.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ForgetOne {
    /// Which node.
    pub nodeid: u64,
    /// How many lookups are given back.
    pub nlookup: u64,
}

/// BATCH_FORGET.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BatchForgetIn {
    /// Entries that follow.
    pub count: u32,
    /// Nothing.
    pub dummy: u32,
}

/// GETATTR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct GetattrIn {
    /// `GETATTR_*`.
    pub getattr_flags: u32,
    /// Nothing.
    pub dummy: u32,
    /// An open file, if flagged.
    pub fh: u64,
}

/// Reply to GETATTR and SETATTR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct AttrOut {
    /// How long they may be cached, seconds.
    pub attr_valid: u64,
    /// Its nanoseconds.
    pub attr_valid_nsec: u32,
    /// Nothing.
    pub dummy: u32,
    /// The attributes.
    pub attr: Attr,
}

/// MKNOD.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MknodIn {
    /// Type and permissions.
    pub mode: u32,
    /// Device number.
    pub rdev: u32,
    /// Applied already.
    pub umask: u32,
    /// Nothing.
    pub padding: u32,
}

/// MKDIR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MkdirIn {
    /// Permissions.
    pub mode: u32,
    /// Applied already.
    pub umask: u32,
}

/// RENAME.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RenameIn {
    /// Directory of the new name.
    pub newdir: u64,
}

/// RENAME2.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Rename2In {
    /// Directory of the new name.
    pub newdir: u64,
    /// `RENAME_*`.
    pub flags: u32,
    /// Nothing.
    pub padding: u32,
}

/// LINK.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LinkIn {
    /// Node that gets one more name.
    pub oldnodeid: u64,
}

/// SETATTR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SetattrIn {
    /// `fattr`.
    pub valid: u32,
    /// Nothing.
    pub padding: u32,
    /// An open file, if flagged.
    pub fh: u64,
    /// New size.
    pub size: u64,
    /// Nothing here.
    pub lock_owner: u64,
    /// New access time.
    pub atime: u64,
    /// New modification time.
    pub mtime: u64,
    /// Nothing here.
    pub ctime: u64,
    /// Its nanoseconds.
    pub atimensec: u32,
    /// Its nanoseconds.
    pub mtimensec: u32,
    /// Nothing here.
    pub ctimensec: u32,
    /// New mode.
    pub mode: u32,
    /// Nothing.
    pub unused4: u32,
    /// New owner.
    pub uid: u32,
    /// New group.
    pub gid: u32,
    /// Nothing.
    pub unused5: u32,
}

/// Reply to STATFS.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StatfsOut {
    /// Size in units of `frsize`.
    pub blocks: u64,
    /// Free.
    pub bfree: u64,
    /// Free for ordinary users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred size of I/O.
    pub bsize: u32,
    /// Longest name.
    pub namelen: u32,
    /// Unit.
    pub frsize: u32,
    /// Nothing.
    pub padding: u32,
    /// Nothing.
    pub spare: [u32; 6],
}

/// INIT, as long as all minor versions send it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InitIn {
    /// Version of the driver.
    pub major: u32,
    /// Version of the driver.
    pub minor: u32,
    /// Bytes.
    pub max_readahead: u32,
    /// `init`.
    pub flags: u32,
}

/// What [`InitIn`] has more with [`init::INIT_EXT`](super::init::INIT_EXT).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InitInExt {
    /// `init`, upper half.
    pub flags2: u32,
    /// Nothing.
    pub unused: [u32; 11],
}

/// Reply to INIT.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct InitOut {
    /// Version of the device.
    pub major: u32,
    /// Version of the device.
    pub minor: u32,
    /// Bytes.
    pub max_readahead: u32,
    /// `init`.
    pub flags: u32,
    /// Requests in flight.
    pub max_background: u16,
    /// From which the driver holds back.
    pub congestion_threshold: u16,
    /// Bytes of one WRITE.
    pub max_write: u32,
    /// Nanoseconds that a time stamp tells apart.
    pub time_gran: u32,
    /// Pages of one request.
    pub max_pages: u16,
    /// Nothing here.
    pub map_alignment: u16,
    /// `init`, upper half.
    pub flags2: u32,
    /// Nothing.
    pub unused: [u32; 7],
}
