//! The I/O APIC: which interrupt a line is.
//!
//! ```text
//!   guest ──redirection entries──▶ IoApic ──routes──▶ KVM_SET_GSI_ROUTING
//!                                                            │
//!   device ──irqfd (line)──────────────────────────────▶ KVM ┴─▶ local APIC
//! ```
//!
//! KVM keeps the local APICs only (`KVM_CAP_SPLIT_IRQCHIP`). An interrupt never comes by here: each
//! unmasked line is a message that KVM sends by itself. So the emulation is a few registers that a
//! guest writes when it sets a line up, and its kernel finds no PIC, whose presence makes it read,
//! clear and read again every pin that there is (docs/performance.md has the figures). KVM's own PIC,
//! PIT and I/O APIC are code of the host's kernel that this guest then cannot reach.
//!
//! Lines are edges, as those of virtio-mmio are: a line that the guest programs as level-triggered
//! interrupts once for each event, and has no remote IRR. An edge on a masked line is lost, as on
//! hardware.

/// Bytes of its register window.
pub const WINDOW: u64 = 0x20;

/// `IOREGSEL` and `IOWIN`, the two registers that are seen (82093AA §3.1).
const SELECT: u64 = 0x00;
const DATA: u64 = 0x10;

const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
/// Redirection entries, two registers each, low half first.
const ENTRIES: u8 = 0x10;

/// A version without an EOI register.
const VERSION_82093AA: u32 = 0x11;
const ID_MASK: u32 = 0x0f00_0000;

/// Fields of a redirection entry.
const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 7 << 8;
const LOGICAL: u64 = 1 << 11;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;
/// What a write changes: all that hardware keeps but delivery status and remote IRR, which read as 0.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// Where messages to local APICs go (Intel SDM volume 3, "Message Address Register Format").
const MESSAGE_BASE: u32 = 0xfee0_0000;
const MESSAGE_LOGICAL: u32 = 1 << 2;
const MESSAGE_DESTINATION_SHIFT: u32 = 12;

/// What an unmasked line sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The line.
    pub line: u32,
    /// Address of the message.
    pub address: u32,
    /// Its data.
    pub data: u32,
}

/// The registers.
#[derive(Debug)]
pub struct IoApic {
    id: u32,
    select: u8,
    entries: Vec<u64>,
}

impl IoApic {
    /// An I/O APIC of `pins` pins, all masked.
    #[must_use]
    pub fn new(pins: u8) -> Self {
        Self {
            id: 0,
            select: 0,
            entries: vec![MASKED; pins.into()],
        }
    }

    /// Serves a read of the register window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT => self.select.into(),
            DATA => self.register(),
            _ => 0,
        };
        // Accesses are of 32 bits; narrower ones get the low bytes.
        let bytes = value.to_le_bytes();
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Serves a write to the register window, and says whether [`routes`](Self::routes) has changed.
    #[must_use]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        match (offset, data) {
            (SELECT, [select, ..]) => {
                self.select = *select;
                false
            }
            (DATA, &[a, b, c, d]) => self.set_register(u32::from_le_bytes([a, b, c, d])),
            _ => false,
        }
    }

    /// The messages of all lines that are not masked.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let lines = (0u32..).zip(&self.entries);
        lines
            .filter_map(|(line, entry)| route(line, *entry))
            .collect()
    }

    fn register(&self) -> u32 {
        match self.select {
            ID => self.id,
            VERSION => VERSION_82093AA | (self.entries.len().saturating_sub(1) as u32) << 16,
            _ => match self.selected() {
                Some((pin, shift)) => (self.entries[pin] >> shift) as u32,
                None => 0,
            },
        }
    }

    fn set_register(&mut self, value: u32) -> bool {
        if self.select == ID {
            self.id = value & ID_MASK;
        }
        let Some((pin, shift)) = self.selected() else {
            return false;
        };
        let written = (u64::from(u32::MAX) << shift) & WRITABLE;
        let before = self.entries[pin];
        let after = (before & !written) | ((u64::from(value) << shift) & written);
        self.entries[pin] = after;
        route(0, before) != route(0, after)
    }

    /// The pin whose entry is selected, and by how much to shift the half that is.
    fn selected(&self) -> Option<(usize, u32)> {
        let at = self.select.checked_sub(ENTRIES)?;
        let pin = usize::from(at / 2);
        (pin < self.entries.len()).then_some((pin, u32::from(at % 2) * 32))
    }
}

