//! Opening `/dev/kvm`, and why it could not be.

use std::fs::{File, OpenOptions};
use std::io;

use host_check::{Live, NotReady, Options, live};
use thiserror::Error;

use crate::control::End;
use crate::pod::PodError;

const DEVICE: &str = "/dev/kvm";

/// Why this machine cannot run a pod.
#[derive(Debug, Error)]
pub enum KvmError {
    /// A host check failed: it names the parameter at fault and the remedy.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The checks find nothing wrong.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] io::Error),
}

/// Opens `/dev/kvm` for a VM.
///
/// This costs a system call where all is well. The [checks](qualify) are made where it is not, and
/// on a CPU that shows neither VMX nor SVM: the KVM of such a machine may emulate kernel mode.
///
/// # Errors
/// [`KvmError`] names the parameter at fault and the remedy.
pub fn open() -> Result<File, KvmError> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE);
    if device.is_err() || !live::processor_virtualizes() {
        qualify()?;
    }
    device.map_err(KvmError::Open)
}

/// Makes the fast subset of the host checks, which takes some milliseconds.
///
/// # Errors
/// The first check that failed.
pub fn qualify() -> Result<(), NotReady> {
    let options = Options {
        fast: true,
        ..Options::default()
    };
    host_check::check(&Live::new(), options).ready()
}

/// A machine that could not be made, or did not get anywhere, may be the host's fault. Then the
/// check that fails says more than the error of the call that did.
pub(crate) fn or_of_the_host(error: PodError) -> PodError {
    let suspicious = match &error {
        PodError::Vmm { .. } | PodError::BootTimeout => true,
        PodError::Ended { end, .. } => matches!(end, End::Failed { .. }),
        _ => false,
    };
    match suspicious.then(qualify) {
        Some(Err(reason)) => KvmError::NotReady(reason).into(),
        Some(Ok(())) | None => error,
    }
}
