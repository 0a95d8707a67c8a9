//! One block of 512 bytes that begins an entry.

use super::TarError;

/// Size of a block.
pub(super) const BLOCK: usize = 512;

/// Offsets and lengths.
pub(super) type Extents = Vec<(u64, u64)>;

/// A header whose checksum is right.
pub(super) struct Header([u8; BLOCK]);

/// Extents that fit into a header of GNU's old sparse format, and into each block after it.
const EXTENTS: usize = 4;
const MORE_EXTENTS: usize = 21;

impl Header {
    /// Checks the block's sum; a block of zeros is `None`.
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Option<Self>, TarError> {
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let said = number(&block[148..156]).ok_or(TarError::Checksum)?;
        // The sum is taken with spaces in its own place. Old programs added signed characters.
        let counted = |index: usize| {
            if (148..156).contains(&index) {
                b' '
            } else {
                block[index]
            }
        };
        let sum: u64 = (0..BLOCK).map(|index| u64::from(counted(index))).sum();
        let signed: i64 = (0..BLOCK)
            .map(|index| i64::from(counted(index).cast_signed()))
            .sum();
        if said == sum || i64::try_from(said) == Ok(signed) {
            Ok(Some(Self(block)))
        } else {
            Err(TarError::Checksum)
        }
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if self.is_ustar() {
            text(&self.0[345..500])
        } else {
            &[]
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn mode(&self) -> Result<u32, TarError> {
        let mode = self.field("mode", 100..108)?;
        // Some programs store the kind of file as well.
        Ok(u32::try_from(mode & 0o7777).unwrap_or_default())
    }

    pub(super) fn uid(&self) -> Result<u64, TarError> {
        self.field("owner", 108..116)
    }

    pub(super) fn gid(&self) -> Result<u64, TarError> {
        self.field("group", 116..124)
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        self.field("size", 124..136)
    }

    /// Seconds; a time before 1970 counts as 0.
    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        let field = &self.0[136..148];
        if field[0] == 0xff {
            return Ok(0);
        }
        let seconds = self.field("time", 136..148)?;
        i64::try_from(seconds).map_err(|_| TarError::Number("time"))
    }

    fn field(&self, what: &'static str, range: std::ops::Range<usize>) -> Result<u64, TarError> {
        number(&self.0[range]).ok_or(TarError::Number(what))
    }

    /// The extents of GNU's old sparse format in this header, the file's whole size, and whether
    /// blocks with more extents follow.
    pub(super) fn sparse(&self) -> Result<(Extents, u64, bool), TarError> {
        let extents = extents(&self.0[386..], EXTENTS)?;
        Ok((extents, self.field("size", 483..495)?, self.0[482] != 0))
    }
}

/// The extents in a block that follows a header of GNU's old sparse format.
pub(super) fn more_extents(block: &[u8; BLOCK]) -> Result<(Extents, bool), TarError> {
    Ok((extents(block, MORE_EXTENTS)?, block[504] != 0))
}

fn extents(bytes: &[u8], count: usize) -> Result<Extents, TarError> {
    let mut found = Vec::new();
    for extent in bytes.chunks_exact(24).take(count) {
        // Unused places are empty.
        if extent[0] == 0 {
            break;
        }
        let value = |field| number(field).ok_or(TarError::Number("extent"));
        found.push((value(&extent[..12])?, value(&extent[12..])?));
    }
    Ok(found)
}

/// What comes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal digits, none of which is 0, or GNU's big-endian number if the highest bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // 0xff begins a negative number, which no field here may be.
        let first = std::iter::once(field[0] & 0x7f);
        return first
            .chain(field[1..].iter().copied())
            .try_fold(0u64, |value, byte| {
                Some(value.checked_mul(256)? | u64::from(byte))
            });
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let Some(start) = field.iter().position(|byte| !blank(byte)) else {
        return Some(0);
    };
    let digits = field[start..].split(blank).next()?;
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777", Some(0o77_777_777)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"0000648\0", None),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"-0000001", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