fn route(line: u32, entry: u64) -> Option<Route> {
    if entry & MASKED != 0 {
        return None;
    }
    let destination = (entry >> DESTINATION_SHIFT) as u32;
    let mut address = MESSAGE_BASE | destination << MESSAGE_DESTINATION_SHIFT;
    if entry & LOGICAL != 0 {
        address |= MESSAGE_LOGICAL;
    }
    Some(Route {
        line,
        address,
        data: (entry & (VECTOR | DELIVERY_MODE)) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(apic: &mut IoApic, register: u8, value: u32) -> bool {
        assert!(!apic.write(SELECT, &u32::from(register).to_le_bytes()));
        apic.write(DATA, &value.to_le_bytes())
    }

    fn get(apic: &mut IoApic, register: u8) -> u32 {
        assert!(!apic.write(SELECT, &u32::from(register).to_le_bytes()));
        let mut data = [0; 4];
        apic.read(DATA, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn says_how_many_pins_it_has() {
        assert_eq!(get(&mut IoApic::new(8), VERSION), 0x0007_0011);
        assert_eq!(get(&mut IoApic::new(1), VERSION), 0x11);
    }

    #[test]
    fn a_line_sends_its_message_from_unmasking_to_masking() {
        let mut apic = IoApic::new(8);
        assert!(apic.routes().is_empty());
        // Pin 5: CPU 3, vector 0x41, fixed; as Linux does it, high half first.
        assert!(!put(&mut apic, 0x1b, 3 << 24));
        assert!(put(&mut apic, 0x1a, 0x41));
        let message = Route {
            line: 5,
            address: 0xfee0_3000,
            data: 0x41,
        };
        assert_eq!(apic.routes(), [message]);
        // The same again is no change, another CPU is.
        assert!(!put(&mut apic, 0x1a, 0x41));
        assert!(put(&mut apic, 0x1b, 1 << 24));
        assert_eq!(apic.routes()[0].address, 0xfee0_1000);
        assert!(put(&mut apic, 0x1a, 0x1_0041));
        assert!(apic.routes().is_empty());
    }

    #[test]
    fn modes_are_the_messages() {
        let mut apic = IoApic::new(2);
        put(&mut apic, 0x13, 0xff << 24);
        // Lowest priority, logical destination, level-triggered and active low: sent as an edge.
        assert!(put(&mut apic, 0x12, 0xa9_50));
        let message = Route {
            line: 1,
            address: 0xfeef_f004,
            data: 0x150,
        };
        assert_eq!(apic.routes(), [message]);
        assert_eq!(get(&mut apic, 0x12), 0xa9_50);
        // Delivery status and remote IRR are not the guest's to set.
        put(&mut apic, 0x12, 0xffff_ffff);
        assert_eq!(get(&mut apic, 0x12), 0x1_afff);
    }

    #[test]
    fn nothing_is_beyond_the_last_pin() {
        let mut apic = IoApic::new(2);
        for register in [2, 0xf, 0x14, 0xff] {
            assert!(!put(&mut apic, register, 0x41));
            assert_eq!(get(&mut apic, register), 0);
        }
        for width in [0, 1, 2, 3, 8] {
            put(&mut apic, 0x10, 0x1_0000);
            assert!(!apic.write(DATA, &vec![0; width]));
            assert!(!apic.write(0x14, &vec![0; width]));
            let mut data = vec![0xff; width];
            apic.read(0x14, &mut data);
            assert_eq!(data, vec![0; width]);
        }
        assert!(apic.routes().is_empty());
    }
}
