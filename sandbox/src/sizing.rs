//! How large a pod's VM is: one pure rule.
//!
//! A VM has a base of its own, which is there for the guest's kernel, the agent and whatever has no
//! limit. Containers' limits are added to it, or take its place: the [`Profile`] says which. Requests
//! do not count.

use std::str::FromStr;

use thiserror::Error;
use vmm::{ConfigError, MemorySize, VcpuCount};

/// Which of two rules, named for the managed clusters that have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// 1 vCPU and 2 GiB, and all limits on top.
    #[default]
    AksPreview,
    /// 1 vCPU and 512 MiB without limits; a limit takes its place. At least 128 MiB.
    AksGa,
}

/// A profile that there is not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no profile: there are aks-preview and aks-ga")]
pub struct UnknownProfile(String);

impl Profile {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AksPreview => "aks-preview",
            Self::AksGa => "aks-ga",
        }
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        [Self::AksPreview, Self::AksGa]
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}

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

impl Base {
    /// The base of a profile.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        Self {
            vcpus: 1,
            memory: match profile {
                Profile::AksPreview => 2 << 30,
                Profile::AksGa => 512 << 20,
            },
        }
    }
}

/// A profile and its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What limits do.
    pub profile: Profile,
    /// What there is without them.
    pub base: Base,
}

impl Default for Rule {
    fn default() -> Self {
        Self::of(Profile::default())
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

    /// Of each limit the larger; none is less than any.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory: self.memory.max(other.memory),
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

impl Rule {
    /// The smallest VM of the profile in which limits take the place of the base.
    const MIN_MEMORY: u64 = 128 << 20;

    /// The rule of a profile with the profile's own base.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        Self {
            profile,
            base: Base::of(profile),
        }
    }

    /// The VM for a pod with these limits.
    ///
    /// # Errors
    /// [`ConfigError`] when it is more than a VM can have.
    pub fn size(self, limits: Limits) -> Result<Size, ConfigError> {
        let (vcpus, memory) = self.amounts(limits);
        Ok(Size {
            vcpus: VcpuCount::new(vcpus)?,
            memory: MemorySize::from_bytes(memory)?,
        })
    }

    /// How large a VM of a pod that `announced` these limits is while containers with the limits `live` are
    /// in it: as for their sum, at least as announced, at most `max`.
    #[must_use]
    pub fn size_with(self, announced: Limits, live: &[Limits], max: Size) -> Size {
        let limits = Limits::of_pod(live, &[]).at_least(announced);
        let (vcpus, memory) = self.amounts(limits);
        let vcpus = vcpus.min(max.vcpus.get().into());
        let memory = memory.min(max.memory.bytes());
        Size {
            vcpus: VcpuCount::new(vcpus).unwrap_or(max.vcpus),
            memory: MemorySize::from_bytes(memory).unwrap_or(max.memory),
        }
    }

    /// vCPUs and bytes of memory, whether or not a VM can have them.
    fn amounts(self, limits: Limits) -> (u64, u64) {
        let Base { vcpus, memory } = self.base;
        let cpus = limits.cpu_millis.map(|millis| millis.div_ceil(1000));
        match self.profile {
            Profile::AksPreview => (
                vcpus.saturating_add(cpus.unwrap_or(0)),
                memory.saturating_add(limits.memory.unwrap_or(0)),
            ),
            Profile::AksGa => (
                cpus.unwrap_or(vcpus),
                limits.memory.unwrap_or(memory).max(Self::MIN_MEMORY),
            ),
        }
    }

    /// Why a VM has its size, in a line for vCPUs and one for memory.
    #[must_use]
    pub fn reasons(self, limits: Limits) -> [String; 2] {
        let Base { vcpus, memory } = self.base;
        let memory = mebibytes(memory);
        let (added, instead) = (
            " for the VM itself",
            "in place of what a VM has without limits",
        );
        let least = mebibytes(Self::MIN_MEMORY);
        let cpus = limits.cpu_millis.map(|millis| match millis % 1000 {
            0 => format!("{} of limits", millis / 1000),
            _ => format!(
                "{}.{:03} of limits, rounded up",
                millis / 1000,
                millis % 1000
            ),
        });
        let cpu = match (self.profile, cpus) {
            (_, None) => format!("{vcpus}{added}; no container has a limit of CPUs"),
            (Profile::AksPreview, Some(limit)) => format!("{vcpus}{added} + {limit}"),
            (Profile::AksGa, Some(limit)) => format!("{limit}, {instead}"),
        };
        let limit = limits.memory.map(mebibytes);
        let memory = match (self.profile, limit) {
            (_, None) => format!("{memory}{added}; no container has a limit of memory"),
            (Profile::AksPreview, Some(limit)) => format!("{memory}{added} + {limit} of limits"),
            (Profile::AksGa, Some(limit)) => {
                format!("{limit} of limits, {instead}; at least {least}")
            }
        };
        [cpu, memory]
    }
}

