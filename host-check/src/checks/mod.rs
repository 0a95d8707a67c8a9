//! The checks, by group. Each is a function from [`Facts`](crate::Facts) to a [`Look`](crate::Look).

mod cgroup;
mod cpu;
mod device;
mod hygiene;
mod kernel;
mod kvm;
mod limits;
mod network;
mod place;
mod probe;
mod store;

use crate::check::Check;

/// All checks, in the order in which they are made and shown. What stands first is the likelier
/// cause of what fails after it.
pub fn all() -> impl Iterator<Item = &'static Check> {
    [
        cpu::CHECKS,
        kvm::CHECKS,
        probe::CHECKS,
        place::CHECKS,
        kernel::CHECKS,
        cgroup::CHECKS,
        network::CHECKS,
        store::CHECKS,
        limits::CHECKS,
        hygiene::CHECKS,
    ]
    .into_iter()
    .flatten()
}
