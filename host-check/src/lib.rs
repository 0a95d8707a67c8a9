//! Does this machine qualify for pods, and if not, exactly why?
//!
//! ```text
//!   Live, Recorded ──▶ dyn Host ──▶ Facts ──▶ checks: Facts → Look ──▶ Report ─┬─▶ text, JSON
//!                                             (id, why, remedy)      (verdict) └─▶ NotReady
//! ```
//!
//! A check is a pure function of what the machine answers through [`Host`]. So each of them can be
//! made on a recording of a machine as well as on the machine itself, and the tests have dozens of
//! machines that no one has to own.
//!
//! # Map
//! - [`host`]: the seam, and the types of the answers; [`live`] is this machine, [`recorded`] one
//!   that was written down by [`record`].
//! - [`facts`], [`place`]: what several checks want to know; where we run.
//! - [`mod@check`], [`checks`]: what a check is, and all of them; [`advice`] is what to do in which
//!   cloud, [`capabilities`] what KVM has to have.
//! - [`report`], [`text`], [`explain`]: the verdict, as data and for people; [`mod@labels`]: for nodes.
//!
//! # Vocabulary
//! *Look*: what a check saw. *Finding*: a look, weighed for a [`Purpose`]. *Parameter*: what is at
//! fault, in the words of the place where it is set. *Fast subset*: the checks that decide whether a
//! machine can be started at all, made in milliseconds.
//!
//! # Example
//! ```no_run
//! use podvmm_host_check::{Live, Options, check};
//!
//! let options = Options { fast: true, ..Options::default() };
//! if let Err(reason) = check(&Live::new(), options).ready() {
//!     eprintln!("{reason}");
//!     eprintln!("first step: {}", reason.finding.first_step());
//! }
//! ```

pub mod advice;
pub mod capabilities;
pub mod check;
pub mod checks;
mod errno;
pub mod explain;
pub mod facts;
pub mod host;
pub mod labels;
pub mod live;
pub mod place;
pub mod record;
pub mod recorded;
pub mod report;
pub mod text;

pub use check::{Check, Finding, Group, Look, Purpose, Status, Weight};
pub use errno::Errno;
pub use facts::Facts;
pub use host::Host;
pub use labels::labels;
pub use live::Live;
pub use record::Recorder;
pub use recorded::Recorded;
pub use report::{NotReady, Options, Report, Verdict, check, check_with};
