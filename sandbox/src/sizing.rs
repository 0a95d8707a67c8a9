//! How large a pod's VM is: one pure rule.
//!
//! A VM has a base of its own, which is there for the guest's kernel, the agent and whatever has no
//! limit, and on top of it what the containers' limits add up to. Requests do not count.

use vmm::{ConfigError, MemorySize, VcpuCount};

/// What one container may use at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

/// What a VM has before any limit is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// vCPUs.
    pub vcpus: u64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Default for Base {
    /// One vCPU and 2 GiB.
    fn default() -> Self {
        Self {
            vcpus: 1,
            memory: 2 << 30,
        }
    }
}

/// The size of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// vCPUs.
    pub vcpus: VcpuCount,
    /// Guest memory.
    pub memory: MemorySize,
}

impl Limits {
    /// A pod's limits of those of its containers: `apps` run side by side, `inits` one after the
    /// other before them, so that only the largest of these counts.
    #[must_use]
    pub fn of_pod(apps: &[Self], inits: &[Self]) -> Self {
        let total = |of: fn(&Self) -> Option<u64>| {
            let sum = apps.iter().filter_map(of).reduce(u64::saturating_add);
            let largest = inits.iter().filter_map(of).max();
            sum.max(largest)
        };
        Self {
            cpu_millis: total(|limits| limits.cpu_millis),
            memory: total(|limits| limits.memory),
        }
    }

    /// CPU limit of a CFS quota and period in microseconds; a quota below 1 is none.
    #[must_use]
    pub fn cpu_of_quota(quota: i64, period: u64) -> Option<u64> {
        let quota = u64::try_from(quota).ok().filter(|quota| *quota > 0)?;
        let period = Some(period).filter(|period| *period > 0)?;
        Some(quota.saturating_mul(1000).div_ceil(period))
    }
}

/// The VM for a pod with these limits.
///
/// # Errors
/// [`ConfigError`] when it is more than a VM can have.
pub fn size(base: Base, limits: Limits) -> Result<Size, ConfigError> {
    let cpus = limits.cpu_millis.unwrap_or(0).div_ceil(1000);
    let memory = limits.memory.unwrap_or(0);
    Ok(Size {
        vcpus: VcpuCount::new(base.vcpus.saturating_add(cpus))?,
        memory: MemorySize::from_bytes(base.memory.saturating_add(memory))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn limits(cpu_millis: u64, memory: u64) -> Limits {
        Limits {
            cpu_millis: Some(cpu_millis).filter(|n| *n > 0),
            memory: Some(memory).filter(|n| *n > 0),
        }
    }

    #[test]
    fn the_rule() {
        // Limits of containers, of init containers; vCPUs, memory.
        let table: [(&[Limits], &[Limits], u8, u64); 8] = [
            (&[], &[], 1, 2 * GIB),
            (&[limits(0, 0)], &[], 1, 2 * GIB),
            (&[limits(1000, GIB)], &[], 2, 3 * GIB),
            (&[limits(1500, 0)], &[], 3, 2 * GIB),
            (&[limits(100, 50 * MIB)], &[], 2, 2 * GIB + 50 * MIB),
            (&[limits(500, GIB), limits(500, GIB)], &[], 2, 4 * GIB),
            (&[limits(500, 0), limits(0, GIB)], &[], 2, 3 * GIB),
            (
                &[limits(1000, GIB)],
                &[limits(3000, 0), limits(2000, 2 * GIB)],
                4,
                4 * GIB,
            ),
        ];
        for (apps, inits, vcpus, memory) in table {
            let size = size(Base::default(), Limits::of_pod(apps, inits)).unwrap();
            assert_eq!(
                (size.vcpus.get(), size.memory.bytes()),
                (vcpus, memory),
                "{apps:?} {inits:?}"
            );
        }
    }

    #[test]
    fn more_than_a_vm_can_have_is_refused() {
        for limits in [
            limits(64_000, 0),
            limits(u64::MAX, 0),
            limits(0, u64::MAX),
            limits(0, 1 << 40),
        ] {
            assert!(size(Base::default(), limits).is_err(), "{limits:?}");
        }
    }

    #[test]
    fn quotas_become_cpus() {
        for (quota, period, millis) in [
            (100_000, 100_000, Some(1000)),
            (150_000, 100_000, Some(1500)),
            (1, 3, Some(334)),
            (0, 100_000, None),
            (-1, 100_000, None),
            (100_000, 0, None),
        ] {
            assert_eq!(Limits::cpu_of_quota(quota, period), millis);
        }
    }
}
