//! All fields that a Pod of Kubernetes v1.35 has, and what becomes of each.
//!
//! The lists drive the reading: a field that is in no list does not exist, and one that is read without
//! being listed as supported fails a debug assertion. docs/manifests.md is made of them.

mod container;
mod metadata;
mod spec;
mod volume;

pub(crate) use container::*;
pub(crate) use metadata::*;
pub(crate) use spec::*;
pub(crate) use volume::*;

/// One type of object.
#[derive(Debug)]
pub struct Object {
    /// Its name in Kubernetes' reference.
    pub name: &'static str,
    /// All its fields.
    pub fields: &'static [Field],
}

/// A field of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What becomes of it.
    pub support: Support,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It is carried out; the note says what is special, if anything is.
    Supported(&'static str),
    /// It is checked for its type and has no effect, for this reason.
    Accepted(Shape, &'static str),
    /// It is an error, unless such fields are ignored; the text says what to do.
    Unsupported(&'static str),
}

/// The type of a field without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// true or false.
    Bool,
    /// A whole number.
    Int,
    /// A string.
    Text,
    /// A list.
    List,
    /// An object.
    Object,
}

/// A supported field.
const fn yes(name: &'static str) -> Field {
    note(name, "")
}

/// A supported field with something to know.
const fn note(name: &'static str, text: &'static str) -> Field {
    Field {
        name,
        support: Support::Supported(text),
    }
}

/// A field without effect.
const fn idle(name: &'static str, shape: Shape, reason: &'static str) -> Field {
    Field {
        name,
        support: Support::Accepted(shape, reason),
    }
}

/// A field that is not supported.
const fn no(name: &'static str, remedy: &'static str) -> Field {
    Field {
        name,
        support: Support::Unsupported(remedy),
    }
}

impl Object {
    /// A field by name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// Every type, in the order of the documentation.
pub static OBJECTS: &[&Object] = &[
    &POD,
    &METADATA,
    &POD_SPEC,
    &POD_SECURITY,
    &HOST_ALIAS,
    &DNS_CONFIG,
    &DNS_OPTION,
    &SYSCTL,
    &POD_OS,
    &CONTAINER,
    &PORT,
    &ENV,
    &ENV_SOURCE,
    &FIELD_REF,
    &RESOURCE_REF,
    &KEY_REF,
    &ENV_FROM,
    &OBJECT_REF,
    &RESOURCES,
    &VOLUME_MOUNT,
    &SECURITY,
    &CAPABILITIES,
    &SECCOMP,
    &APPARMOR,
    &LIFECYCLE,
    &LIFECYCLE_HANDLER,
    &PROBE,
    &EXEC,
    &HTTP_GET,
    &HTTP_HEADER,
    &TCP_SOCKET,
    &SLEEP,
    &VOLUME,
    &EMPTY_DIR,
    &HOST_PATH,
    &CONFIG_MAP_VOLUME,
    &SECRET_VOLUME,
    &CONFIG_MAP_PROJECTION,
    &KEY_TO_PATH,
    &DOWNWARD_API,
    &DOWNWARD_FILE,
    &PROJECTED,
    &PROJECTION,
    &CONFIG_MAP,
    &SECRET,
];
