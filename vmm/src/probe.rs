//! Can the KVM of this machine run guests, and at what speed?
//!
//! Flags and module names do not answer that: a KVM can be there, accept every call and emulate
//! kernel code one instruction at a time, because nothing below it offers VMX or SVM. So a
//! throwaway virtual machine runs a counted loop, once as a kernel would (CPL 0) and once as a
//! program would (CPL 3), and the two speeds decide.
//!
//! ```text
//!   measure() ──▶ worker: open → create VM → CPL 0 passes → CPL 3 passes ──▶ Speed ─▶ verdict()
//!      └ waits, and kicks the worker out of a guest that never comes back ──▶ ProbeError::Hung
//! ```
//!
//! A *pass* is n turns of the loop and one exit; n doubles with each pass until a pass takes long
//! enough to be measured, so the probe is quick on fast and on slow machines alike.

mod guest;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::Kvm;
use thiserror::Error;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use guest::Guest;

/// Below this, in million instructions per second, kernel code may be emulated…
const SLOW: f64 = 100.0;
/// …and it is, if user code is so many times faster. A machine that emulates both (a hypervisor
/// under software emulation) is slow evenly, and is accepted.
const UNEVEN: f64 = 20.0;

/// When the worker is taken for hung, and how long it is kicked before it is given up.
///
/// A probe takes milliseconds; in a lab on a machine with five times more to do than it can, seconds.
const HUNG: Duration = Duration::from_secs(5);
const KICKS: Duration = Duration::from_millis(100);

/// How fast this machine's KVM is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Time that the kernel took to create a virtual machine.
    pub create_vm: Duration,
    /// Time of the fastest way out of the guest to this process and back.
    pub exit: Duration,
    /// Million instructions per second in kernel mode.
    pub cpl0_mips: f64,
    /// Million instructions per second in user mode.
    pub cpl3_mips: f64,
}

impl Speed {
    /// Whether pods can live with it.
    ///
    /// # Errors
    /// [`ProbeError::KernelModeEmulated`] when they cannot.
    pub fn verdict(&self) -> Result<(), ProbeError> {
        if self.cpl0_mips < SLOW && self.cpl3_mips > self.cpl0_mips * UNEVEN {
            return Err(ProbeError::KernelModeEmulated {
                cpl0_mips: self.cpl0_mips,
                cpl3_mips: self.cpl3_mips,
            });
        }
        Ok(())
    }
}

/// Why this machine's KVM cannot be used, and what to do about it.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// There is no such file.
    #[error(
        "/dev/kvm: it does not exist; load the module kvm_intel or kvm_amd, switch virtualization \
         on in the firmware, or, in a cloud, take an instance with nested virtualization{}",
        if *.mshv { " (this machine has /dev/mshv, Microsoft's hypervisor: podvmm needs KVM)" } else { "" }
    )]
    Missing {
        /// Whether Microsoft's hypervisor is there instead.
        mshv: bool,
    },
    /// The file is there, but not for this user.
    #[error(
        "/dev/kvm: permission denied; add the user to the group that owns it \
         (usermod -aG kvm USER, then log in again), or run as root"
    )]
    Permission,
    /// The file is there, and no KVM behind it.
    #[error(
        "/dev/kvm: no KVM behind the device node; load the module kvm_intel or kvm_amd; in a \
         container, the machine around it needs KVM first"
    )]
    NoDevice,
    /// It cannot be opened for another reason.
    #[error("/dev/kvm: it cannot be opened")]
    Open(#[source] kvm_ioctls::Error),
    /// A KVM of before 2007, or something that is no KVM.
    #[error("/dev/kvm: API version {found}, where {KVM_API_VERSION} is needed; is it KVM?")]
    ApiVersion {
        /// What it said.
        found: i32,
    },
    /// Another hypervisor holds the processor's virtualization.
    #[error(
        "/dev/kvm: the processor's virtualization is in use by another hypervisor \
         (VirtualBox, VMware?); stop it"
    )]
    Busy,
    /// A step before the first guest instruction failed.
    #[error("/dev/kvm: a test machine could not be made: {step} failed")]
    Setup {
        /// The step.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// No memory for the test machine.
    #[error("/dev/kvm: no memory for a test machine")]
    Memory(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The test machine did not get where it had to.
    #[error(
        "/dev/kvm: this KVM cannot run a loop of two instructions at CPL {cpl}: {what}; \
         podvmm needs a machine with working VMX or SVM"
    )]
    Broken {
        /// The guest's privilege level.
        cpl: u8,
        /// How the guest ended.
        what: String,
    },
    /// The test machine never came back.
    #[error(
        "/dev/kvm: a test machine did not come back within {} ms; \
         podvmm needs a machine with working VMX or SVM",
        .after.as_millis()
    )]
    Hung {
        /// How long was waited.
        after: Duration,
    },
    /// It works, and kernel code crawls.
    #[error(
        "/dev/kvm: this KVM emulates kernel-mode code (measured {cpl0_mips:.1} M instructions/s at \
         CPL 0 against {cpl3_mips:.0} M at CPL 3): it has no VMX or SVM under it; run on hardware, \
         or on a virtual machine with nested virtualization"
    )]
    KernelModeEmulated {
        /// Million instructions per second in kernel mode.
        cpl0_mips: f64,
        /// Million instructions per second in user mode.
        cpl3_mips: f64,
    },
    /// This process cannot start a thread.
    #[error("the probe's thread could not be started")]
    Thread(#[source] io::Error),
}

