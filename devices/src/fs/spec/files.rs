//! Requests about open files, directories and extended attributes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// OPEN and OPENDIR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct OpenIn {
    /// `O_*`.
    pub flags: u32,
    /// `OPEN_*`.
    pub open_flags: u32,
}

/// CREATE and TMPFILE.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CreateIn {
    /// `O_*`.
    pub flags: u32,
    /// Permissions.
    pub mode: u32,
    /// Applied already.
    pub umask: u32,
    /// `OPEN_*`.
    pub open_flags: u32,
}

/// Reply to OPEN, OPENDIR and the end of that to CREATE.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct OpenOut {
    /// The open file.
    pub fh: u64,
    /// `fopen`.
    pub open_flags: u32,
    /// Nothing.
    pub padding: u32,
}

/// RELEASE and RELEASEDIR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ReleaseIn {
    /// The open file.
    pub fh: u64,
    /// `O_*`.
    pub flags: u32,
    /// Nothing here.
    pub release_flags: u32,
    /// Nothing here.
    pub lock_owner: u64,
}

/// READ, READDIR and READDIRPLUS.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ReadIn {
    /// The open file.
    pub fh: u64,
    /// Where.
    pub offset: u64,
    /// At most so many bytes.
    pub size: u32,
    /// Nothing here.
    pub read_flags: u32,
    /// Nothing here.
    pub lock_owner: u64,
    /// `O_*`.
    pub flags: u32,
    /// Nothing.
    pub padding: u32,
}

/// WRITE; the data follows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct WriteIn {
    /// The open file.
    pub fh: u64,
    /// Where.
    pub offset: u64,
    /// Bytes that follow.
    pub size: u32,
    /// `WRITE_*`.
    pub write_flags: u32,
    /// Nothing here.
    pub lock_owner: u64,
    /// `O_*`.
    pub flags: u32,
    /// Nothing.
    pub padding: u32,
}

/// Reply to WRITE and COPY_FILE_RANGE.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct WriteOut {
    /// Bytes written.
    pub size: u32,
    /// Nothing.
    pub padding: u32,
}

/// FSYNC and FSYNCDIR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FsyncIn {
    /// The open file.
    pub fh: u64,
    /// `FSYNC_*`.
    pub fsync_flags: u32,
    /// Nothing.
    pub padding: u32,
}

/// SETXATTR; name and value follow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SetxattrIn {
    /// Bytes of the value.
    pub size: u32,
    /// `XATTR_*`.
    pub flags: u32,
}

/// What [`SetxattrIn`] has more since 7.33.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SetxattrExt {
    /// Nothing here.
    pub setxattr_flags: u32,
    /// Nothing.
    pub padding: u32,
}

/// GETXATTR and LISTXATTR.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct GetxattrIn {
    /// Room; zero asks for the size.
    pub size: u32,
    /// Nothing.
    pub padding: u32,
}

/// Reply to a question for the size.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct GetxattrOut {
    /// Bytes.
    pub size: u32,
    /// Nothing.
    pub padding: u32,
}

/// FALLOCATE.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FallocateIn {
    /// The open file.
    pub fh: u64,
    /// Where.
    pub offset: u64,
    /// How much.
    pub length: u64,
    /// `FALLOC_FL_*`.
    pub mode: u32,
    /// Nothing.
    pub padding: u32,
}

/// One entry of READDIR; the name follows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Dirent {
    /// Inode number.
    pub ino: u64,
    /// Where the next entry is read.
    pub off: u64,
    /// Bytes of the name.
    pub namelen: u32,
    /// `DT_*`.
    pub kind: u32,
}

/// LSEEK.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LseekIn {
    /// The open file.
    pub fh: u64,
    /// From where.
    pub offset: u64,
    /// `SEEK_*`.
    pub whence: u32,
    /// Nothing.
    pub padding: u32,
}

/// Reply to LSEEK.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct LseekOut {
    /// Where.
    pub offset: u64,
}

/// COPY_FILE_RANGE.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CopyFileRangeIn {
    /// From this open file.
    pub fh_in: u64,
    /// From here.
    pub off_in: u64,
    /// Node of the other.
    pub nodeid_out: u64,
    /// To this open file.
    pub fh_out: u64,
    /// To here.
    pub off_out: u64,
    /// How much.
    pub len: u64,
    /// Must be zero.
    pub flags: u64,
}
