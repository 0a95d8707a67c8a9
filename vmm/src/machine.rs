//! Life of a machine: made, run, stopped.
//!
//! Whatever ends first ends all: the guest's power-off, a fault of one vCPU or the host's
//! [`VmHandle::stop`]. Then vCPUs stop, then device workers, and only then is memory given back.

use std::fs::File;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use devices::VirtioDevice;
use devices::serial::{Console, ConsoleTail};
use devices::transport::TransportError;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use thiserror::Error;

use crate::boot;
use crate::boot::{Cpus, layout};
use crate::builder::{ConfigError, MemorySize, VcpuCount, VmBuilder};
use crate::bus::{Bus, Request};
use crate::events::{
    Changeable, EventSender, Events, SlotChange, ThreadHook, device_threads, events,
};
use crate::growth::{Gauge, GrowableMemory, Growth, ResizeError, VmSize};
use crate::interrupts::{LINES, lines, pins, set_routes, split_irqchip};
use crate::ioapic::IoApic;
use crate::memory::{GuestMemory, MemoryError, growable};
use crate::slots::{PlugError, Slots};
use crate::vcpu::{VcpuEnd, VcpuError, prepare_kicks};
use crate::wiring::{Registers, Wiring, window_address};

/// The only version of KVM's interface since Linux 2.6.22.
const KVM_API_VERSION: i32 = 12;

