//! The jail of the VMM process: what a guest that has taken it over finds, which is next to nothing.
//!
//! ```text
//!   podvmm                 podvmm-warden                     podvmm-vmm
//!   confine(): shares
//!   become mounts without
//!   surroundings
//!     └──── starts ──────▶ clone3: user, mount, PID, network,
//!                          IPC, UTS, cgroup namespaces
//!                            └─ id maps, then ──── exec ──────▶ takes the launch packet
//!                          waits                               enter(): root, rights, limits
//!                          removes the runtime directory        │
//!                          that nobody else would               seccomp, builds and runs the VM
//! ```
//!
//! # Who does what, and why
//! - *Namespaces are made by clone3 in the warden*, not by `unshare` in the VMM: a PID namespace holds
//!   only for children, the id maps of a user namespace that has all of root's ids are written from
//!   outside, and somebody outside has to be left who waits for the VMM and cleans up after it. The
//!   warden never sees a byte of the guest.
//! - *The rest is done by the VMM itself* between its launch packet and the machine: it needs the
//!   packet's descriptors, and the kernel image, the first hostile input, is read after it.
//! - *Shares are confined by the sandbox* ([`confine`]), because that must also work for a share that
//!   is added later, when the VMM could not do it any more.
//!
//! # Identity
//! As root the user namespace maps every id to itself. Capabilities there hold over any file that the
//! VMM can reach, and over nothing of the host: no device node, no mount, no other process. The VMM
//! is nobody else's user ([`FIRST_UID`] and up, one per pod) and accesses files as root, so that a new
//! file belongs to root before it is given to whom the guest names. As another user only that user is
//! mapped, and no capability is kept.
//!
//! # Modes
//! [`JailMode::Auto`] takes what the host allows and reports what is missing; [`JailMode::Full`]
//! refuses to run with anything missing.

mod confine;
mod enter;
mod identity;
pub mod seccomp;
mod sys;
mod warden;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub(crate) use confine::close_devices;
pub use confine::{Terms, confine};
pub use enter::{Jail, JailError, enter, placement};
pub use identity::FIRST_UID;
pub use seccomp::SeccompMode;
pub use warden::{INSIDE, WardenOptions, warden};

/// How much of a jail a pod's VMM must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JailMode {
    /// As much as the host allows; what is missing is reported.
    #[default]
    Auto,
    /// All of it, or the pod does not start.
    Full,
    /// None: for debugging.
    Off,
}

impl fmt::Display for JailMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::Off => "off",
        })
    }
}

impl FromStr for JailMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "full" => Ok(Self::Full),
            "off" => Ok(Self::Off),
            _ => Err(format!("`{text}` is no jail; write auto, full or off")),
        }
    }
}

/// Where the warden has put the VMM process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// What was asked for.
    pub mode: JailMode,
    /// Whether it has namespaces of its own.
    pub namespaces: bool,
    /// Whether a user namespace is among them.
    pub user_namespace: bool,
    /// Whether all of the warden's users and groups are mapped there, or are the same for lack of one.
    pub all_ids: bool,
    /// Whom to become, if the warden is root.
    pub uid: Option<u32>,
    /// What is missing, a sentence each.
    pub gaps: Vec<String>,
}
