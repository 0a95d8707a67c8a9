//! What the thread in [`Vm::run`](crate::Vm::run) is told by the others.
//!
//! ```text
//!   vCPU ──its end, a write that starts or stops a device──▶ Vm::run ◀──stop── VmHandle
//!     ▲                                                        │
//!     └───────────────────── served ───────────────────────────┘
//! ```
//!
//! Devices are started and stopped there and nowhere else: a worker inherits the rights of the
//! thread that starts it, and a vCPU's thread may have next to none.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use devices::{DeviceKind, Threads};

use crate::bus::Bus;
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
    Write(DeviceWrite),
}

/// A register write that another thread serves.
struct DeviceWrite {
    addr: u64,
    data: Vec<u8>,
    /// Its end is waited for: the driver reads the register next.
    served: SyncSender<()>,
}

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
        let (served, done) = sync_channel(1);
        let data = data.to_vec();
        let write = DeviceWrite { addr, data, served };
        if self.0.send(Event::Write(write)).is_ok() {
            let _ = done.recv();
        }
    }
}

impl Events {
    /// Serves writes until something ends the machine. Who waits for an answer then gets none.
    pub fn serve(self, bus: &Bus) -> VcpuEnd {
        while let Ok(event) = self.0.recv() {
            match event {
                Event::Ended(end) => return end,
                Event::Write(write) => {
                    bus.write_memory(write.addr, &write.data);
                    let _ = write.served.send(());
                }
            }
        }
        VcpuEnd::Stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::serial::Console;

    #[test]
    fn a_write_is_served_or_given_up_but_never_waited_for_in_vain() {
        let (sender, events) = events();
        let vcpu = {
            let sender = sender.clone();
            std::thread::spawn(move || {
                sender.write(0, &[0; 4]);
                sender.end(VcpuEnd::TripleFault);
                // Nobody listens any more, or is about to.
                sender.write(0, &[0; 4]);
            })
        };
        let bus = Bus::new(Vec::new(), Console::new(None));
        assert!(matches!(events.serve(&bus), VcpuEnd::TripleFault));
        vcpu.join().unwrap();
        sender.end(VcpuEnd::Stopped);
    }
}
