//! What the thread in [`Vm::run`](crate::Vm::run) is told by the others.
//!
//! ```text
//!   vCPU ──its end, what only Vm::run may do──▶ Vm::run ◀──stop, resize── VmHandle
//!     ▲                                           │
//!     └───────────────── served ──────────────────┘
//! ```
//!
//! Devices are started and stopped there, vCPUs and memory added, and interrupts routed, and nowhere
//! else: a thread inherits the rights of the one that starts it, and a vCPU's may have next to none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use devices::mem::OnSurplus;
use devices::{DeviceKind, Threads, VirtioDevice};

use crate::builder::{MemorySize, VcpuCount};
use crate::bus::Bus;
use crate::growth::ResizeError;
use crate::slots::PlugError;
use crate::vcpu::VcpuEnd;

/// What a thread of a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// Runs a virtual CPU.
    Vcpu,
    /// Serves the queues of a device.
    Worker(DeviceKind),
}

/// Called in each new thread of a machine, first thing.
pub type ThreadHook = Arc<dyn Fn(ThreadKind) + Send + Sync>;

/// How devices start their workers.
pub(crate) fn device_threads(hook: Option<ThreadHook>) -> Threads {
    hook.map_or_else(Threads::default, |hook| {
        Threads::with_hook(Arc::new(move |kind| hook(ThreadKind::Worker(kind))))
    })
}

enum Event {
    Ended(VcpuEnd),
    Task(Task, Served),
    Resize(VcpuCount, MemorySize, Resized),
    /// The guest has unplugged memory. Not sent again before the last one was taken.
    Surplus(Arc<AtomicBool>),
    Slot(SlotChange, SyncSender<Result<u64, PlugError>>),
}

/// What a [`VmHandle`](crate::VmHandle) has done to a slot by the machine's thread.
pub enum SlotChange {
    /// This device comes.
    Plug(Box<dyn VirtioDevice>),
    /// The device at this address goes.
    Unplug(u64),
}

/// What a vCPU has done by the machine's thread.
enum Task {
    /// A register write that starts or stops workers.
    Write { addr: u64, data: Vec<u8> },
    /// Interrupts are to be sent as the I/O APIC says now.
    Reroute,
}

/// What of a machine its thread changes.
pub(crate) trait Changeable {
    /// Grants the guest so much, and takes what it has beyond that when it gives it.
    fn resize(&mut self, vcpus: VcpuCount, memory: MemorySize) -> Result<(), ResizeError>;
    /// The guest has unplugged memory: takes it away.
    fn trim(&mut self);
    /// Changes a slot, and gives its address.
    fn change_slot(&mut self, bus: &Bus, change: SlotChange) -> Result<u64, PlugError>;
}

/// Tells the vCPU that its task is done: what the guest does next depends on it.
type Served = SyncSender<()>;
/// Tells the host what has become of its request.
type Resized = SyncSender<Result<(), ResizeError>>;

/// The end that speaks.
#[derive(Clone)]
pub struct EventSender(Sender<Event>);

/// The end that listens.
pub struct Events(Receiver<Event>);

/// Both ends.
#[must_use]
pub fn events() -> (EventSender, Events) {
    let (sender, receiver) = channel();
    (EventSender(sender), Events(receiver))
}

impl EventSender {
    /// The machine is to end. Nothing happens if it has ended.
    pub fn end(&self, end: VcpuEnd) {
        let _ = self.0.send(Event::Ended(end));
    }

    /// Has a write to a device's registers served, and waits for it. A machine that ends meanwhile
    /// serves it no more.
    pub fn write(&self, addr: u64, data: &[u8]) {
        let data = data.to_vec();
        self.have_done(Task::Write { addr, data });
    }

    /// Has interrupts sent as the I/O APIC says now, and waits for it, as [`write`](Self::write) does.
    pub fn reroute(&self) {
        self.have_done(Task::Reroute);
    }

    /// Has the machine resized, and waits for it.
    ///
    /// # Errors
    /// [`ResizeError`].
    pub fn resize(&self, vcpus: VcpuCount, memory: MemorySize) -> Result<(), ResizeError> {
        let (resized, done) = sync_channel(1);
        let sent = self.0.send(Event::Resize(vcpus, memory, resized));
        sent.map_err(|_| ResizeError::Ended)?;
        done.recv().unwrap_or(Err(ResizeError::Ended))
    }

    /// Tells, without waiting, that the guest has unplugged memory.
    #[must_use]
    pub(crate) fn surplus(&self) -> OnSurplus {
        let (sender, pending) = (self.clone(), Arc::new(AtomicBool::new(false)));
        Arc::new(move || {
            if !pending.swap(true, Ordering::SeqCst) {
                let _ = sender.0.send(Event::Surplus(Arc::clone(&pending)));
            }
        })
    }

