//! One virtual machine on KVM, as a library: builder → machine → handle.
//!
//! ```text
//!   VmBuilder ──build()──▶ Vm ──run()──▶ Stop { reason, console }
//!     │ memory, kernel, devices │
//!     │                         ├─ vCPU threads: KVM_RUN, exits → bus → registers
//!     │                         ├─ the caller's: starts and stops devices, adds vCPUs and memory
//!     │                         └─ device workers: woken by ioeventfd, answer by irqfd
//!     └─ VmHandle (any thread): stop, resize, plug, unplug
//! ```
//!
//! The library knows no containers and makes no jail: an embedder brings its own, or uses the
//! `sandbox` crate, which starts one process per machine.
//!
//! # Map
//! - [`builder`]: what a machine is made of, checked once.
//! - [`memory`]: guest memory and its layout.
//! - [`boot`]: kernel, initramfs, boot parameters, CPU tables, registers.
//! - [`vcpu`]: one virtual CPU: its thread, its exits, its state as plain data.
//! - [`bus`]: which device an exit is for.
//! - [`interrupts`]: interrupt lines, and how KVM is told of them.
//! - [`ioapic`]: which interrupt a line is.
//! - [`events`]: what the thread that runs the machine is told by the others.
//! - [`growth`]: how a machine grows and shrinks while it runs.
//! - [`machine`]: life of a machine from start to [`Stop`].
//! - [`slots`]: places where devices come and go while it runs.
//!
//! # Vocabulary
//! *Exit*: the guest stops running because KVM (in-kernel) or this process (to user space) has to
//! act. *Doorbell*: a register write that KVM turns into an event (ioeventfd). *Line*: an interrupt
//! raised by an event (irqfd).

pub mod boot;
pub mod builder;
pub mod bus;
pub mod events;
pub mod growth;
pub mod interrupts;
pub mod ioapic;
pub mod machine;
pub mod memory;
pub mod probe;
pub mod slots;
pub mod vcpu;
mod wiring;

pub use builder::{ConfigError, MemorySize, VcpuCount, VmBuilder};
pub use events::{ThreadHook, ThreadKind};
pub use growth::{ResizeError, VmSize};
pub use machine::{BuildError, Stop, StopReason, Vm, VmHandle};
pub use slots::PlugError;
