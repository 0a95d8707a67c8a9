//! Wire structures and numbers of the network device, virtio-v1.2 §5.1.

use virtio_bindings::virtio_net as raw;
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `VIRTIO_NET_F_CSUM`: the device completes checksums.
pub const F_CSUM: u64 = 1 << raw::VIRTIO_NET_F_CSUM;
/// `VIRTIO_NET_F_GUEST_CSUM`: the driver takes frames with incomplete checksums.
pub const F_GUEST_CSUM: u64 = 1 << raw::VIRTIO_NET_F_GUEST_CSUM;
/// `VIRTIO_NET_F_MTU`: [`Config::mtu`] is there.
pub const F_MTU: u64 = 1 << raw::VIRTIO_NET_F_MTU;
/// `VIRTIO_NET_F_MAC`: [`Config::mac`] is there.
pub const F_MAC: u64 = 1 << raw::VIRTIO_NET_F_MAC;
/// `VIRTIO_NET_F_GUEST_TSO4`: the driver takes large TCP segments over IPv4.
pub const F_GUEST_TSO4: u64 = 1 << raw::VIRTIO_NET_F_GUEST_TSO4;
/// `VIRTIO_NET_F_GUEST_TSO6`: and over IPv6.
pub const F_GUEST_TSO6: u64 = 1 << raw::VIRTIO_NET_F_GUEST_TSO6;
/// `VIRTIO_NET_F_HOST_TSO4`: the device takes large TCP segments over IPv4.
pub const F_HOST_TSO4: u64 = 1 << raw::VIRTIO_NET_F_HOST_TSO4;
/// `VIRTIO_NET_F_HOST_TSO6`: and over IPv6.
pub const F_HOST_TSO6: u64 = 1 << raw::VIRTIO_NET_F_HOST_TSO6;
/// `VIRTIO_NET_F_MRG_RXBUF`: a received frame may span several buffers.
pub const F_MRG_RXBUF: u64 = 1 << raw::VIRTIO_NET_F_MRG_RXBUF;
/// `VIRTIO_NET_F_STATUS`: [`Config::status`] is there.
pub const F_STATUS: u64 = 1 << raw::VIRTIO_NET_F_STATUS;
/// `VIRTIO_NET_F_GUEST_USO4`: the driver takes large UDP segments over IPv4 (virtio-v1.3 §5.1.3).
pub const F_GUEST_USO4: u64 = 1 << raw::VIRTIO_NET_F_GUEST_USO4;
/// `VIRTIO_NET_F_GUEST_USO6`: and over IPv6.
pub const F_GUEST_USO6: u64 = 1 << raw::VIRTIO_NET_F_GUEST_USO6;
/// `VIRTIO_NET_F_HOST_USO`: the device takes large UDP segments.
pub const F_HOST_USO: u64 = 1 << raw::VIRTIO_NET_F_HOST_USO;

/// `VIRTIO_NET_S_LINK_UP`, a bit of [`Config::status`].
pub const LINK_UP: u16 = raw::VIRTIO_NET_S_LINK_UP as u16;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, a bit of [`Header::flags`].
pub const NEEDS_CSUM: u8 = raw::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
/// [`Header::gso_type`] of an ordinary frame.
pub const GSO_NONE: u8 = raw::VIRTIO_NET_HDR_GSO_NONE as u8;
/// [`Header::gso_type`]: a large TCP segment over IPv4.
pub const GSO_TCPV4: u8 = raw::VIRTIO_NET_HDR_GSO_TCPV4 as u8;
/// [`Header::gso_type`]: a large TCP segment over IPv6.
pub const GSO_TCPV6: u8 = raw::VIRTIO_NET_HDR_GSO_TCPV6 as u8;
/// [`Header::gso_type`]: a large UDP segment over either.
pub const GSO_UDP_L4: u8 = raw::VIRTIO_NET_HDR_GSO_UDP_L4 as u8;

/// `struct virtio_net_hdr` (§5.1.6): what stands before each frame.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Header {
    /// [`NEEDS_CSUM`] and others.
    pub flags: u8,
    /// [`GSO_NONE`] and others.
    pub gso_type: u8,
    /// Length of the headers that each piece of a large segment gets a copy of.
    pub hdr_len: U16,
    /// Most bytes of data in each piece of a large segment.
    pub gso_size: U16,
    /// Where the bytes begin that the checksum covers.
    pub csum_start: U16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: U16,
    /// Buffers that the frame spans; of a received frame only.
    pub num_buffers: U16,
}

/// `struct virtio_net_config` (§5.1.4), as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    /// The interface's address.
    pub mac: [u8; 6],
    /// [`LINK_UP`].
    pub status: U16,
    /// Pairs of queues.
    pub max_virtqueue_pairs: U16,
    /// Largest packet without its Ethernet header.
    pub mtu: U16,
}

/// Size of [`Header`] in bytes.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// Where [`Header::num_buffers`] is.
pub const NUM_BUFFERS_OFFSET: usize = std::mem::offset_of!(Header, num_buffers);
/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// Bytes of a VLAN tag, which may come on top.
pub const VLAN_TAG: usize = 4;
/// The longest frame that there is: a large segment, tagged.
pub const MAX_FRAME: usize = ETHERNET_HEADER + VLAN_TAG + u16::MAX as usize;

const _: () = assert!(HEADER_SIZE == 12 && size_of::<Config>() == 12);