/// Why a machine could not be made.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A value that no machine can have.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `/dev/kvm` could not be opened.
    #[error("/dev/kvm: cannot be opened")]
    OpenKvm(#[source] kvm_ioctls::Error),
    /// The file that was opened is not KVM's device.
    #[error(
        "/dev/kvm: is not KVM's device (it answers version {0} instead of 12); mount the real one, character device 10:232"
    )]
    NotKvm(i32),
    /// An ioctl of KVM failed.
    #[error("KVM: {operation} failed")]
    Kvm {
        /// The ioctl.
        operation: &'static str,
        /// KVM's reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Guest memory could not be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel or initramfs could not be loaded.
    #[error(transparent)]
    Kernel(#[from] boot::KernelError),
    /// The boot parameters could not be written.
    #[error(transparent)]
    Params(#[from] boot::ParamsError),
    /// The CPU table could not be written.
    #[error("MP table cannot be written")]
    MpTable(#[source] vm_memory::GuestMemoryError),
    /// The vCPUs could not be described.
    #[error(transparent)]
    Cpuid(#[from] boot::CpuidError),
    /// The vCPUs' registers could not be set.
    #[error(transparent)]
    CpuRegisters(#[from] boot::RegistersError),
    /// No memory for the devices' registers.
    #[error("cannot map memory for the devices' registers")]
    Registers(#[source] std::io::Error),
    /// A device could not be put on the bus.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// More devices than interrupt lines.
    #[error("{0} devices: a machine has at most {max}, slots for more count as one", max = LINES.len())]
    TooManyDevices(usize),
    /// An event file descriptor could not be made.
    #[error("cannot create an event file descriptor")]
    EventFd(#[source] std::io::Error),
}

/// Why a machine stopped.
#[derive(Debug)]
pub enum StopReason {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked and then asked for a reset.
    Panic {
        /// The line that the kernel printed, without its time stamp.
        message: String,
    },
    /// The guest faulted beyond recovery.
    TripleFault,
    /// The host stopped it.
    Stopped,
    /// KVM could not go on.
    Failed(VcpuError),
}

/// A machine that has stopped.
#[derive(Debug)]
pub struct Stop {
    /// Why.
    pub reason: StopReason,
    /// The newest output of the guest's console; empty for a quiet guest that was well.
    pub console: String,
}

/// A machine that is ready to run.
pub struct Vm {
    growth: Growth,
    bus: Arc<Bus>,
    slots: Slots,
    tail: ConsoleTail,
    events: (EventSender, Events),
    on_thread_start: Option<ThreadHook>,
    /// Dropped last: it is unmapped when nobody above has it any more, and KVM must not see unmapped memory.
    memory: GuestMemory,
}

/// Steers a machine from any thread.
#[derive(Clone)]
pub struct VmHandle {
    events: EventSender,
    gauge: Gauge,
}

impl VmHandle {
    /// Stops the machine at once, as pulling the plug would. Does nothing once it has stopped.
    pub fn stop(&self) {
        self.events.end(VcpuEnd::Stopped);
    }

    /// Grants the guest so many vCPUs and so much memory, rounded up to what it takes at once, and wants
    /// back what it has beyond that. [`size`](Self::size) tells what has come of it.
    ///
    /// # Errors
    /// [`ResizeError`]; the machine is as it was, or larger.
    pub fn resize(&self, vcpus: VcpuCount, memory: MemorySize) -> Result<(), ResizeError> {
        self.events.resize(vcpus, memory)
    }

    /// How large the machine is.
    #[must_use]
    pub fn size(&self) -> VmSize {
        self.gauge.read()
    }

    /// Puts `device` into a slot that is vacant, and gives the address of its registers. Its driver has
    /// to be told there: nothing of this reaches the guest by itself.
    ///
    /// # Errors
    /// [`PlugError`]: there is no such slot, or the machine has ended.
    pub fn plug(&self, device: Box<dyn VirtioDevice>) -> Result<u64, PlugError> {
        self.events.change_slot(SlotChange::Plug(device))
    }

    /// Takes the device at `address` away, whatever its driver is at. When this returns nobody works
    /// for it any more.
    ///
    /// # Errors
    /// [`PlugError`]: there is none, or the machine has ended.
    pub fn unplug(&self, address: u64) -> Result<(), PlugError> {
        self.events
            .change_slot(SlotChange::Unplug(address))
            .map(drop)
    }
}

pub(crate) fn kvm_error(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { operation, source }
}

impl Vm {
    pub(crate) fn new(mut parts: VmBuilder) -> Result<Self, BuildError> {
        let kvm = open_kvm(parts.kvm.take())?;
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION {
            return Err(BuildError::NotKvm(version));
        }
        let growable = growable(parts.memory, parts.max_memory);
        let memory = GuestMemory::new(parts.memory, growable)?;
        let guest = memory.share();
        // Until Linux 6.12 KVM_CREATE_VM moves a thread between cgroups, and waits milliseconds for it.
        let (vm, loaded) =
            boot::load_kernel_while(&guest, &parts.kernel, parts.initrd.as_ref(), || {
                kvm.create_vm().map_err(kvm_error("KVM_CREATE_VM"))
            })?;
        add_memory(&vm, &memory)?;
        // KVM wants these before the first vCPU.
        vm.set_identity_map_address(layout::IDENTITY_MAP)
            .map_err(kvm_error("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(layout::TSS as usize)
            .map_err(kvm_error("KVM_SET_TSS_ADDR"))?;
        let growable = growable.zip(memory.growable()).map(|(region, host)| {
            // Behind the slots of memory and registers.
            let slot = memory.slots().count() as u32 + 1;
            let (device, growable) = GrowableMemory::new(region, host, slot);
            parts.devices.push(Box::new(device));
            growable
        });
        let lines = lines_of(&parts)?;
        let pins = pins(lines);
        split_irqchip(&vm, pins).map_err(kvm_error("KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)"))?;

        let cmdline = full_cmdline(&parts, lines)?;
        let devices = std::mem::take(&mut parts.devices);
        let (fixed, vacant) = (devices.len(), parts.slots);
        let registers = Registers::new(&kvm, fixed + vacant)?;
        if let Some(registers) = &registers {
            registers.map(&vm, memory.slots().count())?;
        }
        let vm = Arc::new(vm);
        let wiring = Wiring {
            vm: Arc::clone(&vm),
            memory: memory.share(),
            registers,
            threads: device_threads(parts.on_thread_start.clone()),
        };
        let devices = devices.into_iter().zip(lines).enumerate();
        let transports = devices
            .map(|(window, (device, line))| wiring.connect(window, *line, device))
            .map(|connected| connected.map(|(transport, _)| transport))
            .collect::<Result<_, _>>()?;
        // The last one is theirs, if there are any.
        let slots = Slots::new(wiring, fixed, vacant, lines.last().copied().unwrap_or(0));
        let console = Console::new(parts.console.take());
        let tail = console.tail();

        boot::write_params(&guest, parts.memory, &loaded, &cmdline)?;
        boot::write_mptable(&guest, parts.most_vcpus(), lines).map_err(BuildError::MpTable)?;
        let cpus = Cpus::new(&kvm, parts.most_vcpus())?;
        // Who takes this process over finds no way to another machine.
        drop(kvm);
        let vcpus = make_vcpus(&cpus, &vm, parts.vcpus)?;
        if let Some(first) = vcpus.first() {
            boot::set_boot_registers(first, &guest, loaded.entry)?;
        }
        let set_routes = set_routes(Arc::clone(&vm));
        let bus = Arc::new(Bus::new(
            transports,
            vacant,
            console,
            IoApic::new(pins),
            set_routes,
        ));
        Ok(Self {
            growth: Growth::new(
                (cpus, vm),
                vcpus,
                (parts.memory, parts.max_memory),
                growable,
            ),
            bus,
            slots,
            tail,
            events: events(),
            on_thread_start: parts.on_thread_start,
            memory,
        })
    }

    /// A way to stop the machine while it runs.
    #[must_use]
    pub fn handle(&self) -> VmHandle {
        VmHandle {
            events: self.events.0.clone(),
            gauge: self.growth.gauge(),
        }
    }

    /// Runs the machine until it stops. Everything it used is given back when this returns.
    ///
    /// # Errors
    /// When the vCPUs' threads cannot be made.
    pub fn run(self) -> std::io::Result<Stop> {
        let Self {
            mut growth,
            bus,
            tail,
            events: (sender, events),
            memory,
            mut slots,
            on_thread_start,
        } = self;
        prepare_kicks().map_err(std::io::Error::from)?;
        if let Err(error) = growth.start(&bus, &sender, on_thread_start) {
            // A vCPU must not wait for an answer that nobody will give.
            drop(events);
            growth.stop();
            return Err(error);
        }
        let end = events.serve(
            &bus,
            &mut Parts {
                growth: &mut growth,
                slots: &mut slots,
            },
        );
        growth.stop();
        bus.pause();
        let console = tail.text();
        let reason = explain(end, &console);
        drop((bus, slots, growth, memory));
        Ok(Stop { reason, console })
    }
}

/// What of a machine changes while it runs.
struct Parts<'a> {
    growth: &'a mut Growth,
    slots: &'a mut Slots,
}

impl Changeable for Parts<'_> {
    fn resize(&mut self, vcpus: VcpuCount, memory: MemorySize) -> Result<(), ResizeError> {
        self.growth.resize(vcpus, memory)
    }

    fn trim(&mut self) {
        self.growth.trim();
    }

    fn change_slot(&mut self, bus: &Bus, change: SlotChange) -> Result<u64, PlugError> {
        self.slots.change(bus, change)
    }
}

/// One line for each device, and one for all that come while the machine runs.
fn lines_of(parts: &VmBuilder) -> Result<&'static [u8], BuildError> {
    let devices = parts.devices.len() + usize::from(parts.slots > 0);
    lines(devices).ok_or(BuildError::TooManyDevices(devices))
}

fn open_kvm(device: Option<File>) -> Result<Kvm, BuildError> {
    match device {
        None => Kvm::new().map_err(BuildError::OpenKvm),
        #[allow(
            unsafe_code,
            reason = "kvm-ioctls takes over descriptors only as raw numbers"
        )]
        // SAFETY: the descriptor is owned by nobody else once it was taken out of its `File`.
        Some(file) => Ok(unsafe {
            use std::os::fd::FromRawFd;
            Kvm::from_raw_fd(file.into_raw_fd())
        }),
    }
}

fn add_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), BuildError> {
    for (slot, (guest_phys_addr, memory_size, userspace_addr)) in (0u32..).zip(memory.slots()) {
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr,
            memory_size,
            userspace_addr,
            flags: 0,
        };
        #[allow(unsafe_code, reason = "KVM is told to use memory of this process")]
        // SAFETY: the range is mapped, and stays so until the machine is gone: `Vm` drops it last.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(kvm_error("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

fn make_vcpus(cpus: &Cpus, vm: &VmFd, count: VcpuCount) -> Result<Vec<VcpuFd>, BuildError> {
    (0..count.get())
        .map(|index| make_vcpu(cpus, vm, index))
        .collect()
}

/// vCPU `index`. All but the first wait for the guest to start them.
pub(crate) fn make_vcpu(cpus: &Cpus, vm: &VmFd, index: u8) -> Result<VcpuFd, BuildError> {
    let vcpu = vm
        .create_vcpu(u64::from(index))
        .map_err(kvm_error("KVM_CREATE_VCPU"))?;
    vcpu.set_cpuid2(&cpus.cpuid(index))
        .map_err(kvm_error("KVM_SET_CPUID2"))?;
    boot::set_boot_msrs(&vcpu)?;
    Ok(vcpu)
}

/// The embedder's command line with what the machine itself needs.
fn full_cmdline(parts: &VmBuilder, lines: &[u8]) -> Result<String, BuildError> {
    if !parts
        .cmdline
        .bytes()
        .all(|byte| (0x20..0x7f).contains(&byte))
    {
        return Err(ConfigError::CommandLine("only printable ASCII characters are allowed").into());
    }
    // An early console needs no driver that probes, and each character costs two exits: messages
    // stay in the ring buffer, but a panic raises the level by itself and is seen. The level comes
    // first, because the console prints from the moment that its own parameter is parsed.
    let verbosity = if parts.console.is_some() {
        "loglevel=7"
    } else {
        "quiet loglevel=1"
    };
    let mut cmdline = format!("{verbosity} earlyprintk=serial,ttyS0,115200,keep");
    // A panic resets at once, by the keyboard controller, which is told from a triple fault.
    cmdline.push_str(" panic=-1 reboot=k ");
    if parts.most_vcpus() != parts.vcpus {
        // The MP table tells of more than there are yet.
        cmdline.push_str(&format!("maxcpus={} ", parts.vcpus.get()));
    }
    cmdline.push_str(&parts.cmdline);
    let shared = lines.last().into_iter().cycle().take(parts.slots);
    let lines = lines.iter().take(parts.devices.len()).chain(shared);
    for (window, line) in lines.enumerate() {
        let address = window_address(window);
        cmdline.push_str(&format!(" virtio_mmio.device=4K@{address:#x}:{line}"));
    }
    Ok(cmdline)
}

fn explain(end: VcpuEnd, console: &str) -> StopReason {
    const PANIC: &str = "Kernel panic - not syncing: ";
    match end {
        VcpuEnd::Request(Request::PowerOff) => StopReason::PowerOff,
        VcpuEnd::Request(Request::Reset) => {
            let line = console
                .lines()
                .rev()
                .find_map(|line| line.split_once(PANIC));
            line.map_or(StopReason::Reset, |(_, message)| StopReason::Panic {
                message: message.trim().to_owned(),
            })
        }
        VcpuEnd::TripleFault => StopReason::TripleFault,
        VcpuEnd::Failed(error) => StopReason::Failed(error),
        VcpuEnd::Stopped => StopReason::Stopped,
    }
}