/// Measures. It takes a few milliseconds, and five seconds on a KVM that hangs.
///
/// While it waits for a KVM that hangs it sets a handler for the first real-time signal, as
/// running machines do.
///
/// # Errors
/// When no guest code could be run at all. Code that ran slowly is the [verdict](Speed::verdict)'s.
pub fn measure() -> Result<Speed, ProbeError> {
    extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

    let stop = Arc::new(AtomicBool::new(false));
    let (done, result) = mpsc::channel();
    let worker = {
        let stop = Arc::clone(&stop);
        thread::Builder::new()
            .name("kvm-probe".into())
            .spawn(move || {
                let _ = done.send(work(&stop));
            })
            .map_err(ProbeError::Thread)?
    };
    if let Ok(result) = result.recv_timeout(HUNG) {
        let _ = worker.join();
        return result;
    }
    stop.store(true, Ordering::Release);
    let until = Instant::now() + KICKS;
    if register_signal_handler(SIGRTMIN(), kicked).is_ok() {
        while !worker.is_finished() && Instant::now() < until {
            let _ = worker.kill(SIGRTMIN());
            thread::sleep(Duration::from_millis(1));
        }
    }
    // A worker that sits in the kernel in spite of all kicks ends with the process.
    Err(ProbeError::Hung { after: HUNG })
}

fn work(stop: &AtomicBool) -> Result<Speed, ProbeError> {
    let kvm = open()?;
    let began = Instant::now();
    let vm = kvm.create_vm().map_err(|source| match source.errno() {
        libc::EBUSY => ProbeError::Busy,
        _ => ProbeError::Setup {
            step: "KVM_CREATE_VM",
            source,
        },
    })?;
    let create_vm = began.elapsed();
    let mut guest = Guest::new(&kvm, vm)?;
    let mut speed = Speed {
        create_vm,
        exit: Duration::MAX,
        cpl0_mips: 0.0,
        cpl3_mips: 0.0,
    };
    let (kernel, user) = (guest.run(0, stop)?, guest.run(3, stop)?);
    speed.exit = kernel.exit.min(user.exit);
    speed.cpl0_mips = kernel.mips;
    speed.cpl3_mips = user.mips;
    if speed.verdict().is_err() {
        // It may be the doing of whatever else runs on this machine: kernel mode gets another try.
        let again = guest.run(0, stop)?;
        speed.exit = speed.exit.min(again.exit);
        speed.cpl0_mips = speed.cpl0_mips.max(again.mips);
    }
    Ok(speed)
}

fn open() -> Result<Kvm, ProbeError> {
    let kvm = Kvm::new().map_err(|source| match source.errno() {
        libc::ENOENT => ProbeError::Missing {
            mshv: Path::new("/dev/mshv").exists(),
        },
        libc::EACCES | libc::EPERM => ProbeError::Permission,
        libc::ENODEV | libc::ENXIO => ProbeError::NoDevice,
        _ => ProbeError::Open(source),
    })?;
    match kvm.get_api_version() {
        found if found == KVM_API_VERSION as i32 => Ok(kvm),
        found => Err(ProbeError::ApiVersion { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(cpl0_mips: f64, cpl3_mips: f64) -> Result<(), ProbeError> {
        let instant = Duration::ZERO;
        Speed {
            create_vm: instant,
            exit: instant,
            cpl0_mips,
            cpl3_mips,
        }
        .verdict()
    }

    #[test]
    fn hardware_and_an_evenly_slow_machine_are_accepted() {
        assert!(verdict(7700.0, 7700.0).is_ok());
        assert!(verdict(40.0, 45.0).is_ok());
        assert!(verdict(101.0, 7700.0).is_ok());
    }

    #[test]
    fn an_emulated_kernel_mode_is_refused_with_its_figures() {
        let message = verdict(1.62, 7700.4).unwrap_err().to_string();
        assert!(message.contains("1.6 M instructions/s at CPL 0 against 7700 M at CPL 3"));
    }

    #[test]
    fn every_message_names_the_parameter() {
        let errors = [
            ProbeError::Missing { mshv: true },
            ProbeError::Permission,
            ProbeError::NoDevice,
            ProbeError::ApiVersion { found: 11 },
            ProbeError::Busy,
            ProbeError::Hung { after: HUNG },
        ];
        for error in errors {
            assert!(error.to_string().starts_with("/dev/kvm: "), "{error}");
        }
    }
}
