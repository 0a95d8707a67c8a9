//! How large the pod's VM is to be: it follows the limits of the containers that live in it.
//!
//! ```text
//!   sandbox's annotations ─▶ announced ┐
//!   create, update, end ─▶ containers ─┴─▶ target ──▶ Vm::resize, one at a time
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandbox::sizing::{Limits, Rule, Size};
use sandbox::{Pod as Vm, PodError, PodSize};

use crate::config::{Config, PATH};
use crate::pod::blocking;

/// How long a container has ended before its part of the VM is given back: one that is started again takes
/// its place.
pub const LINGER: Duration = Duration::from_secs(10);

/// The size of one pod's VM.
#[derive(Debug)]
pub struct Sizing {
    rule: Rule,
    announced: Limits,
    max: Size,
    containers: Mutex<HashMap<String, Limits>>,
    /// What the VM was last asked to be, unless that went wrong half way. Held while it is.
    asked: tokio::sync::Mutex<Option<Size>>,
}

impl Sizing {
    /// Of a pod whose VM starts with `first`, which may be more than what pods grow to.
    pub fn new(config: &Config, announced: Limits, first: Size) -> Self {
        Self {
            rule: config.rule,
            announced,
            max: most(config.max, first),
            containers: Mutex::default(),
            asked: tokio::sync::Mutex::new(Some(first)),
        }
    }

    /// How large the VM may become.
    pub fn max(&self) -> Size {
        self.max
    }

    /// The limits of the container `id`, if it is one that counts.
    pub fn limits(&self, id: &str) -> Option<Limits> {
        self.containers().get(id).copied()
    }

    /// A container lives, with these limits.
    pub fn set(&self, id: &str, limits: Limits) {
        self.containers().insert(id.to_owned(), limits);
    }

    /// A container has ended.
    pub fn forget(&self, id: &str) {
        self.containers().remove(id);
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Limits>> {
        let containers = self.containers.lock();
        containers.unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self) -> Size {
        let live: Vec<_> = self.containers().values().copied().collect();
        self.rule.size_with(self.announced, &live, self.max)
    }

    /// Makes the VM as large as its containers want it now. What cannot be had is no failure: containers run
    /// within what is there.
    pub async fn fit(&self, vm: &Arc<Vm>) {
        let vm = Arc::clone(vm);
        self.fit_by(move |size| vm.resize(size.vcpus, size.memory))
            .await;
    }

    async fn fit_by(
        &self,
        resize: impl FnOnce(Size) -> Result<PodSize, PodError> + Send + 'static,
    ) {
        let mut asked = self.asked.lock().await;
        let target = self.target();
        if *asked == Some(target) {
            return;
        }
        // A guest that refuses CPUs may have got its memory: then it has to be asked back.
        *asked = None;
        match blocking(move || resize(target)).await {
            Ok(Ok(size)) => {
                *asked = Some(target);
                log_size(size);
            }
            Ok(Err(error)) => {
                log::warn!(
                    "the pod's VM is not as large as it is to be: {:#}",
                    anyhow::Error::from(error)
                );
            }
            Err(error) => log::warn!("the pod's VM is not as large as it is to be: {error:#}"),
        }
    }

    /// Which limit of a container is more than the VM can have, in words.
    pub fn excess(&self, limits: Limits) -> Option<String> {
        let (vcpus, memory) = (self.max.vcpus.get(), self.max.memory.bytes());
        let cpus = u64::from(vcpus).saturating_mul(1000);
        if limits.cpu_millis.is_some_and(|cpu| cpu > cpus) {
            return Some(format!(
                "its CPU limit is more than the {vcpus} vCPUs that its pod can have: max_vcpus in {PATH}"
            ));
        }
        let mib = memory >> 20;
        limits.memory.is_some_and(|bytes| bytes > memory).then(|| {
            format!(
                "its memory limit is more than the {mib} MiB that its pod can have: max_memory in {PATH}"
            )
        })
    }
}

/// Of each the larger.
fn most(one: Size, other: Size) -> Size {
    let vcpus = if one.vcpus.get() >= other.vcpus.get() {
        one.vcpus
    } else {
        other.vcpus
    };
    let memory = if one.memory.bytes() >= other.memory.bytes() {
        one.memory
    } else {
        other.memory
    };
    Size { vcpus, memory }
}

fn log_size(size: PodSize) {
    let (memory, wanted) = (size.memory >> 20, size.wanted_memory >> 20);
    if memory < wanted {
        log::warn!(
            "the pod's VM has {memory} MiB of {wanted} so far: its guest is slow to take more"
        );
    } else {
        log::info!("the pod's VM has {} vCPUs and {memory} MiB", size.vcpus);
    }
}

#[cfg(test)]
mod tests {
    use vmm::{MemorySize, VcpuCount};

