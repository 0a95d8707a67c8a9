//! What containerd's configuration says of a handler: `[… runtimes.NAME.options]`.
//!
//! containerd knows the options of runc. For all other runtimes it has two fields, `ConfigPath` for a
//! file, and since 1.7 `ConfigBody`, in which it puts the section itself if it names no file
//! (`runtimeoptions.v1.Options`). Both are the administrator's: a pod cannot reach them.

use std::path::PathBuf;

use containerd_shim_protos::protobuf::{CodedInputStream, well_known_types::any::Any};
use thiserror::Error;

/// What the field's types are called.
const NAME: &str = "runtimeoptions.v1.Options";
/// Tags of the fields `config_path` (2) and `config_body` (3), both with a length.
const CONFIG_PATH: u32 = 2 << 3 | 2;
const CONFIG_BODY: u32 = 3 << 3 | 2;

/// Where a handler's settings are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the node's file, if there is one.
    Node,
    /// In this file.
    File(PathBuf),
    /// Here, as TOML.
    Inline(String),
}

/// Options that cannot be followed.
#[derive(Debug, Error)]
pub enum OptionsError {
    /// Not the message that its type says.
    #[error("containerd's options of this handler are damaged")]
    Damaged(#[source] containerd_shim_protos::protobuf::Error),
    /// A path that depends on where the shim runs.
    #[error(
        "ConfigPath {0:?} of this handler's options in containerd's configuration: write a path from the root"
    )]
    Relative(PathBuf),
}

/// Where the settings of the handler with these options are.
///
/// Options of another type are no harm: clients pass those of runc to whatever runtime there is. The log
/// says so.
///
/// # Errors
/// [`OptionsError`] says what is wrong with them.
pub fn source(options: Option<&Any>) -> Result<Source, OptionsError> {
    let Some(options) = options.filter(|options| !options.value.is_empty()) else {
        return Ok(Source::Node);
    };
    if options.type_url.rsplit('/').next() != Some(NAME) {
        log::warn!(
            "options of the type {:?} mean nothing to this runtime",
            options.type_url
        );
        return Ok(Source::Node);
    }
    let (path, body) = fields(&options.value).map_err(OptionsError::Damaged)?;
    let path = PathBuf::from(path);
    match (path.as_os_str().is_empty(), body.trim().is_empty()) {
        (true, true) => Ok(Source::Node),
        (true, false) => Ok(Source::Inline(body)),
        (false, _) if path.is_absolute() => Ok(Source::File(path)),
        (false, _) => Err(OptionsError::Relative(path)),
    }
}

/// `config_path` and `config_body`.
fn fields(message: &[u8]) -> containerd_shim_protos::protobuf::Result<(String, String)> {
    let (mut path, mut body) = (String::new(), String::new());
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            CONFIG_PATH => path = input.read_string()?,
            // Bytes by its type. What is no text is no TOML either.
            CONFIG_BODY => body = String::from_utf8_lossy(&input.read_bytes()?).into_owned(),
            _ => containerd_shim_protos::protobuf::rt::skip_field_for_tag(tag, &mut input)?,
        }
    }
    Ok((path, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: &[u8]) -> Any {
        Any {
            type_url: type_url.into(),
            value: value.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_file_comes_before_what_is_written_inline() {
        let ours = |value: &[u8]| source(Some(&any(NAME, value))).unwrap();
        assert_eq!(source(None).unwrap(), Source::Node);
        assert_eq!(ours(b""), Source::Node);
        assert_eq!(ours(b"\x0a\x01x\x12\x00\x1a\x01 "), Source::Node);
        assert_eq!(ours(b"\x12\x02/f\x1a\x01a"), Source::File("/f".into()));
        assert_eq!(
            ours(b"\x0a\x01x\x1a\x05a = 1"),
            Source::Inline("a = 1".into())
        );
        let long = source(Some(&any(
            &format!("types.containerd.io/{NAME}"),
            b"\x12\x02/f",
        )));
        assert_eq!(long.unwrap(), Source::File("/f".into()));
    }

    #[test]
    fn options_of_runc_are_no_harm() {
        let runc = any("containerd.runc.v1.Options", b"\x12\x02/f");
        assert_eq!(source(Some(&runc)).unwrap(), Source::Node);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let ours = |value: &[u8]| source(Some(&any(NAME, value))).unwrap_err().to_string();
        assert!(ours(b"\x12\x01f").contains("\"f\""));
        for damaged in [
            &b"\x12"[..],
            b"\x12\x7ff",
            b"\x12\x02\xff\xfe",
            b"\x07\x00",
            b"\x00",
        ] {
            assert!(ours(damaged).contains("damaged"), "{damaged:?}");
        }
    }
}
