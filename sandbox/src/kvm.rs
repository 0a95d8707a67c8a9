//! Opening `/dev/kvm`, and why it could not be.

use std::fs::{File, OpenOptions};
use std::io;

use thiserror::Error;

const DEVICE: &str = "/dev/kvm";

/// Why this machine cannot run a pod.
#[derive(Debug, Error)]
pub enum KvmError {
    /// There is no device.
    #[error(
        "/dev/kvm does not exist: this machine offers no hardware virtualization to Linux; switch it on in the firmware, or use a VM size with nested virtualization, then load the module kvm_intel or kvm_amd"
    )]
    Missing,
    /// The device may not be opened.
    #[error(
        "/dev/kvm: permission denied; add your user to the group `kvm` and log in again, or run as root (in a container, pass the device in)"
    )]
    Permission,
    /// The device is there and its driver is not.
    #[error(
        "/dev/kvm: no driver answers; load the module kvm_intel or kvm_amd and see `dmesg` for why it refuses"
    )]
    NoDriver(#[source] io::Error),
    /// Something else.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] io::Error),
    /// It can be opened but cannot run guests as it should.
    #[error(transparent)]
    Unusable(#[from] vmm::probe::ProbeError),
}

/// Opens `/dev/kvm` for a VM.
///
/// A KVM on a CPU that shows neither VMX nor SVM is measured first: some emulate kernel mode.
///
/// # Errors
/// [`KvmError`] names the parameter at fault and the remedy.
pub fn open() -> Result<File, KvmError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(classify)?;
    if !cpu_shows_virtualization() {
        measure()?;
    }
    Ok(device)
}

/// Runs the probe of [`vmm::probe`] and turns a bad verdict into an error.
///
/// # Errors
/// As [`open`].
pub fn measure() -> Result<(), KvmError> {
    let speed = vmm::probe::measure()?;
    Ok(speed.verdict()?)
}

fn classify(error: io::Error) -> KvmError {
    match error.raw_os_error() {
        Some(libc::ENOENT) => KvmError::Missing,
        Some(libc::EACCES | libc::EPERM) => KvmError::Permission,
        Some(libc::ENODEV | libc::ENXIO) => KvmError::NoDriver(error),
        _ => KvmError::Open(error),
    }
}

/// VMX (CPUID.1:ECX[5]) or SVM (CPUID.8000_0001h:ECX[2]).
fn cpu_shows_virtualization() -> bool {
    use std::arch::x86_64::__cpuid;
    let vmx = __cpuid(1).ecx & (1 << 5) != 0;
    let svm = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & (1 << 2) != 0;
    vmx || svm
}
