//! What the thread in [`Vm::run`](crate::Vm::run) is told by the others.
//!
//! ```text
//!   vCPU ──its end, what only Vm::run may do──▶ Vm::run ◀──stop── VmHandle
//!     ▲                                           │
//!     └───────────────── served ──────────────────┘
//! ```
//!
//! Devices are started and stopped there, and interrupts routed, and nowhere else: a worker inherits
//! the rights of the thread that starts it, and a vCPU's thread may have next to none.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use devices::{DeviceKind, Threads, VirtioDevice};

use crate::bus::Bus;
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

/// Tells the vCPU that its task is done: what the guest does next depends on it.
type Served = SyncSender<()>;

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
    /// Slots are changed by `change_slot`.
    pub fn serve(
        self,
        bus: &Bus,
        mut change_slot: impl FnMut(SlotChange) -> Result<u64, PlugError>,
    ) -> VcpuEnd {
        while let Ok(event) = self.0.recv() {
            match event {
                Event::Ended(end) => return end,
                Event::Slot(change, served) => {
                    let _ = served.send(change_slot(change));
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
        let (console, ioapic) = (Console::new(None), IoApic::new(1));
        let bus = Bus::new(Vec::new(), 0, console, ioapic, Box::new(|_| {}));
        let change = |change| match change {
            SlotChange::Unplug(address) => Ok(address),
            SlotChange::Plug(_) => Err(PlugError::Full(0)),
        };
        assert!(matches!(events.serve(&bus, change), VcpuEnd::TripleFault));
        vcpu.join().unwrap();
        let late = sender.change_slot(SlotChange::Unplug(7));
        assert!(matches!(late, Err(PlugError::Ended)));
        sender.end(VcpuEnd::Stopped);
    }
}
