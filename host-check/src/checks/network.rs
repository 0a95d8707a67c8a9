//! What a pod's network needs of the host.

use crate::advice;
use crate::check::{Check, Group, Look, Status, Weight};
use crate::errno::Errno;
use crate::facts::Facts;
use crate::host::Attempt;

const TUN: &str = "/dev/net/tun";
const CAP_NET_ADMIN: u64 = 1 << 12;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "network.tun",
        group: Group::Network,
        parameter: TUN,
        expected: "opens for reading and writing",
        why: "a pod's network interface is a tap device on the host",
        weight: Weight::NODE,
        fast: false,
        look: tun,
    },
    Check {
        id: "network.admin",
        group: Group::Network,
        parameter: "CAP_NET_ADMIN",
        expected: "held",
        why: "making a tap device and joining it to a pod's network namespace needs it",
        weight: Weight {
            cli: Status::Info,
            node: Status::Fail,
            build: Status::Info,
        },
        fast: false,
        look: admin,
    },
];

fn tun(facts: &Facts<'_>) -> Look {
    let errno = match facts.host().attempt(Attempt::Tun) {
        Ok(_) => return Look::pass("opens"),
        Err(errno) => errno,
    };
    let container = facts.place().container;
    let (message, remedy) = match (errno, container) {
        (Errno::NOENT, Some(container)) => (
            "this container was not given /dev/net/tun".to_owned(),
            advice::pass_in(container, TUN),
        ),
        (Errno::NOENT | Errno::NODEV | Errno::NXIO, _) => (
            "there is no tun driver (/dev/net/tun)".to_owned(),
            "run `modprobe tun` as root".to_owned(),
        ),
        (Errno::PERM, Some(container)) => (
            "/dev/net/tun is forbidden in this container".to_owned(),
            advice::pass_in(container, TUN),
        ),
        (errno, _) => (
            format!("/dev/net/tun cannot be opened ({errno})"),
            "run podvmm as root, or let its user open /dev/net/tun".to_owned(),
        ),
    };
    Look::fail(errno.to_string(), message, remedy)
}

fn admin(facts: &Facts<'_>) -> Look {
    let Some(capabilities) = facts.identity().capabilities else {
        return Look::skip("/proc/self/status cannot be read");
    };
    if capabilities & CAP_NET_ADMIN != 0 {
        return Look::pass("held");
    }
    let remedy = match facts.place().container {
        Some(_) => "give the container CAP_NET_ADMIN (docker: `--cap-add NET_ADMIN`)",
        None => "run podvmm as root for pods with a network of their own",
    };
    Look::fail("not held", "this process has no CAP_NET_ADMIN", remedy)
}
