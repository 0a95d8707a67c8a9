//! YAML (and with it JSON) as a tree that knows where everything was written.
//!
//! ```text
//!   text ──granit-parser──▶ events ──load──▶ documents of Nodes
//! ```
//!
//! The tree is what Kubernetes takes from YAML, and no more: anchors, aliases, tags and keys that are
//! no strings are problems, and so is a key that is there twice.

mod load;
pub mod scalar;

pub use load::{MAX_BYTES, load};
pub use scalar::Scalar;

use crate::problem::Place;

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Something that a problem was told of; nothing more is to be said about it.
    Broken,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

impl Node {
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(Scalar::Null))
    }

    /// What it is, as an error says it.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".into(),
            Value::Map(_) => "an object".into(),
            Value::Broken => "unreadable".into(),
            Value::Scalar(scalar) => scalar.describe(),
        }
    }

    /// The value of a key, of an object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.key == key)?;
        Some(&entry.value)
    }
}
