//! How a machine grows and shrinks while it runs.
//!
//! ```text
//!   VmHandle::resize ──▶ Vm::run: KVM gets more vCPUs, each with its thread
//!                                 KVM gets more memory ──▶ MemHandle::request ──▶ the guest plugs it
//!   guest has unplugged ──Surplus──▶ Vm::run: KVM loses the pieces that are empty
//! ```
//!
//! What a guest has not been granted is not there: KVM knows neither a vCPU nor a memory slot for it. The
//! guest is told of all vCPUs that it may get at boot, and leaves the others offline. A vCPU that was granted
//! stays, idle, when the guest has taken it offline: KVM cannot take it back.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use devices::mem::{BLOCK, Mem, MemHandle, MemRegion};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuFd, VmFd};
use thiserror::Error;

use crate::boot::Cpus;
use crate::builder::{MemorySize, VcpuCount};
use crate::bus::Bus;
use crate::events::{EventSender, ThreadHook};
use crate::machine::{BuildError, kvm_error, make_vcpu};
use crate::vcpu::VcpuThread;

/// Why a machine has not become as large as it was to be.
#[derive(Debug, Error)]
pub enum ResizeError {
    /// More vCPUs than the machine was made for.
    #[error("{wanted} vCPUs: this machine has at most {max}")]
    Vcpus {
        /// What was asked for.
        wanted: u8,
        /// What is possible.
        max: u8,
    },
    /// More memory than the machine was made for.
    #[error("{wanted} bytes of memory: this machine has at most {max}")]
    Memory {
        /// What was asked for.
        wanted: u64,
        /// What is possible.
        max: u64,
    },
    /// A vCPU could not be made.
    #[error("a vCPU cannot be added")]
    MakeVcpu(#[source] BuildError),
    /// A vCPU got no thread.
    #[error("a vCPU cannot be started")]
    StartVcpu(#[source] std::io::Error),
    /// KVM took no more memory.
    #[error("memory cannot be added")]
    AddMemory(#[source] kvm_ioctls::Error),
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
}

/// How large a machine is, and is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmSize {
    /// vCPUs that the guest has been granted.
    pub vcpus: u8,
    /// Most that it can be granted.
    pub max_vcpus: u8,
    /// Bytes of memory that the guest has.
    pub memory: u64,
    /// Bytes that the host wants it to have: more while the guest is about to take them, less while it
    /// cannot do without.
    pub wanted_memory: u64,
    /// Most bytes that it can be granted.
    pub max_memory: u64,
}

/// How large a machine is, to be read from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Gauge {
    vcpus: Arc<AtomicU8>,
    max_vcpus: u8,
    first_memory: u64,
    max_memory: u64,
    growable: Option<MemHandle>,
}

impl Gauge {
    pub fn read(&self) -> VmSize {
        let (plugged, requested) = self.growable.as_ref().map_or((0, 0), |handle| {
            let size = handle.size();
            (size.plugged, size.requested)
        });
        VmSize {
            vcpus: self.vcpus.load(Ordering::SeqCst),
            max_vcpus: self.max_vcpus,
            memory: self.first_memory + plugged,
            wanted_memory: self.first_memory + requested,
            max_memory: self.max_memory,
        }
    }
}

/// Most bytes of memory that a machine of `first` bytes can be granted if it may grow to `max`, rounded up to what
/// it takes at once. The pieces that KVM is given are larger: the last one need not be needed as a whole.
fn most(first: MemorySize, max: MemorySize) -> u64 {
    let more = max.bytes().saturating_sub(first.bytes());
    first.bytes() + more.next_multiple_of(BLOCK)
}

/// Memory that a machine can be granted beside that which it starts with.
pub(crate) struct GrowableMemory {
    handle: MemHandle,
    /// Address of the region in this process.
    host: u64,
    /// KVM's number of the first piece's slot; the others follow.
    first_slot: u32,
    /// Which pieces have one.
    slots: Vec<bool>,
}

impl GrowableMemory {
    /// The device for `region`, and the side of the host.
    pub fn new(region: MemRegion, host: u64, first_slot: u32) -> (Mem, Self) {
        let device = Mem::new(region);
        let growable = Self {
            handle: device.handle(),
            host,
            first_slot,
            slots: vec![false; region.pieces()],
        };
        (device, growable)
    }

