//! Seccomp filters: programs that the host has compiled.

use agent_protocol::{MAX_SECCOMP_INSTRUCTIONS, SECCOMP_FLAGS};

use crate::rpc::Refusal;

/// Bytes of one instruction, `struct sock_filter`.
const INSTRUCTION_LEN: usize = 8;

/// A filter. Whether it is a valid program is the kernel's to say.
#[derive(Clone)]
pub(crate) struct Filter {
    pub(crate) program: Vec<libc::sock_filter>,
    pub(crate) flags: u32,
}

impl Filter {
    /// Checks `seccomp_bpf` and `seccomp_flags`.
    pub(super) fn new(bytes: &[u8], flags: u32) -> Result<Option<Self>, Refusal> {
        if flags & !SECCOMP_FLAGS != 0 {
            return Err(Refusal::invalid(format!("seccomp_flags {flags:#x}")));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let (instructions, rest) = bytes.as_chunks::<INSTRUCTION_LEN>();
        if !rest.is_empty() || instructions.len() > MAX_SECCOMP_INSTRUCTIONS {
            return Err(Refusal::invalid(format!(
                "seccomp_bpf of {} bytes, which are not 1 to {MAX_SECCOMP_INSTRUCTIONS} instructions",
                bytes.len()
            )));
        }
        let decode =
            |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; INSTRUCTION_LEN]| libc::sock_filter {
                code: u16::from_le_bytes([c0, c1]),
                jt,
                jf,
                k: u32::from_le_bytes([k0, k1, k2, k3]),
            };
        Ok(Some(Self {
            program: instructions.iter().map(decode).collect(),
            flags,
        }))
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter({} instructions)", self.program.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_decoded() {
        let bytes = [
            0x15, 0, 1, 2, 0x3e, 0, 0, 0xc0, 6, 0, 0, 0, 0, 0, 0xff, 0x7f,
        ];
        let filter = Filter::new(&bytes, 4).unwrap().unwrap();
        let seen: Vec<_> = filter
            .program
            .iter()
            .map(|i| (i.code, i.jt, i.jf, i.k))
            .collect();
        assert_eq!(seen, [(0x15, 1, 2, 0xc000_003e), (6, 0, 0, 0x7fff_0000)]);
        assert_eq!(filter.flags, 4);
        assert!(Filter::new(&[], 0).unwrap().is_none());
    }

    #[test]
    fn sizes_and_flags_are_bounded() {
        assert!(Filter::new(&[0; 7], 0).is_err());
        assert!(Filter::new(&vec![0; 8 * MAX_SECCOMP_INSTRUCTIONS], 0).is_ok());
        assert!(Filter::new(&vec![0; 8 * (MAX_SECCOMP_INSTRUCTIONS + 1)], 0).is_err());
        // Listening to a filter, and its like, is nothing that the agent could do.
        for flags in [1, 8, 16, 1 << 31] {
            assert!(Filter::new(&[0; 8], flags).is_err(), "{flags}");
        }
    }
}
