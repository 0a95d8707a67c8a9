//! Layers and archives as they are compressed: gzip, zstd or not at all.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const BUFFER: usize = 128 << 10;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    /// By a program whose output layers do not have.
    Unsupported(&'static str),
}

impl Compression {
    /// By the first bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one that is to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', ..] => Self::Unsupported("xz"),
            [b'B', b'Z', b'h', ..] => Self::Unsupported("bzip2"),
            _ => Self::None,
        }
    }
}

/// The bytes as they were before they were compressed.
pub(crate) fn decompress<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    match Compression::of(from.fill_buf()?) {
        Compression::None => Ok(Box::new(from)),
        Compression::Gzip => Ok(Box::new(MultiGzDecoder::new(from))),
        Compression::Zstd => Ok(Box::new(Zstd::new(from))),
        Compression::Unsupported(program) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("it is compressed by {program}; only gzip and zstd are supported"),
        )),
    }
}

/// Frames of zstd, one after the other. The decoder's window, which is at most 128 MiB, is all that
/// it keeps.
struct Zstd<R> {
    from: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Begins the next frame; false at the end.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.from.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.from) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = (&mut self.from).take(length.into());
                    let skipped = io::copy(&mut BufReader::new(skipped), &mut io::sink())?;
                    if skipped < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(damaged(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame {
                self.in_frame = self.begin()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.from, one);
                decoded.map_err(damaged)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.in_frame = false,
                length => return Ok(length),
            }
        }
    }
}

fn damaged(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn text() -> Vec<u8> {
        (0..100_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    #[test]
    fn what_was_compressed_comes_back() {
        assert_eq!(read(&text()).unwrap(), text());
        assert_eq!(read(b"").unwrap(), b"");
        let text_again = text();
        let (first, second) = text_again.split_at(1000);
        for compress in [gzip, zstd] {
            assert_eq!(read(&compress(&text())).unwrap(), text());
            let parts = [compress(first), compress(second)].concat();
            assert_eq!(read(&parts).unwrap(), text());
        }
        let skipped = [
            &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..],
            &zstd(&text()),
        ]
        .concat();
        assert_eq!(read(&skipped).unwrap(), text());
    }

    #[test]
    fn what_is_damaged_or_cut_short_is_an_error() {
        for compressed in [gzip(&text()), zstd(&text())] {
            for length in [5, compressed.len() / 2, compressed.len() - 1] {
                assert!(read(&compressed[..length]).is_err(), "{length}");
            }
            let mut damaged = compressed.clone();
            for byte in &mut damaged[6..] {
                *byte ^= 0x5a;
            }
            assert!(read(&damaged).is_err());
        }
        assert!(read(&[0x50, 0x2a, 0x4d, 0x18, 9, 0, 0, 0, 1]).is_err());
        let error = read(b"BZh91AY").unwrap_err().to_string();
        assert!(error.contains("bzip2"), "{error}");
    }
}