    /// Has a slot changed, and waits for it. Gives the slot's address.
    pub fn change_slot(&self, change: SlotChange) -> Result<u64, PlugError> {
        let (served, done) = sync_channel(1);
        let sent = self.0.send(Event::Slot(change, served));
        let answer = sent.ok().and_then(|()| done.recv().ok());
        answer.unwrap_or(Err(PlugError::Ended))
    }

    fn have_done(&self, task: Task) {
        let (served, done) = sync_channel(1);
        if self.0.send(Event::Task(task, served)).is_ok() {
            let _ = done.recv();
        }
    }
}

impl Events {
    /// Does what vCPUs ask for until something ends the machine. Who waits for an answer then gets none.
    pub(crate) fn serve(self, bus: &Bus, machine: &mut impl Changeable) -> VcpuEnd {
        while let Ok(event) = self.0.recv() {
            match event {
                Event::Ended(end) => return end,
                Event::Resize(vcpus, memory, resized) => {
                    let _ = resized.send(machine.resize(vcpus, memory));
                }
                Event::Surplus(pending) => {
                    pending.store(false, Ordering::SeqCst);
                    machine.trim();
                }
                Event::Slot(change, served) => {
                    let _ = served.send(machine.change_slot(bus, change));
                }
                Event::Task(task, served) => {
                    let reroute = match task {
                        Task::Write { addr, data } => bus.write_memory(addr, &data),
                        Task::Reroute => true,
                    };
                    if reroute {
                        bus.reroute();
                    }
                    let _ = served.send(());
                }
            }
        }
        VcpuEnd::Stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ioapic::IoApic;
    use devices::serial::Console;

    /// A machine of two vCPUs at most that counts how often it was trimmed.
    #[derive(Default)]
    struct Machine(usize);

    impl Changeable for Machine {
        fn resize(&mut self, vcpus: VcpuCount, _: MemorySize) -> Result<(), ResizeError> {
            match vcpus.get() {
                1 | 2 => Ok(()),
                wanted => Err(ResizeError::Vcpus { wanted, max: 2 }),
            }
        }

        fn trim(&mut self) {
            self.0 += 1;
        }

        fn change_slot(&mut self, _: &Bus, change: SlotChange) -> Result<u64, PlugError> {
            match change {
                SlotChange::Unplug(address) => Ok(address),
                SlotChange::Plug(_) => Err(PlugError::Full(0)),
            }
        }
    }

    fn bus() -> Bus {
        let (console, ioapic) = (Console::new(None), IoApic::new(1));
        Bus::new(Vec::new(), 0, console, ioapic, Box::new(|_| {}))
    }

    #[test]
    fn a_write_is_served_or_given_up_but_never_waited_for_in_vain() {
        let (sender, events) = events();
        let vcpu = {
            let sender = sender.clone();
            std::thread::spawn(move || {
                sender.write(0, &[0; 4]);
                let plugged = sender.change_slot(SlotChange::Unplug(7));
                assert_eq!(plugged.unwrap(), 7);
                sender.end(VcpuEnd::TripleFault);
                // Nobody listens any more, or is about to.
                sender.write(0, &[0; 4]);
            })
        };
        let end = events.serve(&bus(), &mut Machine::default());
        assert!(matches!(end, VcpuEnd::TripleFault));
        vcpu.join().unwrap();
        let late = sender.change_slot(SlotChange::Unplug(7));
        assert!(matches!(late, Err(PlugError::Ended)));
        sender.end(VcpuEnd::Stopped);
    }

    #[test]
    fn a_machine_is_resized_until_it_has_ended() {
        let (sender, events) = events();
        let host = std::thread::spawn(move || {
            let memory = MemorySize::from_mib(64).unwrap();
            let resize = |vcpus| sender.resize(VcpuCount::new(vcpus).unwrap(), memory);
            resize(2).unwrap();
            let refused = resize(3).unwrap_err().to_string();
            assert_eq!(refused, "3 vCPUs: this machine has at most 2");
            sender.end(VcpuEnd::Stopped);
            assert!(matches!(resize(2), Err(ResizeError::Ended)));
        });
        events.serve(&bus(), &mut Machine::default());
        host.join().unwrap();
    }

    #[test]
    fn case_08_a_guest_that_unplugs_again_and_again_is_heard_once() {
        let (sender, events) = events();
        let surplus = sender.surplus();
        (0..1000).for_each(|_| surplus());
        sender.end(VcpuEnd::Stopped);
        let mut machine = Machine::default();
        events.serve(&bus(), &mut machine);
        assert_eq!(machine.0, 1);
    }
}
