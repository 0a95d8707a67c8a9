//! Interrupt lines, and how KVM is told of them.

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi,
    kvm_irq_routing_msi__bindgen_ty_1,
};
use kvm_ioctls::VmFd;

use crate::bus::SetRoutes;
use crate::ioapic::Route;

/// Interrupt lines for virtio devices: those of the ISA bus without the timer's, the serial port's, the
/// clock's and the coprocessor's. The lowest first: a guest saves and restores all up to the highest.
pub const LINES: [u8; 12] = [1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 14, 15];

/// The lines of `devices` devices; `None` if there are not as many.
#[must_use]
pub fn lines(devices: usize) -> Option<&'static [u8]> {
    LINES.get(..devices)
}

/// Pins of an I/O APIC with `lines`.
#[must_use]
pub fn pins(lines: &[u8]) -> u8 {
    lines.iter().max().map_or(1, |highest| highest + 1)
}

/// Local APICs in the kernel, everything else here.
///
/// # Errors
/// When KVM has no memory, or is older than Linux 4.4.
pub fn split_irqchip(vm: &VmFd, pins: u8) -> Result<(), kvm_ioctls::Error> {
    let mut split = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        ..Default::default()
    };
    split.args[0] = pins.into();
    vm.enable_cap(&split)
}

/// How the machine's routes become those of `vm`.
#[must_use]
pub fn set_routes(vm: Arc<VmFd>) -> SetRoutes {
    Box::new(move |routes| {
        if let Err(error) = replace_routes(&vm, routes) {
            log::error!("interrupts stay as they were: KVM_SET_GSI_ROUTING: {error}");
        }
    })
}

fn replace_routes(vm: &VmFd, routes: &[Route]) -> Result<(), kvm_ioctls::Error> {
    let entries: Vec<_> = routes.iter().map(entry).collect();
    let table =
        KvmIrqRouting::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    vm.set_gsi_routing(&table)
}

fn entry(route: &Route) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: route.address,
        address_hi: 0,
        data: route.data,
        __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { pad: 0 },
    };
    kvm_irq_routing_entry {
        gsi: route.line,
        type_: KVM_IRQ_ROUTING_MSI,
        flags: 0,
        pad: 0,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
    }
}
