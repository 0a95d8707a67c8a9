//! Joining two interfaces: what comes in on one goes out on the other (`tc`'s ingress qdisc, a u32
//! filter that matches all, and a mirred action).
//!
//! The kernel drops a tap's qdisc with the tap. On the other interface it stays, with an action that
//! leads nowhere; [`remove`] takes it away, and [`state`] tells whose it is.

use std::thread::sleep;
use std::time::Duration;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::netlink::{Netlink, NetlinkError, Request, attribute, text};

/// `TC_H_INGRESS`, the parent of an ingress qdisc, and the handle that such a qdisc has.
const INGRESS_PARENT: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// Marks filters as ours: their preference, "pv" in ASCII.
const OUR_PREFERENCE: u16 = 0x7076;

const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: i32 = 4;
const TCA_EGRESS_REDIR: i32 = 1;

/// How often, and how long apart, a qdisc is tried to be added that the kernel is busy with.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct TrafficBody {
    family: u8,
    _pad1: u8,
    _pad2: u16,
    index: i32,
    handle: u32,
    parent: u32,
    info: u32,
}

/// `struct tc_u32_sel` without its keys.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Selector {
    flags: u8,
    offset_shift: u8,
    key_count: u8,
    _pad: u8,
    offset_mask: u16,
    offset: u16,
    offset_place: i16,
    hash_offset: i16,
    hash_mask: u32,
}

/// `struct tc_u32_key`: four bytes at `offset` from the network header, under a mask, must be `value`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Key {
    pub mask: [u8; 4],
    pub value: [u8; 4],
    pub offset: i32,
    pub offset_mask: i32,
}

/// `struct tc_mirred`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Mirred {
    index: u32,
    capabilities: u32,
    action: i32,
    references: i32,
    bindings: i32,
    egress_action: i32,
    interface: u32,
}

/// What is at an interface's ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// Nothing.
    Free,
    /// A redirection of ours, or the beginning of one.
    Ours,
    /// Somebody else's.
    Foreign,
}

/// Takes the ingress of interface `index`, which must be free.
pub fn take(netlink: &mut Netlink, index: i32) -> Result<(), NetlinkError> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    for _ in 1..ATTEMPTS {
        match netlink.execute(qdisc(libc::RTM_NEWQDISC, flags, index)) {
            // The one before it is on its way out.
            Err(error) if error.errno() == Some(libc::EBUSY) => sleep(PAUSE),
            other => return other,
        }
    }
    netlink.execute(qdisc(libc::RTM_NEWQDISC, flags, index))
}

/// Sends what comes in on interface `from`, whose ingress was taken, out on `to`.
pub fn redirect(netlink: &mut Netlink, from: i32, to: i32) -> Result<(), NetlinkError> {
    let place = Place {
        interface: from,
        preference: OUR_PREFERENCE,
        protocol: libc::ETH_P_ALL as u16,
    };
    netlink.execute(filter(&place, &[Key::default()], Some(to)))
}

fn qdisc(kind: u16, flags: i32, index: i32) -> Request {
    let body = TrafficBody {
        index,
        handle: INGRESS_HANDLE,
        parent: INGRESS_PARENT,
        ..TrafficBody::default()
    };
    Request::new(kind, flags, &body).with(libc::TCA_KIND, b"ingress\0")
}

/// Where a filter is looked at, and for which protocol.
pub(super) struct Place {
    pub interface: i32,
    /// The lower ones come first; each is for one protocol.
    pub preference: u16,
    /// `ETH_P_*`.
    pub protocol: u16,
}

/// A filter at an ingress that sends packets that all of `keys` match out on `to`, if it is given. One
/// empty key matches all.
pub(super) fn filter(place: &Place, keys: &[Key], to: Option<i32>) -> Request {
    let protocol = u32::from(place.protocol.to_be());
    let body = TrafficBody {
        index: place.interface,
        parent: INGRESS_HANDLE,
        info: u32::from(place.preference) << 16 | protocol,
        ..TrafficBody::default()
    };
    let mut selector = Selector::new_zeroed();
    selector.flags = TC_U32_TERMINAL;
    selector.key_count = keys.len() as u8;
    let selector = [selector.as_bytes(), keys.as_bytes()].concat();
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Request::new(libc::RTM_NEWTFILTER, flags, &body)
        .with(libc::TCA_KIND, b"u32\0")
        .nest(libc::TCA_OPTIONS, |options| {
            let options = options.with(TCA_U32_SEL, &selector);
            let Some(to) = to else {
                return options;
            };
            let mut mirred = Mirred::new_zeroed();
            mirred.action = TC_ACT_STOLEN;
            mirred.egress_action = TCA_EGRESS_REDIR;
            mirred.interface = to as u32;
            options.nest(TCA_U32_ACT, |actions| {
                actions.nest(1, |first| {
                    first
                        .with(TCA_ACT_KIND, b"mirred\0")
                        .nest(TCA_ACT_OPTIONS, |options| {
                            options.with(TCA_MIRRED_PARMS, mirred.as_bytes())
                        })
                })
            })
        })
}

/// What is at the ingress of interface `index`.
pub fn state(netlink: &mut Netlink, index: i32) -> Result<Ingress, NetlinkError> {
    let mut has_qdisc = None;
    let request = Request::new(
        libc::RTM_GETQDISC,
        libc::NLM_F_DUMP,
        &TrafficBody::default(),
    );
    netlink.dump(request, |_, message| {
        let (body, rest) = read(message)?;
        if body.index == index && body.parent == INGRESS_PARENT {
            has_qdisc = attribute(rest, libc::TCA_KIND).map(text);
        }
        Ok(())
    })?;
    match has_qdisc.as_deref() {
        None => return Ok(Ingress::Free),
        Some("ingress") => {}
        Some(_) => return Ok(Ingress::Foreign),
    }
    let body = TrafficBody {
        index,
        parent: INGRESS_HANDLE,
        ..TrafficBody::default()
    };
    let request = Request::new(libc::RTM_GETTFILTER, libc::NLM_F_DUMP, &body);
    let mut state = Ingress::Ours;
    netlink.dump(request, |_, message| {
        let (body, _) = read(message)?;
        if body.info >> 16 != u32::from(OUR_PREFERENCE) {
            state = Ingress::Foreign;
        }
        Ok(())
    })?;
    Ok(state)
}

/// Takes a redirection of ours away from interface `index`; whoever else's stays, and so does nothing.
pub fn remove(netlink: &mut Netlink, index: i32) -> Result<(), NetlinkError> {
    if state(netlink, index)? != Ingress::Ours {
        return Ok(());
    }
    match netlink.execute(qdisc(libc::RTM_DELQDISC, 0, index)) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// Whether the kernel says that there was nothing to remove.
fn is_gone(error: &NetlinkError) -> bool {
    matches!(
        error.errno(),
        Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)
    )
}

fn read(message: &[u8]) -> Result<(TrafficBody, &[u8]), NetlinkError> {
    TrafficBody::read_from_prefix(message).map_err(|_| NetlinkError::Malformed)
}
