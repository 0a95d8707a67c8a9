//! How a device is connected to KVM: doorbells, interrupt, registers.

use std::sync::Arc;

use devices::transport::mmio::WINDOW_SIZE;
use devices::transport::{MmioTransport, RegisterPages};
use devices::{Memory, Threads, VirtioDevice};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::machine::{BuildError, kvm_error};
use crate::memory::DEVICES_START;

/// Where window number `window` is.
pub fn window_address(window: usize) -> u64 {
    DEVICES_START + WINDOW_SIZE * window as u64
}

/// What a device needs of the machine.
pub struct Wiring {
    pub vm: Arc<VmFd>,
    pub memory: Memory,
    pub registers: Option<Registers>,
    pub threads: Threads,
}

impl Wiring {
    /// Puts `device` behind the registers of window number `window`; it interrupts by `line`. Gives also
    /// what raises that.
    pub fn connect(
        &self,
        window: usize,
        line: u8,
        device: Box<dyn VirtioDevice>,
    ) -> Result<(MmioTransport, EventFd), BuildError> {
        let irq =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(BuildError::EventFd)?;
        let raise = irq.try_clone().map_err(BuildError::EventFd)?;
        let mut transport = MmioTransport::new(device, self.memory.clone(), raise)?;
        transport.start_workers_by(self.threads.clone());
        if let Err(error) = self.register(window, line, &transport, &irq) {
            self.disconnect(window, line, &transport, &irq);
            return Err(error);
        }
        if let Some(registers) = &self.registers {
            transport.mirror(&registers.pages, window);
        }
        Ok((transport, irq))
    }

    fn register(
        &self,
        window: usize,
        line: u8,
        transport: &MmioTransport,
        irq: &EventFd,
    ) -> Result<(), BuildError> {
        self.vm
            .register_irqfd(irq, line.into())
            .map_err(kvm_error("KVM_IRQFD"))?;
        for (kick, address, value) in self.doorbells(window, transport) {
            self.vm
                .register_ioevent(kick, &address, value)
                .map_err(kvm_error("KVM_IOEVENTFD"))?;
        }
        Ok(())
    }

    /// Takes back what [`connect`](Self::connect) did: KVM holds on to a doorbell that everybody else has
    /// closed.
    pub fn disconnect(&self, window: usize, line: u8, transport: &MmioTransport, irq: &EventFd) {
        if let Some(registers) = &self.registers {
            registers.pages.vacate(window);
        }
        for (kick, address, value) in self.doorbells(window, transport) {
            let gone = self.vm.unregister_ioevent(kick, &address, value);
            note("KVM_IOEVENTFD", gone);
        }
        note("KVM_IRQFD", self.vm.unregister_irqfd(irq, line.into()));
    }

    /// Register writes that become events, with the values that do.
    fn doorbells<'a>(
        &'a self,
        window: usize,
        transport: &'a MmioTransport,
    ) -> impl Iterator<Item = (&'a EventFd, IoEventAddress, u32)> {
        let window = window_address(window);
        let notify = move || IoEventAddress::Mmio(window + MmioTransport::QUEUE_NOTIFY_OFFSET);
        let queues = (0u32..).zip(transport.kicks());
        let queues = queues.map(move |(queue, kick)| (kick, notify(), queue));
        let acknowledge = self.registers.iter().map(move |registers| {
            let address = IoEventAddress::Mmio(window + MmioTransport::ACKNOWLEDGE_OFFSET);
            let used = MmioTransport::ACKNOWLEDGE_USED;
            (&registers.acknowledged, address, used)
        });
        queues.chain(acknowledge)
    }
}

fn note(operation: &str, result: Result<(), kvm_ioctls::Error>) {
    if let Err(error) = result {
        log::warn!("what a device had of KVM may stay: {operation}: {error}");
    }
}

/// Registers that the guest reads without an exit.
pub struct Registers {
    pages: Arc<RegisterPages>,
    /// Takes acknowledgements of used buffers in the kernel; nobody reads it.
    acknowledged: EventFd,
}

impl Registers {
    /// Pages for `windows` windows, all vacant; `None` where KVM has no read-only memory.
    pub fn new(kvm: &Kvm, windows: usize) -> Result<Option<Self>, BuildError> {
        if windows == 0 || !kvm.check_extension(Cap::ReadonlyMem) {
            return Ok(None);
        }
        let pages = RegisterPages::new(windows).map_err(BuildError::Registers)?;
        let acknowledged = EventFd::new(libc::EFD_CLOEXEC).map_err(BuildError::EventFd)?;
        Ok(Some(Self {
            pages: Arc::new(pages),
            acknowledged,
        }))
    }

    /// Has window number `window` read as one that nothing is behind.
    pub fn vacate(&self, window: usize) {
        self.pages.vacate(window);
    }

    /// Puts the pages where the devices' windows are.
    pub fn map(&self, vm: &VmFd, slot: usize) -> Result<(), BuildError> {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            guest_phys_addr: DEVICES_START,
            memory_size: self.pages.len(),
            userspace_addr: self.pages.host_address(),
            flags: KVM_MEM_READONLY,
        };
        #[allow(unsafe_code, reason = "KVM is told to use memory of this process")]
        // SAFETY: the pages are mapped, and `Vm` keeps them until the machine is gone.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(kvm_error("KVM_SET_USER_MEMORY_REGION"))
    }
}