    /// Grants so many bytes, a whole number of blocks, and has all pieces that they reach into there.
    fn grant(&mut self, vm: &VmFd, bytes: u64) -> Result<(), ResizeError> {
        let region = self.handle.region();
        let pieces = bytes.div_ceil(region.piece()) as usize;
        for piece in 0..pieces {
            if self.slots.get(piece) == Some(&false) {
                self.set_slot(vm, piece, region.piece())
                    .map_err(ResizeError::AddMemory)?;
            }
        }
        self.handle.provide(0..pieces);
        self.handle.request(bytes);
        self.trim(vm);
        Ok(())
    }

    /// Takes pieces away that the guest does not need and does not use.
    fn trim(&mut self, vm: &VmFd) {
        for piece in self.handle.withdraw() {
            if let Err(error) = self.set_slot(vm, piece, 0) {
                log::warn!("memory that the guest has unplugged stays reachable: {error}");
            }
        }
    }

    /// A slot of `len` bytes for a piece; of none, it goes.
    fn set_slot(&mut self, vm: &VmFd, piece: usize, len: u64) -> Result<(), kvm_ioctls::Error> {
        let region = self.handle.region();
        let offset = piece as u64 * region.piece();
        let slot = kvm_userspace_memory_region {
            slot: self.first_slot + piece as u32,
            guest_phys_addr: region.start() + offset,
            memory_size: len,
            userspace_addr: self.host + offset,
            flags: 0,
        };
        #[allow(unsafe_code, reason = "KVM is told to use memory of this process")]
        // SAFETY: the range is part of guest memory, which stays mapped until the machine is gone.
        unsafe { vm.set_user_memory_region(slot) }?;
        if let Some(present) = self.slots.get_mut(piece) {
            *present = len > 0;
        }
        Ok(())
    }
}

/// Has a vCPU that came late found by the others. KVM draws its map of local APICs up while it makes a vCPU, which
/// is not in its list then, and again when a state is set: without that the signal that starts it is lost.
fn announce(vcpu: &VcpuFd) -> Result<(), BuildError> {
    let lapic = vcpu.get_lapic().map_err(kvm_error("KVM_GET_LAPIC"))?;
    vcpu.set_lapic(&lapic).map_err(kvm_error("KVM_SET_LAPIC"))
}

/// A machine's vCPUs and memory, in the hands of the thread that runs it.
pub(crate) struct Growth {
    /// Dropped after the vCPUs and before memory: KVM must not see unmapped memory.
    vm: Arc<VmFd>,
    cpus: Cpus,
    /// Made, and not started yet; the next one last.
    waiting: Vec<VcpuFd>,
    running: Vec<VcpuThread>,
    memory: Option<GrowableMemory>,
    gauge: Gauge,
    /// What each vCPU's thread is given; there from the start of the first.
    surroundings: OnceLock<Surroundings>,
}

struct Surroundings {
    bus: Arc<Bus>,
    events: EventSender,
    hook: Option<ThreadHook>,
}

impl Growth {
    pub fn new(
        (cpus, vm): (Cpus, Arc<VmFd>),
        mut vcpus: Vec<VcpuFd>,
        (first_memory, max_memory): (MemorySize, MemorySize),
        memory: Option<GrowableMemory>,
    ) -> Self {
        vcpus.reverse();
        Self {
            gauge: Gauge {
                vcpus: Arc::new(AtomicU8::new(vcpus.len() as u8)),
                max_vcpus: cpus.count().get(),
                first_memory: first_memory.bytes(),
                max_memory: match &memory {
                    Some(_) => most(first_memory, max_memory),
                    None => first_memory.bytes(),
                },
                growable: memory.as_ref().map(|memory| memory.handle.clone()),
            },
            vm,
            cpus,
            waiting: vcpus,
            running: Vec::new(),
            memory,
            surroundings: OnceLock::new(),
        }
    }

