//! One virtual CPU: its thread, its exits, its state as plain data.

mod state;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use thiserror::Error;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::bus::{Bus, Request};
use crate::events::{EventSender, ThreadHook, ThreadKind};

pub use state::{StateError, VcpuState};

const STACK: usize = 256 * 1024;
/// How long a stopping vCPU is given to notice a kick before it is kicked again.
const KICK_AGAIN: Duration = Duration::from_millis(1);

/// Why a vCPU ended.
#[derive(Debug)]
pub enum VcpuEnd {
    /// The guest asked for something that ends the machine.
    Request(Request),
    /// The guest faulted while it handled a double fault.
    TripleFault,
    /// KVM cannot go on.
    Failed(VcpuError),
    /// It was told to.
    Stopped,
}

/// Why KVM cannot run a vCPU.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// The processor refused to enter the guest.
    #[error("the processor refused to enter the guest (hardware reason {reason:#x})")]
    Entry {
        /// What the hardware said.
        reason: u64,
    },
    /// KVM met an instruction or a state that it cannot emulate.
    #[error("KVM cannot emulate what the guest did (suberror {suberror} at {rip:#x})")]
    Internal {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// Where the guest was.
        rip: u64,
    },
    /// An exit that a machine like this never asks for.
    #[error("unexpected exit from the guest: {0}")]
    Unexpected(String),
    /// `KVM_RUN` failed.
    #[error("KVM_RUN failed")]
    Run(#[source] kvm_ioctls::Error),
}

/// A running vCPU.
pub struct VcpuThread {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

/// Makes the kick signal interrupt `KVM_RUN` instead of ending the process. Call it once.
///
/// # Errors
/// When the signal cannot be handled.
pub fn prepare_kicks() -> Result<(), vmm_sys_util::errno::Error> {
    extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), kicked)
}

impl VcpuThread {
    /// Runs `vcpu` on a thread of its own, after `hook`, and tells `events` when it has ended.
    ///
    /// # Errors
    /// When no thread can be made. The vCPU comes back: KVM makes no second one of its number.
    pub fn start(
        index: u8,
        vcpu: VcpuFd,
        bus: Arc<Bus>,
        events: EventSender,
        hook: Option<ThreadHook>,
    ) -> Result<Self, (Option<VcpuFd>, io::Error)> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(STACK);
        let thread = spawn_with(thread, vcpu, move |mut vcpu| {
            if let Some(hook) = hook {
                hook(ThreadKind::Vcpu);
            }
            events.end(run(&mut vcpu, &bus, &seen, &events));
        })?;
        Ok(Self { thread, stop })
    }

    /// Ends the vCPU and waits for its thread.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        // A kick that comes between the check of the flag and KVM_RUN is lost, so it is repeated.
        while !self.thread.is_finished() {
            let _ = self.thread.kill(SIGRTMIN());
            std::thread::sleep(KICK_AGAIN);
        }
        let _ = self.thread.join();
    }
}

/// Has a thread do `work` with `value`, which comes back if there is none.
fn spawn_with<T: Send + 'static>(
    thread: Builder,
    value: T,
    work: impl FnOnce(T) + Send + 'static,
) -> Result<JoinHandle<()>, (Option<T>, io::Error)> {
    let take = |held: &Mutex<Option<T>>| held.lock().unwrap_or_else(PoisonError::into_inner).take();
    let held = Arc::new(Mutex::new(Some(value)));
    let theirs = Arc::clone(&held);
    let started = thread.spawn(move || {
        if let Some(value) = take(&theirs) {
            work(value);
        }
    });
    started.map_err(|error| (take(&held), error))
}

fn run(vcpu: &mut VcpuFd, bus: &Bus, stop: &AtomicBool, events: &EventSender) -> VcpuEnd {
    while !stop.load(Ordering::SeqCst) {
        let unexpected = |what: String| VcpuEnd::Failed(VcpuError::Unexpected(what));
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(addr, data)) => bus.read_memory(addr, data),
            Ok(VcpuExit::MmioWrite(addr, data)) if bus.moves_device(addr, data) => {
                events.write(addr, data);
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                if bus.write_memory(addr, data) {
                    events.reroute();
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => bus.read_port(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if let Some(request) = bus.write_port(port, data) {
                    return VcpuEnd::Request(request);
                }
            }
            Ok(VcpuExit::Shutdown) => return VcpuEnd::TripleFault,
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return VcpuEnd::Failed(VcpuError::Entry { reason });
            }
            Ok(VcpuExit::InternalError) => return VcpuEnd::Failed(internal_error(vcpu)),
            Ok(other) => return unexpected(format!("{other:?}")),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => return VcpuEnd::Failed(VcpuError::Run(error)),
        }
    }
    VcpuEnd::Stopped
}

fn internal_error(vcpu: &mut VcpuFd) -> VcpuError {
    let rip = vcpu.get_regs().map_or(0, |regs| regs.rip);
    #[allow(
        unsafe_code,
        reason = "kvm_run is a union and kvm-ioctls has no accessor for this arm"
    )]
    // SAFETY: the exit reason says that KVM filled in this arm of the union.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    VcpuError::Internal { suberror, rip }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_is_given_comes_back_if_there_is_none() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let small = Builder::new().stack_size(STACK);
        let thread = spawn_with(small, 7, move |value| sender.send(value).unwrap());
        thread.unwrap().join().unwrap();
        assert_eq!(receiver.recv(), Ok(7));
        // More than there are addresses.
        let large = Builder::new().stack_size(1 << 50);
        let (back, _) = spawn_with(large, 8, |_| {}).unwrap_err();
        assert_eq!(back, Some(8));
    }
}
