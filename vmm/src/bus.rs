//! Which device an exit is for.
//!
//! Ports: the 8250 at 0x3f8, the keyboard controller's reset line at 0x64, and a power-off port at
//! 0x604. Everything else reads as all ones and ignores writes, as an empty bus does. Memory: one
//! page of registers for each virtio device from [`DEVICES_START`], and the I/O APIC.

use std::sync::{Mutex, MutexGuard, PoisonError};

use devices::serial::Console;
use devices::transport::mmio::WINDOW_SIZE;
use devices::transport::{MmioTransport, vacant_register};

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
    /// One for each window; nothing in those that are vacant.
    transports: Vec<Mutex<Option<MmioTransport>>>,
    console: Mutex<Console>,
    ioapic: Mutex<IoApic>,
    set_routes: SetRoutes,
}

impl Bus {
    /// A bus with `transports` in consecutive windows, and `vacant` windows behind them.
    #[must_use]
    pub fn new(
        transports: Vec<MmioTransport>,
        vacant: usize,
        console: Console,
        ioapic: IoApic,
        set_routes: SetRoutes,
    ) -> Self {
        let transports = transports.into_iter().map(Some);
        let transports = transports.chain((0..vacant).map(|_| None));
        let transports = transports.map(Mutex::new).collect();
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
            match &*transport {
                Some(transport) => transport.read(offset, data),
                None => read_vacant(offset, data),
            }
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
            if let Some(transport) = &mut *transport {
                transport.write(offset, data);
            }
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
        for transport in &self.transports {
            if let Some(transport) = &mut *lock(transport) {
                transport.pause();
            }
        }
    }

    /// Puts `transport` into window number `window`, or nothing, and gives what was there before.
    pub fn replace(
        &self,
        window: usize,
        transport: Option<MmioTransport>,
    ) -> Option<MmioTransport> {
        let place = self.transports.get(window)?;
        std::mem::replace(&mut *lock(place), transport)
    }

    fn transport(&self, addr: u64) -> Option<(MutexGuard<'_, Option<MmioTransport>>, u64)> {
        let (transport, offset) = self.window(addr)?;
        Some((lock(transport), offset))
    }

    fn window(&self, addr: u64) -> Option<(&Mutex<Option<MmioTransport>>, u64)> {
        let at = addr.checked_sub(DEVICES_START)?;
        let transport = self
            .transports
            .get(usize::try_from(at / WINDOW_SIZE).ok()?)?;
        Some((transport, at % WINDOW_SIZE))
    }
}

fn read_vacant(offset: u64, data: &mut [u8]) {
    data.fill(0);
    if data.len() == 4 {
        data.copy_from_slice(&vacant_register(offset).to_le_bytes());
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
        Bus::new(Vec::new(), 0, console, ioapic, Box::new(|_| {}))
    }

    #[test]
    fn a_line_that_is_unmasked_is_routed_when_asked() {
        let (sender, routed) = std::sync::mpsc::channel();
        let set = move |routes: &[Route]| sender.send(routes.to_vec()).unwrap();
        let (console, ioapic) = (Console::new(None), IoApic::new(8));
        let bus = Bus::new(Vec::new(), 0, console, ioapic, Box::new(set));
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
    fn a_vacant_window_is_a_device_that_no_driver_takes() {
        let (console, ioapic) = (Console::new(None), IoApic::new(1));
        let bus = Bus::new(Vec::new(), 2, console, ioapic, Box::new(|_| {}));
        let second = DEVICES_START + WINDOW_SIZE;
        let read = |offset| {
            let mut data = [0xff; 4];
            bus.read_memory(second + offset, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!([read(0), read(4), read(8)], [0x7472_6976, 2, 0]);
        for status in [1u32, 15, 0] {
            assert!(!bus.write_memory(second + 0x70, &status.to_le_bytes()));
            assert_eq!(read(0x70), 0);
        }
        let mut data = [0xff; 4];
        bus.read_memory(second + WINDOW_SIZE, &mut data);
        assert_eq!(data, [0xff; 4], "no window");
        assert!(bus.replace(2, None).is_none());
        bus.pause();
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
