//! Resizing a pod, by whoever asks its monitor.

use std::sync::Arc;

use vmm::{ConfigError, MemorySize, VcpuCount};

use super::exec;
use super::protocol::{RefusalKind, Reply, ResizeRequest};
use super::server::running;
use super::shared::Shared;
use crate::logging::one_line;
use crate::pod::PodError;
use crate::resize::PodSize;

/// How large the pod is.
pub(super) fn size(shared: &Arc<Shared>) -> Result<Reply, Reply> {
    let (pod, _) = running(shared, None)?;
    pod.size().map(Reply::Size).map_err(failed)
}

/// Resizes the pod; what is not named stays as it is to be.
pub(super) fn resize(shared: &Arc<Shared>, request: ResizeRequest) -> Result<Reply, Reply> {
    let (pod, _) = running(shared, None)?;
    let size = pod.size().map_err(failed)?;
    let first = shared.plan.memory.bytes();
    let (vcpus, memory) = checked(request, size, first)
        .map_err(|message| Reply::refused(RefusalKind::Invalid, message))?;
    pod.resize(vcpus, memory).map(Reply::Size).map_err(failed)
}

/// What a request means for a pod of `size` that was started with `first` bytes.
fn checked(
    request: ResizeRequest,
    size: PodSize,
    first: u64,
) -> Result<(VcpuCount, MemorySize), String> {
    let ResizeRequest { vcpus, memory } = request;
    if let Some(vcpus) = vcpus.filter(|vcpus| *vcpus > size.max_vcpus) {
        return Err(format!(
            "--cpus {vcpus}: it has at most {}; start a pod with --max-cpus {vcpus}",
            size.max_vcpus
        ));
    }
    if let Some(memory) = memory {
        let mib = memory.div_ceil(1 << 20);
        if memory > size.max_memory {
            return Err(format!(
                "--mem {mib}M: it has at most {}M; start a pod with --max-mem {mib}M",
                size.max_memory >> 20
            ));
        }
        if memory < first {
            return Err(format!(
                "--mem {mib}M: it was started with {}M, and shrinks no further; start a pod with less",
                first >> 20
            ));
        }
    }
    let vcpus = VcpuCount::new(vcpus.unwrap_or(size.vcpus));
    let memory = MemorySize::from_bytes(memory.unwrap_or(size.wanted_memory));
    let told = |error: ConfigError| error.to_string();
    Ok((vcpus.map_err(told)?, memory.map_err(told)?))
}

fn failed(error: PodError) -> Reply {
    match error {
        PodError::Container(error) => exec::refusal(error),
        error => Reply::refused(RefusalKind::Failed, one_line(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZE: PodSize = PodSize {
        vcpus: 2,
        max_vcpus: 4,
        memory: 512 * MIB,
        wanted_memory: 640 * MIB,
        max_memory: 1024 * MIB,
    };

    fn check(vcpus: Option<u64>, memory: Option<u64>) -> Result<(u8, u64), String> {
        let request = ResizeRequest { vcpus, memory };
        let (vcpus, memory) = checked(request, SIZE, 256 * MIB)?;
        Ok((vcpus.get(), memory.bytes() / MIB))
    }

    #[test]
    fn what_is_not_named_stays_as_it_is_to_be() {
        assert_eq!(check(None, None), Ok((2, 640)));
        assert_eq!(check(Some(4), None), Ok((4, 640)));
        assert_eq!(check(None, Some(256 * MIB)), Ok((2, 256)));
        assert_eq!(check(Some(1), Some(1024 * MIB)), Ok((1, 1024)));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        for (vcpus, memory, message) in [
            (
                Some(5),
                None,
                "--cpus 5: it has at most 4; start a pod with --max-cpus 5",
            ),
            (
                None,
                Some(1025 * MIB),
                "--mem 1025M: it has at most 1024M; start a pod with --max-mem 1025M",
            ),
            (
                None,
                Some(255 * MIB),
                "--mem 255M: it was started with 256M, and shrinks no further; start a pod with less",
            ),
        ] {
            assert_eq!(check(vcpus, memory), Err(message.to_owned()));
        }
        assert!(check(Some(0), None).is_err());
    }
}
