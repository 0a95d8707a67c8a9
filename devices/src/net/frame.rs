//! What a frame of the guest may ask for. The header is a copy by the time that it is looked at.

use thiserror::Error;

use super::config::Mtu;
use super::spec::{
    ETHERNET_HEADER, F_CSUM, F_HOST_TSO4, F_HOST_TSO6, F_HOST_USO, GSO_NONE, GSO_TCPV4, GSO_TCPV6,
    GSO_UDP_L4, Header, MAX_FRAME, NEEDS_CSUM,
};

/// Bytes of a checksum.
const CHECKSUM: usize = 2;

/// Why a frame of the guest is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("it is shorter than an Ethernet header, or longer than it may be")]
    Length,
    #[error("its checksum is to be completed, which was not negotiated")]
    Checksum,
    #[error("its checksum lies behind its end")]
    ChecksumPlace,
    #[error("it is a large segment of a kind that was not negotiated")]
    Segment,
    #[error("it is a large segment without a size or with headers longer than itself")]
    SegmentSize,
}

/// What the driver negotiated, as far as frames that it sends are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    features: u64,
    plain_max: usize,
}

impl Rules {
    pub fn new(features: u64, mtu: Mtu) -> Self {
        Self {
            features,
            plain_max: mtu.frame(),
        }
    }

    /// The header that the host is given for a frame of `len` bytes: only what virtio-v1.2 §5.1.6.2
    /// lets this driver say, and nothing that points outside the frame.
    pub fn check(&self, header: &Header, len: usize) -> Result<Header, Malformed> {
        let is_large = header.gso_type != GSO_NONE;
        let max = if is_large { MAX_FRAME } else { self.plain_max };
        if !(ETHERNET_HEADER..=max).contains(&len) {
            return Err(Malformed::Length);
        }
        let mut clean = Header::default();
        if header.flags & NEEDS_CSUM != 0 {
            if self.features & F_CSUM == 0 {
                return Err(Malformed::Checksum);
            }
            let place = usize::from(header.csum_start) + usize::from(header.csum_offset);
            if place + CHECKSUM > len {
                return Err(Malformed::ChecksumPlace);
            }
            clean.flags = NEEDS_CSUM;
            clean.csum_start = header.csum_start;
            clean.csum_offset = header.csum_offset;
        }
        if is_large {
            let feature = match header.gso_type {
                GSO_TCPV4 => F_HOST_TSO4,
                GSO_TCPV6 => F_HOST_TSO6,
                GSO_UDP_L4 => F_HOST_USO,
                _ => return Err(Malformed::Segment),
            };
            // Each piece of a segment needs its checksum.
            if self.features & feature == 0 || clean.flags & NEEDS_CSUM == 0 {
                return Err(Malformed::Segment);
            }
            if header.gso_size == 0 || usize::from(header.hdr_len) > len {
                return Err(Malformed::SegmentSize);
            }
            clean.gso_type = header.gso_type;
            clean.gso_size = header.gso_size;
            clean.hdr_len = header.hdr_len;
        }
        Ok(clean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_USO;

    fn plain() -> Header {
        Header::default()
    }

    fn checksum() -> Header {
        Header {
            flags: NEEDS_CSUM,
            csum_start: 34.into(),
            csum_offset: 16.into(),
            ..plain()
        }
    }

    fn large(gso_type: u8) -> Header {
        Header {
            gso_type,
            gso_size: 1448.into(),
            hdr_len: 66.into(),
            ..checksum()
        }
    }

    fn check(features: u64, header: &Header, len: usize) -> Result<Header, Malformed> {
        Rules::new(features, Mtu::ETHERNET).check(header, len)
    }

    #[test]
    fn what_was_negotiated_passes_as_it_is() {
        assert_eq!(check(0, &plain(), 14), Ok(plain()));
        assert_eq!(check(0, &plain(), 1518), Ok(plain()));
        assert_eq!(check(F_CSUM, &checksum(), 52), Ok(checksum()));
        for (gso_type, feature) in [
            (GSO_TCPV4, F_HOST_TSO4),
            (GSO_TCPV6, F_HOST_TSO6),
            (GSO_UDP_L4, F_HOST_USO),
        ] {
            let header = large(gso_type);
            assert_eq!(check(F_CSUM | feature, &header, 65553), Ok(header));
            let others = ALL & !feature;
            assert_eq!(check(others, &header, 65553), Err(Malformed::Segment));
        }
    }

    #[test]
    fn case_07_lengths_are_bounded() {
        for len in [0, 13, 1519, usize::MAX] {
            assert_eq!(check(ALL, &plain(), len), Err(Malformed::Length));
        }
        let header = large(GSO_TCPV4);
        for len in [0, 13, 65554, usize::MAX] {
            assert_eq!(check(ALL, &header, len), Err(Malformed::Length));
        }
    }

    #[test]
    fn case_07_nothing_points_outside_the_frame() {
        let header = checksum();
        assert_eq!(check(ALL, &header, 51), Err(Malformed::ChecksumPlace));
        let far = Header {
            csum_start: u16::MAX.into(),
            csum_offset: u16::MAX.into(),
            ..checksum()
        };
        assert_eq!(check(ALL, &far, 1500), Err(Malformed::ChecksumPlace));
        let header = large(GSO_TCPV4);
        assert_eq!(check(ALL, &header, 65), Err(Malformed::SegmentSize));
        let no_size = Header {
            gso_size: 0.into(),
            ..header
        };
        assert_eq!(check(ALL, &no_size, 1500), Err(Malformed::SegmentSize));
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        assert_eq!(check(0, &checksum(), 100), Err(Malformed::Checksum));
        let without = Header {
            flags: 0,
            ..large(GSO_TCPV4)
        };
        assert_eq!(check(ALL, &without, 3000), Err(Malformed::Segment));
        // UFO, an unknown kind, TSO with ECN.
        for gso_type in [3, 0x7f, 0x81] {
            let header = large(gso_type);
            assert_eq!(check(ALL, &header, 3000), Err(Malformed::Segment));
        }
    }

    #[test]
    fn what_means_nothing_is_not_passed_on() {
        let noisy = Header {
            flags: !NEEDS_CSUM,
            hdr_len: u16::MAX.into(),
            gso_size: u16::MAX.into(),
            csum_start: u16::MAX.into(),
            csum_offset: u16::MAX.into(),
            num_buffers: u16::MAX.into(),
            gso_type: GSO_NONE,
        };
        assert_eq!(check(ALL, &noisy, 60), Ok(plain()));
    }
}