    use super::*;
    use crate::testing;

    const GIB: u64 = 1 << 30;

    fn size(vcpus: u64, gib: u64) -> Size {
        Size {
            vcpus: VcpuCount::new(vcpus).unwrap(),
            memory: MemorySize::from_bytes(gib * GIB).unwrap(),
        }
    }

    fn limits(cpus: u64, gib: u64) -> Limits {
        Limits {
            cpu_millis: Some(cpus * 1000),
            memory: Some(gib * GIB),
        }
    }

    fn sizing(first: Size) -> Sizing {
        let config = Config {
            rule: Rule::default(),
            max: size(4, 8),
        };
        Sizing::new(&config, Limits::default(), first)
    }

    #[test]
    fn the_target_follows_who_lives() {
        let sizing = sizing(size(1, 2));
        assert_eq!(sizing.target(), size(1, 2));
        sizing.set("a", limits(1, 1));
        sizing.set("b", limits(1, 2));
        assert_eq!(sizing.target(), size(3, 5));
        sizing.set("a", limits(2, 1));
        assert_eq!(sizing.target(), size(4, 5));
        sizing.forget("b");
        assert_eq!(sizing.target(), size(3, 3));
        assert_eq!(sizing.limits("a"), Some(limits(2, 1)));
        assert_eq!(sizing.limits("b"), None);
    }

    #[test]
    fn a_pod_that_starts_larger_than_the_maximum_stays_so() {
        let sizing = sizing(size(6, 4));
        assert_eq!(sizing.max(), size(6, 8));
    }

    #[test]
    fn a_vm_that_was_resized_half_way_is_asked_again() {
        let (sizing, asked) = (sizing(size(1, 2)), Arc::new(Mutex::new(Vec::new())));
        let fit = |guest_goes_along: bool| {
            let seen = Arc::clone(&asked);
            testing::run(sizing.fit_by(move |size| {
                seen.lock().unwrap().push(size);
                let message = "not now".to_owned();
                Some(PodSize {
                    vcpus: size.vcpus.get().into(),
                    max_vcpus: 4,
                    memory: size.memory.bytes(),
                    wanted_memory: size.memory.bytes(),
                    max_memory: 8 * GIB,
                })
                .filter(|_| guest_goes_along)
                .ok_or(PodError::Resize { message })
            }));
            std::mem::take(&mut *asked.lock().unwrap())
        };
        assert_eq!(fit(true), [], "it is as large as it is to be");
        sizing.set("a", limits(1, 1));
        assert_eq!(fit(false), [size(2, 3)]);
        // What has become of it is not known.
        sizing.forget("a");
        assert_eq!(fit(true), [size(1, 2)]);
        assert_eq!(fit(true), []);
    }

    #[test]
    fn limits_beyond_the_maximum_are_told() {
        let sizing = sizing(size(1, 2));
        assert_eq!(sizing.excess(limits(4, 8)), None);
        assert_eq!(sizing.excess(Limits::default()), None);
        let cpu = sizing.excess(limits(5, 1)).unwrap();
        assert!(
            cpu.contains("4 vCPUs") && cpu.contains("max_vcpus"),
            "{cpu}"
        );
        let memory = sizing.excess(limits(1, 9)).unwrap();
        assert!(
            memory.contains("8192 MiB") && memory.contains(PATH),
            "{memory}"
        );
    }
}