fn mebibytes(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => format!("{} MiB", bytes >> 20),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    /// 0 is no limit.
    const fn limits(cpu_millis: u64, memory: u64) -> Limits {
        const fn limit(n: u64) -> Option<u64> {
            if n > 0 { Some(n) } else { None }
        }
        Limits {
            cpu_millis: limit(cpu_millis),
            memory: limit(memory),
        }
    }

    /// Limits of containers, of init containers; vCPUs, memory.
    type Case = (&'static [Limits], &'static [Limits], u8, u64);

    fn check(rule: Rule, table: &[Case]) {
        for (apps, inits, vcpus, memory) in table {
            let size = rule.size(Limits::of_pod(apps, inits)).unwrap();
            assert_eq!(
                (size.vcpus.get(), size.memory.bytes()),
                (*vcpus, *memory),
                "{rule:?} {apps:?} {inits:?}"
            );
        }
    }

    #[test]
    fn limits_are_added_to_the_base() {
        const TABLE: [Case; 10] = [
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
            // Init containers alone.
            (&[limits(0, 0)], &[limits(500, 256 * MIB)], 2, 2304 * MIB),
            // One init container after the other: their limits do not add up.
            (
                &[limits(1000, GIB), limits(1000, GIB)],
                &[limits(1500, GIB), limits(1500, GIB)],
                3,
                4 * GIB,
            ),
        ];
        check(Rule::default(), &TABLE);
    }

    #[test]
    fn a_pod_has_the_size_of_those_that_live_between_what_was_announced_and_the_maximum() {
        /// What was announced, who lives; vCPUs, memory.
        type Case = (Limits, &'static [Limits], u8, u64);
        const TABLE: [Case; 8] = [
            (limits(0, 0), &[], 1, 2 * GIB),
            (limits(0, 0), &[limits(1500, GIB)], 3, 3 * GIB),
            (
                limits(0, 0),
                &[limits(500, GIB), limits(500, GIB)],
                2,
                4 * GIB,
            ),
            (limits(2000, GIB), &[], 3, 3 * GIB),
            (limits(2000, GIB), &[limits(1000, 2 * GIB)], 3, 4 * GIB),
            (limits(0, 0), &[limits(3000, 6 * GIB)], 4, 8 * GIB),
            (limits(0, 0), &[limits(3001, 6 * GIB + 1)], 4, 8 * GIB),
            (
                limits(0, 0),
                &[limits(u64::MAX, u64::MAX), limits(1, 1)],
                4,
                8 * GIB,
            ),
        ];
        let max = Size {
            vcpus: VcpuCount::new(4).unwrap(),
            memory: MemorySize::from_bytes(8 * GIB).unwrap(),
        };
        for (announced, live, vcpus, memory) in TABLE {
            let size = Rule::default().size_with(announced, live, max);
            let found = (size.vcpus.get(), size.memory.bytes());
            assert_eq!(found, (vcpus, memory), "{announced:?} {live:?}");
        }
    }

    #[test]
    fn limits_take_the_place_of_the_base() {
        const TABLE: [Case; 9] = [
            (&[], &[], 1, 512 * MIB),
            (&[limits(0, 0)], &[], 1, 512 * MIB),
            (&[limits(1000, GIB)], &[], 1, GIB),
            (&[limits(2500, 0)], &[], 3, 512 * MIB),
            (&[limits(0, 2 * GIB)], &[], 1, 2 * GIB),
            (&[limits(500, GIB), limits(700, GIB)], &[], 2, 2 * GIB),
            (&[limits(100, 100 * MIB)], &[], 1, 128 * MIB),
            (&[limits(100, 128 * MIB)], &[], 1, 128 * MIB),
            (&[limits(1000, GIB)], &[limits(3000, 3 * GIB)], 3, 3 * GIB),
        ];
        check(Rule::of(Profile::AksGa), &TABLE);
    }

    #[test]
    fn a_base_can_be_set() {
        const ADDED: [Case; 2] = [(&[], &[], 2, GIB), (&[limits(1000, GIB)], &[], 3, 2 * GIB)];
        const INSTEAD: [Case; 2] = [
            (&[], &[], 2, GIB),
            (&[limits(1000, 256 * MIB)], &[], 1, 256 * MIB),
        ];
        let base = Base {
            vcpus: 2,
            memory: GIB,
        };
        let rule = |profile| Rule { profile, base };
        check(rule(Profile::AksPreview), &ADDED);
        check(rule(Profile::AksGa), &INSTEAD);
    }

    #[test]
    fn a_size_has_reasons() {
        for (profile, limits, cpu, memory) in [
            (
                Profile::AksPreview,
                limits(0, 0),
                "1 for the VM itself; no container has a limit of CPUs",
                "2048 MiB for the VM itself; no container has a limit of memory",
            ),
            (
                Profile::AksPreview,
                limits(1500, GIB),
                "1 for the VM itself + 1.500 of limits, rounded up",
                "2048 MiB for the VM itself + 1024 MiB of limits",
            ),
            (
                Profile::AksGa,
                limits(2000, 1000),
                "2 of limits, in place of what a VM has without limits",
                "1000 bytes of limits, in place of what a VM has without limits; at least 128 MiB",
            ),
        ] {
            assert_eq!(Rule::of(profile).reasons(limits), [cpu, memory]);
        }
    }

    #[test]
    fn profiles_have_names() {
        for profile in [Profile::AksPreview, Profile::AksGa] {
            assert_eq!(profile.name().parse(), Ok(profile));
        }
        let error = "aks".parse::<Profile>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"aks\" is no profile: there are aks-preview and aks-ga"
        );
    }

    #[test]
    fn more_than_a_vm_can_have_is_refused() {
        for limits in [
            limits(64_000, 0),
            limits(u64::MAX, 0),
            limits(0, u64::MAX),
            limits(0, 1 << 40),
        ] {
            assert!(Rule::default().size(limits).is_err(), "{limits:?}");
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
