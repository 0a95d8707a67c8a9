//! Extended headers: records of `LENGTH KEY=VALUE`, each with a line feed.

use super::TarError;

/// Records, the later ones of a key in the place of the earlier, except where all count.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax(Vec<(Vec<u8>, Vec<u8>)>);

impl Pax {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, TarError> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (record, rest) = record(bytes).ok_or(TarError::Pax)?;
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or(TarError::Pax)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            records.push((key.to_vec(), value.to_vec()));
            bytes = rest;
        }
        Ok(Self(records))
    }

    /// These records, and those of `later` over them.
    pub(super) fn with(&self, later: &Self) -> Self {
        Self(self.0.iter().chain(&later.0).cloned().collect())
    }

    /// The last value of a key; an empty one takes back an earlier.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let records = self.0.iter().rev();
        let mut found = records.filter(|(known, _)| known == key.as_bytes());
        found
            .next()
            .map(|(_, value)| &value[..])
            .filter(|value| !value.is_empty())
    }

    pub(super) fn number(&self, key: &'static str) -> Result<Option<u64>, TarError> {
        self.get(key)
            .map(|value| decimal(value).ok_or(TarError::Number(key)))
            .transpose()
    }

    /// Seconds and nanoseconds; a time before 1970 counts as 0.
    pub(super) fn mtime(&self) -> Result<Option<(i64, u32)>, TarError> {
        let Some(value) = self.get("mtime") else {
            return Ok(None);
        };
        if value.starts_with(b"-") {
            return Ok(Some((0, 0)));
        }
        let wrong = || TarError::Number("mtime");
        let mut parts = value.splitn(2, |&byte| byte == b'.');
        let seconds = parts.next().and_then(decimal).ok_or_else(wrong)?;
        let mut nanos = 0;
        let fraction = parts.next().unwrap_or_default();
        for place in 0..9 {
            let digit = fraction.get(place).copied().unwrap_or(b'0');
            let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10);
            nanos = nanos * 10 + u32::from(digit.ok_or_else(wrong)?);
        }
        Ok(Some((i64::try_from(seconds).map_err(|_| wrong())?, nanos)))
    }

    /// Extended attributes, each name once.
    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (key, value) in &self.0 {
            let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else {
                continue;
            };
            found.retain(|(known, _)| known != name);
            found.push((name.to_vec(), value.clone()));
        }
        found
    }

    /// All values of the two keys in which the oldest sparse format lists extents.
    pub(super) fn pairs(&self) -> Result<Vec<(u64, u64)>, TarError> {
        let value = |value: &[u8]| decimal(value).ok_or(TarError::Sparse);
        let mut offsets = Vec::new();
        let mut pairs = Vec::new();
        for (key, text) in &self.0 {
            match &key[..] {
                b"GNU.sparse.offset" => offsets.push(value(text)?),
                b"GNU.sparse.numbytes" => {
                    let offset = offsets.pop().ok_or(TarError::Sparse)?;
                    pairs.push((offset, value(text)?));
                }
                _ => {}
            }
        }
        Ok(pairs)
    }
}

/// The first record without its length and line feed, and what comes after it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &bytes[length..]))
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let pax = Pax::parse(b"12 path=a\nb\n22 mtime=1700000000.5\n27 SCHILY.xattr.user.a=b=\0\n");
        let pax = pax.unwrap();
        assert_eq!(pax.get("path"), Some(&b"a\nb"[..]));
        assert_eq!(pax.mtime().unwrap(), Some((1_700_000_000, 500_000_000)));
        assert_eq!(pax.xattrs(), [(b"user.a".to_vec(), b"b=\0".to_vec())]);
        let later = Pax::parse(b"8 path=\n").unwrap();
        assert_eq!(pax.with(&later).get("path"), None);
    }

    #[test]
    fn damaged_records_are_refused() {
        for bytes in [
            &b"x"[..],
            b"5 a=b\n",
            b"99 a=b\n",
            b"6 a=b\n7 ",
            b"0 a=b\n",
            b"2 a=b\n",
            b"6 acb\n",
            b"18446744073709551616 a=b\n",
            b"-6 a=b\n",
        ] {
            assert!(Pax::parse(bytes).is_err(), "{bytes:?}");
        }
        let pax = Pax::parse(b"13 mtime=1.x\n11 size=1x\n").unwrap();
        assert!(pax.mtime().is_err() && pax.number("size").is_err());
    }
}
