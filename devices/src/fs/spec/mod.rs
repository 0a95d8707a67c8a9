//! The FUSE wire format: opcodes, flags and what lies in memory.
//!
//! Names are those of the Linux header, without the `FUSE_` prefix where the module says it. All
//! fields are little-endian (virtio-v1.2 §5.11.6).

mod files;
mod nodes;

pub use files::*;
pub use nodes::*;

/// Protocol version spoken.
pub const MAJOR: u32 = 7;
/// Newest minor version spoken.
pub const MINOR: u32 = 38;
/// Oldest minor version of a driver that is served: the first one that speaks virtio-fs.
pub const OLDEST_MINOR: u32 = 31;
/// Node of the root directory.
pub const ROOT: u64 = 1;
/// An inode number that says nothing.
pub const UNKNOWN_INO: u64 = 0xffff_ffff;
/// Longest name of one component in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path or link target in bytes, with its NUL.
pub const PATH_MAX: usize = 4096;

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[allow(missing_docs, reason = "opcodes are as they are")]
        pub enum Opcode { $($(#[$doc])* $name = $value,)* }

        impl Opcode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The opcode with number `value`.
            #[must_use]
            pub const fn new(value: u32) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    Lookup = 1,
    Forget = 2,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Fsync = 20,
    Setxattr = 21,
    Getxattr = 22,
    Listxattr = 23,
    Removexattr = 24,
    Flush = 25,
    Init = 26,
    Opendir = 27,
    Readdir = 28,
    Releasedir = 29,
    Fsyncdir = 30,
    Getlk = 31,
    Setlk = 32,
    Setlkw = 33,
    Access = 34,
    Create = 35,
    Interrupt = 36,
    Destroy = 38,
    BatchForget = 42,
    Fallocate = 43,
    Readdirplus = 44,
    Rename2 = 45,
    Lseek = 46,
    CopyFileRange = 47,
    Syncfs = 50,
    Tmpfile = 51,
}

/// `FUSE_*` flags of INIT that are offered or looked at.
pub mod init {
    /// Several reads of one file at a time.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// `O_TRUNC` comes with OPEN.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// Writes of more than a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// A change of size or modification time drops the driver's cached pages.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// READDIRPLUS exists.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// The driver picks between READDIR and READDIRPLUS.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct I/O in parallel.
    pub const ASYNC_DIO: u64 = 1 << 15;
    /// Lookups and READDIR of one directory in parallel.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// `max_pages` is valid.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// Link targets may be cached.
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    /// Directories may be announced as mounts of their own.
    pub const SUBMOUNTS: u64 = 1 << 27;
    /// The device drops set-user-id and set-group-id bits when it is told to.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// The long form of SETXATTR.
    pub const SETXATTR_EXT: u64 = 1 << 29;
    /// `flags2` is valid.
    pub const INIT_EXT: u64 = 1 << 30;
}

/// `FATTR_*`: which fields of SETATTR are valid.
pub mod fattr {
    /// Mode.
    pub const MODE: u32 = 1 << 0;
    /// User.
    pub const UID: u32 = 1 << 1;
    /// Group.
    pub const GID: u32 = 1 << 2;
    /// Size.
    pub const SIZE: u32 = 1 << 3;
    /// Access time.
    pub const ATIME: u32 = 1 << 4;
    /// Modification time.
    pub const MTIME: u32 = 1 << 5;
    /// File handle.
    pub const FH: u32 = 1 << 6;
    /// Access time is now.
    pub const ATIME_NOW: u32 = 1 << 7;
    /// Modification time is now.
    pub const MTIME_NOW: u32 = 1 << 8;
    /// Set-user-id and set-group-id go when the size changes.
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FOPEN_*`: answers to OPEN.
pub mod fopen {
    /// Bypass the driver's page cache.
    pub const DIRECT_IO: u32 = 1 << 0;
    /// Keep what is cached.
    pub const KEEP_CACHE: u32 = 1 << 1;
    /// The directory's entries may be cached.
    pub const CACHE_DIR: u32 = 1 << 3;
}

/// `FUSE_OPEN_KILL_SUIDGID` of OPEN and CREATE.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `FUSE_WRITE_KILL_SUIDGID` of WRITE.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_GETATTR_FH` of GETATTR.
pub const GETATTR_FH: u32 = 1 << 0;
/// `FUSE_FSYNC_FDATASYNC` of FSYNC.
pub const FSYNC_FDATASYNC: u32 = 1 << 0;
/// `FUSE_ATTR_SUBMOUNT` of an attribute block.
pub const ATTR_SUBMOUNT: u32 = 1 << 0;
