//! The maps of sparse files, of which GNU tar has written four kinds.

use std::io::Read;

use super::header::{BLOCK, Extents, Header, more_extents};
use super::pax::{Pax, decimal};
use super::{Archive, Entry, Extent, MAX_EXTENTS, TarError};

impl<R: Read> Archive<R> {
    /// Finds out which parts of a file have data. What is in front of them is read.
    pub(super) fn read_map(
        &mut self,
        entry: &mut Entry,
        header: &Header,
        extended: &Pax,
    ) -> Result<(), TarError> {
        let listed = extended.get("GNU.sparse.map");
        let version = (
            extended.get("GNU.sparse.major"),
            extended.get("GNU.sparse.minor"),
        );
        let numbered = extended.get("GNU.sparse.numblocks").is_some();
        let (extents, size) = if header.type_flag() == b'S' {
            self.old_map(header)?
        } else if version == (Some(b"1"), Some(b"0")) {
            (self.leading_map(entry.size)?, real_size(extended)?)
        } else if let Some(map) = listed {
            (listed_map(map)?, real_size(extended)?)
        } else if numbered {
            (extended.pairs()?, real_size(extended)?)
        } else {
            entry.extents = vec![Extent {
                offset: 0,
                length: entry.size,
            }];
            return Ok(());
        };
        if let Some(name) = extended.get("GNU.sparse.name") {
            entry.path = name.to_vec();
        }
        entry.size = size;
        entry.extents = checked(&extents, size, self.data)?;
        Ok(())
    }

    /// GNU's own format: in the header, and in blocks after it.
    fn old_map(&mut self, header: &Header) -> Result<(Extents, u64), TarError> {
        let (mut extents, size, mut more) = header.sparse()?;
        while more {
            let block = self.block()?;
            let (found, further) = more_extents(&block)?;
            extents.extend(found);
            more = further;
            if extents.len() > MAX_EXTENTS {
                return Err(TarError::Sparse);
            }
        }
        Ok((extents, size))
    }

    /// PAX 1.0: lines of digits in front of the data, filled up to whole blocks.
    fn leading_map(&mut self, stored: u64) -> Result<Extents, TarError> {
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            if self.data < BLOCK as u64 {
                return Err(TarError::Sparse);
            }
            let block = self.block()?;
            self.data -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(TarError::Sparse);
                    }
                    continue;
                }
                numbers.push(decimal(&line).ok_or(TarError::Sparse)?);
                line.clear();
                if let [count] = numbers[..] {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    if count > MAX_EXTENTS {
                        return Err(TarError::Sparse);
                    }
                    wanted = 1 + 2 * count;
                }
                if numbers.len() == wanted {
                    break;
                }
            }
        }
        debug_assert!(self.data <= stored);
        Ok(numbers[1..]
            .chunks(2)
            .map(|pair| (pair[0], pair[1]))
            .collect())
    }
}

/// PAX 0.1: all numbers in one record.
fn listed_map(map: &[u8]) -> Result<Extents, TarError> {
    let numbers: Option<Vec<u64>> = map.split(|&byte| byte == b',').map(decimal).collect();
    let numbers = numbers.ok_or(TarError::Sparse)?;
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_EXTENTS {
        return Err(TarError::Sparse);
    }
    Ok(numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

fn real_size(extended: &Pax) -> Result<u64, TarError> {
    let size = match extended.number("GNU.sparse.realsize")? {
        Some(size) => Some(size),
        None => extended.number("GNU.sparse.size")?,
    };
    size.ok_or(TarError::Sparse)
}

/// Extents in order, apart, within the file, and with as much data as there are.
fn checked(extents: &[(u64, u64)], size: u64, stored: u64) -> Result<Vec<Extent>, TarError> {
    let mut end = 0;
    let mut data = 0u64;
    let mut checked = Vec::new();
    for &(offset, length) in extents {
        let this_end = offset.checked_add(length).ok_or(TarError::Sparse)?;
        if offset < end || this_end > size {
            return Err(TarError::Sparse);
        }
        end = this_end;
        data += length;
        if length > 0 {
            checked.push(Extent { offset, length });
        }
    }
    if data != stored {
        return Err(TarError::Sparse);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_make_no_sense_are_refused() {
        assert!(checked(&[(0, 5), (10, 5)], 15, 10).is_ok());
        for (extents, size, stored) in [
            (&[(0, 5), (4, 5)][..], 100, 10),
            (&[(10, 5), (0, 5)], 100, 10),
            (&[(0, 5)], 4, 5),
            (&[(0, 5)], 5, 6),
            (&[(u64::MAX, 5)], u64::MAX, 5),
        ] {
            assert!(checked(extents, size, stored).is_err(), "{extents:?}");
        }
        for map in [&b""[..], b"1", b"1,2,3", b"1,x", b"-1,2"] {
            assert!(listed_map(map).is_err(), "{map:?}");
        }
    }
}
