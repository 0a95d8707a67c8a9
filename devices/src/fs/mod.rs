//! The file system device (virtio-v1.2 §5.11): directories and files of the host as one file system
//! of the guest, served in this process.
//!
//! ```text
//!   guest: mount -t virtiofs TAG /share          host: exports, each a descriptor and its terms
//!
//!     /share            node 1, made up here      Exports
//!       ├── rootfs      ──────────────────────▶     ├── "rootfs"  dir fd, read-only
//!       ├── data        ──────────────────────▶     ├── "data"    dir fd, writable
//!       └── resolv.conf ──────────────────────▶     └── …         file fd
//!
//!   queue 0 ─ virtio-fs-hp ┐
//!   queue 1 ─ virtio-fs-1  ├─▶ Server: nodes · descriptors · open files ─▶ system calls
//!   queue n ─ virtio-fs-n  ┘
//! ```
//!
//! Nothing is mounted on the host, and what an export allows is enforced here, whatever the guest
//! believes. A guest that is against us can do to an export what its terms say and nothing else.
//!
//! # Walls
//! - A name from the guest is one component: never empty, `.`, `..` or with a `/` in it.
//! - What is below an export is reached by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
//!   RESOLVE_NO_MAGICLINKS` from a descriptor that is held, so the host's kernel keeps the guest in,
//!   also while somebody moves directories. The server never follows a link; it gives the guest its
//!   target, and the guest's kernel follows it.
//! - Descriptors that are read from or written to are opened from the `O_PATH` descriptor that was
//!   checked, through `/proc/self/fd`, and only if it is a regular file or directory.
//! - Mounts below an export are crossed. Who exports `/` does not mean the host's `/proc` and `/sys`:
//!   give the device a clone of that one mount (`open_tree` with `OPEN_TREE_CLONE`).
//! - Read-only exports: every changing request gets `EROFS`; descriptors are opened for reading only.
//! - Device nodes are refused but for overlayfs' whiteout; see `server/create.rs`.
//! - Extended attributes: [`XattrPolicy`].
//!
//! # Bounds
//! Nodes, `O_PATH` descriptors and open files each have a limit in [`FsSettings`]. At most
//! `max_node_fds + max_handles` descriptors are open, some 250 bytes and a name are held per node
//! that the guest knows. When the process runs out of descriptors all the same, cached ones are
//! closed and the request is tried once more. One request moves at most 1 MiB.
//!
//! # What the guest caches
//! [`CachePolicy`], per export. Writes are written through (no `WRITEBACK_CACHE`): the host may look
//! at any time, and a VMM that is killed loses nothing that the guest had been told was written.
//!
//! # Locks
//! `flock` and POSIX locks are the guest kernel's own: `FUSE_POSIX_LOCKS` and `FUSE_FLOCK_LOCKS` are
//! not negotiated. They hold among all containers of a pod. Between pods, or pod and host, they do
//! not, and a worker can never be made to wait for a lock.
//!
//! # Who serves
//! Workers clear their own file mode mask (after parting with the process's by `unshare(CLONE_FS)`).
//! Running as root or with CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID in its user
//! namespace, the VMM lets guests own files as they wish; without, all belongs to its own user.

mod config;
mod device;
mod export;
mod server;
pub mod spec;
mod state;
mod sys;
mod worker;

#[cfg(test)]
mod tests;

pub use config::{FsConfig, FsSettings, FsTag, InvalidFsConfig, MAX_REQUEST_QUEUES, Ownership};
pub use device::{Fs, FsError};
pub use export::{CachePolicy, Export, ExportHandle, InvalidExport, XattrPolicy};
pub use server::FsUsage;
pub use state::{FsStateV1, HandleV1, InvalidFsState, NodeV1};
