//! Which device an exit is for.
//!
//! Ports: the 8250 at 0x3f8, the keyboard controller's reset line at 0x64, and a power-off port at
//! 0x604. Everything else reads as all ones and ignores writes, as an empty bus does. Memory: one
//! page of registers for each virtio device from [`DEVICES_START`], and the I/O APIC.

use std::sync::{Mutex, MutexGuard, PoisonError};

use devices::serial::Console;
use devices::transport::MmioTransport;
use devices::transport::mmio::WINDOW_SIZE;

use crate::boot::layout;
use crate::ioapic::{self, IoApic, Route};
use crate::memory::DEVICES_START;

const SERIAL: std::ops::RangeInclusive<u16> = 0x3f8..=0x3ff;
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
const POWER_OFF: u16 = 0x604;
/// S5 with `SLP_EN`, as QEMU's ACPI has it at the same port.
const POWER_OFF_VALUE: u16 = 0x2000;

/// What the guest asks of the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Power off.
    PowerOff,
    /// Reset, by the keyboard controller.
    Reset,
}

/// Takes the messages of all unmasked lines in place of those before.
pub type SetRoutes = Box<dyn Fn(&[Route]) + Send + Sync>;

/// All devices of a machine.
pub struct Bus {
    transports: Vec<Mutex<MmioTransport>>,
    console: Mutex<Console>,
    ioapic: Mutex<IoApic>,
    set_routes: SetRoutes,
}

impl Bus {
    /// A bus with `transports` in consecutive windows.
    #[must_use]
    pub fn new(
        transports: Vec<MmioTransport>,
        console: Console,
        ioapic: IoApic,
        set_routes: SetRoutes,
    ) -> Self {
        let transports = transports.into_iter().map(Mutex::new).collect();
        Self {
            transports,
            console: Mutex::new(console),
            ioapic: Mutex::new(ioapic),
            set_routes,
        }
    }

    /// Serves a read of guest physical memory that is not RAM.
    pub fn read_memory(&self, addr: u64, data: &mut [u8]) {
        if let Some((transport, offset)) = self.transport(addr) {
            transport.read(offset, data);
        } else if let Some(offset) = in_ioapic(addr) {
            lock(&self.ioapic).read(offset, data);
        } else {
            data.fill(0xff);
        }
    }

    /// Serves a write to guest physical memory that is not RAM. When it is `true` that comes back,
    /// [`reroute`](Self::reroute) has to be called before the guest goes on.
    #[must_use]
    pub fn write_memory(&self, addr: u64, data: &[u8]) -> bool {
        if let Some((mut transport, offset)) = self.transport(addr) {
            transport.write(offset, data);
        } else if let Some(offset) = in_ioapic(addr) {
            return lock(&self.ioapic).write(offset, data);
        }
        false
    }

    /// Has interrupts sent as the I/O APIC says now.
    pub fn reroute(&self) {
        // Under the lock: of two that come at once, the second has the last word.
        let ioapic = lock(&self.ioapic);
        (self.set_routes)(&ioapic.routes());
    }

    /// Whether a write starts or stops workers of a device.
    #[must_use]
    pub fn moves_device(&self, addr: u64, data: &[u8]) -> bool {
        self.window(addr)
            .is_some_and(|(_, offset)| MmioTransport::moves_device(offset, data))
    }

    /// Serves a read of a port.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let [byte] = data else { return };
        if SERIAL.contains(&port) {
            *byte = lock(&self.console).read((port - SERIAL.start()) as u8);
        } else if port == I8042_COMMAND {
            // Neither buffer is full: the guest may go on to its reset command.
            *byte = 0;
        }
    }

    /// Serves a write to a port.
    pub fn write_port(&self, port: u16, data: &[u8]) -> Option<Request> {
        match (port, data) {
            (port, [byte]) if SERIAL.contains(&port) => {
                lock(&self.console).write((port - SERIAL.start()) as u8, *byte);
                None
            }
            (I8042_COMMAND, [I8042_RESET]) => Some(Request::Reset),
            (POWER_OFF, [low, high]) if u16::from_le_bytes([*low, *high]) == POWER_OFF_VALUE => {
                Some(Request::PowerOff)
            }
            _ => None,
        }
    }

    /// Stops all device workers, keeping their state.
    pub fn pause(&self) {
        self.transports
            .iter()
            .for_each(|transport| lock(transport).pause());
    }

    fn transport(&self, addr: u64) -> Option<(MutexGuard<'_, MmioTransport>, u64)> {
        let (transport, offset) = self.window(addr)?;
        Some((lock(transport), offset))
    }

    fn window(&self, addr: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let at = addr.checked_sub(DEVICES_START)?;
        let transport = self
            .transports
            .get(usize::try_from(at / WINDOW_SIZE).ok()?)?;
        Some((transport, at % WINDOW_SIZE))
    }
}

fn in_ioapic(addr: u64) -> Option<u64> {
    let offset = addr.checked_sub(layout::IOAPIC.into())?;
    (offset < ioapic::WINDOW).then_some(offset)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        let (console, ioapic) = (Console::new(None), IoApic::new(1));
        Bus::new(Vec::new(), console, ioapic, Box::new(|_| {}))
    }

    #[test]
    fn a_line_that_is_unmasked_is_routed_when_asked() {
        let (sender, routed) = std::sync::mpsc::channel();
        let set = move |routes: &[Route]| sender.send(routes.to_vec()).unwrap();
        let (console, ioapic) = (Console::new(None), IoApic::new(8));
        let bus = Bus::new(Vec::new(), console, ioapic, Box::new(set));
        let at = u64::from(layout::IOAPIC);
        assert!(!bus.write_memory(at, &0x1au32.to_le_bytes()));
        assert!(bus.write_memory(at + 0x10, &0x41u32.to_le_bytes()));
        bus.reroute();
        assert_eq!(routed.recv().unwrap()[0].line, 5);
        let mut data = [0; 4];
        bus.read_memory(at + 0x10, &mut data);
        assert_eq!(data, [0x41, 0, 0, 0]);
    }

    #[test]
    fn power_off_takes_one_value_at_one_width() {
        let bus = bus();
        assert_eq!(bus.write_port(0x604, &[0, 0x20]), Some(Request::PowerOff));
        assert_eq!(bus.write_port(0x604, &[0]), None);
        assert_eq!(bus.write_port(0x604, &[1, 0x20]), None);
        assert_eq!(bus.write_port(0x604, &[0, 0x20, 0, 0]), None);
    }

    #[test]
    fn reset_is_the_keyboard_controllers_pulse() {
        let bus = bus();
        assert_eq!(bus.write_port(0x64, &[0xfe]), Some(Request::Reset));
        assert_eq!(bus.write_port(0x64, &[0xd1]), None);
        let mut status = [0xff];
        bus.read_port(0x64, &mut status);
        assert_eq!(status, [0]);
    }

    #[test]
    fn nothing_answers_where_nothing_is() {
        let bus = bus();
        for len in [1, 2, 3, 4, 8] {
            let mut data = vec![0; len];
            bus.read_memory(DEVICES_START, &mut data);
            assert!(data.iter().all(|byte| *byte == 0xff));
            bus.read_memory(u64::MAX, &mut data);
            assert!(!bus.write_memory(0, &data));
            bus.read_port(u16::MAX, &mut data);
            assert_eq!(bus.write_port(u16::MAX, &data), None);
        }
    }
}