    pub fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }

    /// Starts all vCPUs that were made.
    pub fn start(
        &mut self,
        bus: &Arc<Bus>,
        events: &EventSender,
        hook: Option<ThreadHook>,
    ) -> std::io::Result<()> {
        if let Some(memory) = &self.memory {
            memory.handle.on_surplus(events.surplus());
        }
        let _ = self.surroundings.set(Surroundings {
            bus: Arc::clone(bus),
            events: events.clone(),
            hook,
        });
        while !self.waiting.is_empty() {
            self.start_one()?;
        }
        Ok(())
    }

    fn start_one(&mut self) -> std::io::Result<()> {
        let (Some(vcpu), Some(with)) = (self.waiting.pop(), self.surroundings.get()) else {
            return Ok(());
        };
        let (bus, hook) = (Arc::clone(&with.bus), with.hook.clone());
        let index = self.running.len() as u8;
        match VcpuThread::start(index, vcpu, bus, with.events.clone(), hook) {
            Ok(thread) => self.running.push(thread),
            Err((vcpu, error)) => {
                self.waiting.extend(vcpu);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Stops all vCPUs.
    pub fn stop(&mut self) {
        self.running.drain(..).for_each(VcpuThread::stop);
    }

    /// Grants the guest so much, and takes what it has beyond that when it gives it.
    pub fn resize(&mut self, vcpus: VcpuCount, memory: MemorySize) -> Result<(), ResizeError> {
        let size = self.gauge.read();
        let (wanted, max) = (vcpus.get(), self.cpus.count().get());
        if wanted > max {
            return Err(ResizeError::Vcpus { wanted, max });
        }
        let (wanted, max) = (memory.bytes(), size.max_memory);
        if wanted > max {
            return Err(ResizeError::Memory { wanted, max });
        }
        while self.running.len() < usize::from(vcpus.get()) {
            // One may be left that got no thread the last time.
            if self.waiting.is_empty() {
                let index = self.running.len() as u8;
                let vcpu = make_vcpu(&self.cpus, &self.vm, index)
                    .and_then(|vcpu| announce(&vcpu).map(|()| vcpu));
                self.waiting.push(vcpu.map_err(ResizeError::MakeVcpu)?);
            }
            self.start_one().map_err(ResizeError::StartVcpu)?;
            let running = self.running.len() as u8;
            self.gauge.vcpus.store(running, Ordering::SeqCst);
        }
        let Some(growable) = &mut self.memory else {
            return Ok(());
        };
        let beyond = wanted.saturating_sub(self.gauge.first_memory);
        growable.grant(&self.vm, beyond.next_multiple_of(BLOCK))
    }

    /// The guest has unplugged memory: takes it away.
    pub fn trim(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.trim(&self.vm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::growable;

    #[test]
    fn a_machine_can_become_as_large_as_it_may() {
        const KIB: u64 = 1 << 10;
        let size = |kib: u64| MemorySize::from_bytes(kib * KIB).unwrap();
        // What a node has is no whole number of anything.
        for (first, max) in [
            (2 << 20, 16_373_484),
            (2 << 20, (2 << 20) + 1),
            (2 << 20, 4 << 20),
            (65 << 20, 66_000_000 + (10 << 20)),
            (64 << 10, 1 << 30),
        ] {
            let (first, max) = (size(first), size(max));
            let region = growable(first, max).unwrap();
            let most = most(first, max);
            assert!(most >= max.bytes() && most < max.bytes() + BLOCK);
            let last = most - first.bytes();
            assert!(last <= region.size() && region.size() - last < region.piece());
        }
        assert_eq!(most(size(4 << 20), size(2 << 20)), 4 << 30);
    }
}
