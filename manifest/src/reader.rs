//! Reading fields of the tree: types, places and paths, against the lists of [`schema`](crate::schema).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::problem::{Code, Place, Report};
use crate::quantity::Quantity;
use crate::schema::{self, Object, Shape, Support};
use crate::yaml::scalar::shorten;
use crate::yaml::{Entry, Node, Scalar, Value};

/// A value of the text, and its path.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    pub path: String,
    pub node: &'a Node,
    report: &'a Report,
}

/// An object of the text whose keys have been checked.
pub struct Fields<'a> {
    path: String,
    place: Place,
    object: &'static Object,
    entries: &'a [Entry],
    report: &'a Report,
}

impl<'a> Item<'a> {
    pub fn root(node: &'a Node, report: &'a Report) -> Self {
        Self {
            path: String::new(),
            node,
            report,
        }
    }

    pub fn report(&self) -> &'a Report {
        self.report
    }

    pub fn place(&self) -> Place {
        self.node.place
    }

    pub fn error(&self, code: Code, message: impl Into<String>) {
        self.report.error(self.place(), &self.path, code, message);
    }

    pub fn bad(&self, message: impl Into<String>) {
        self.error(Code::Value, message);
    }

    pub fn unsupported(&self, message: impl Into<String>) {
        self.report.unsupported(self.place(), &self.path, message);
    }

    pub fn warn(&self, message: impl Into<String>) {
        self.report.warning(self.place(), &self.path, message);
    }

    fn wrong_type(&self, wanted: &str, remedy: &str) {
        if !matches!(self.node.value, Value::Broken) {
            let found = self.node.describe();
            self.error(
                Code::Type,
                format!("must be {wanted} and is {found}{remedy}"),
            );
        }
    }

    pub fn text(&self) -> Option<&'a str> {
        let remedy = match &self.node.value {
            Value::Scalar(Scalar::Text(text)) => return Some(text),
            Value::Scalar(
                Scalar::Bool { text, .. } | Scalar::Int { text, .. } | Scalar::Float { text },
            ) => format!(": quote it, \"{}\"", shorten(text)),
            _ => String::new(),
        };
        self.wrong_type("a string", &remedy);
        None
    }

    /// A string that is not empty.
    pub fn filled(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() {
            self.bad("must not be empty");
            return None;
        }
        Some(text)
    }

    /// A string without the byte that ends strings of the kernel.
    pub fn argument(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.contains('\0') {
            self.bad("has a NUL character, which the kernel takes in no string");
            return None;
        }
        Some(text)
    }

    /// A string of a certain form.
    pub fn named(&self, check: fn(&str) -> Result<(), String>) -> Option<&'a str> {
        let text = self.text()?;
        match check(text) {
            Ok(()) => Some(text),
            Err(rule) => {
                self.bad(format!("{:?} {rule}", shorten(text)));
                None
            }
        }
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        self.unknown_word(text, words.iter().map(|(word, _)| *word));
        None
    }

    pub fn unknown_word(&self, text: &str, words: impl Iterator<Item = &'static str> + Clone) {
        let all: Vec<_> = words.clone().filter(|word| !word.is_empty()).collect();
        let hint = match self.report.similar(text, words) {
            Some(word) => format!("; is it {word}?"),
            None => String::new(),
        };
        let all = all.join(", ");
        self.bad(format!("{:?} is none of {all}{hint}", shorten(text)));
    }

    pub fn bool(&self) -> Option<bool> {
        if let Value::Scalar(Scalar::Bool { value, .. }) = self.node.value {
            return Some(value);
        }
        let quoted = matches!(&self.node.value, Value::Scalar(Scalar::Text(text))
            if matches!(Scalar::plain(text), Scalar::Bool { .. }));
        let remedy = if quoted {
            ": write it without quotes"
        } else {
            ""
        };
        self.wrong_type("true or false", remedy);
        None
    }

    pub fn int(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let Value::Scalar(Scalar::Int { value, .. }) = &self.node.value else {
            let quoted = matches!(&self.node.value, Value::Scalar(Scalar::Text(text))
                if matches!(Scalar::plain(text), Scalar::Int { .. }));
            let remedy = if quoted {
                ": write it without quotes"
            } else {
                ""
            };
            self.wrong_type("a whole number", remedy);
            return None;
        };
        let (least, most) = (range.start(), range.end());
        match i64::try_from(*value) {
            Ok(value) if range.contains(&value) => return Some(value),
            // Nobody wants to know how large a number can be.
            _ if *value < i128::from(*least) && *most >= i64::from(i32::MAX) => {
                self.bad(format!("is {value}, must be at least {least}"));
            }
            _ => self.bad(format!("is {value}, must be {least} to {most}")),
        }
        None
    }

    /// A number that is stored in 32 bits.
    pub fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.int(i64::from(*range.start())..=i64::from(*range.end()))?;
        u32::try_from(value).ok()
    }

    pub fn quantity(&self) -> Option<Quantity> {
        let Some(text) = self.quantity_text() else {
            self.wrong_type("a quantity such as 500m or 1Gi", "");
            return None;
        };
        let quantity = match Quantity::parse(&text) {
            Ok(quantity) => quantity,
            Err(error) => {
                self.bad(format!("{:?} {error}", shorten(&text)));
                return None;
            }
        };
        if quantity.is_negative() {
            self.bad(format!("is {}, must not be negative", shorten(&text)));
            return None;
        }
        Some(quantity)
    }

    /// A quantity as it is written.
    pub fn quantity_text(&self) -> Option<String> {
        match &self.node.value {
            Value::Scalar(Scalar::Text(text) | Scalar::Float { text }) => Some(text.clone()),
            Value::Scalar(Scalar::Int { value, .. }) => Some(value.to_string()),
            _ => None,
        }
    }

    pub fn list(&self) -> Option<Vec<Self>> {
        let Value::List(nodes) = &self.node.value else {
            self.wrong_type("a list", "");
            return None;
        };
        let item = |(index, node)| Self {
            path: format!("{}[{index}]", self.path),
            node,
            report: self.report,
        };
        Some(nodes.iter().enumerate().map(item).collect())
    }

    /// A list of which no more than `most` are taken.
    pub fn short_list(&self, most: usize) -> Option<Vec<Self>> {
        let mut items = self.list()?;
        if items.len() > most {
            let message = format!("has {} entries, at most {most} are taken", items.len());
            self.error(Code::Limit, message);
            items.truncate(most);
        }
        Some(items)
    }

    /// Whether it is a list of nothing.
    pub fn list_is_empty(&self) -> bool {
        matches!(&self.node.value, Value::List(nodes) if nodes.is_empty())
    }

    /// A list of strings.
    pub fn texts(&self) -> Option<Vec<String>> {
        let items = self.list()?;
        let texts: Vec<_> = items
            .iter()
            .filter_map(|item| item.argument().map(str::to_owned))
            .collect();
        (texts.len() == items.len()).then_some(texts)
    }

    fn entries(&self) -> Option<&'a [Entry]> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type("an object", "");
            return None;
        };
        Some(entries)
    }

    /// An object with keys of the user's own.
    pub fn map(&self) -> Option<Vec<(&'a Entry, Self)>> {
        let item = |entry: &'a Entry| {
            let path = match is_word(&entry.key) {
                true => format!("{}.{}", self.path, entry.key),
                false => format!("{}[{}]", self.path, shorten(&entry.key)),
            };
            let node = &entry.value;
            let report = self.report;
            (entry, Self { path, node, report })
        };
        Some(self.entries()?.iter().map(item).collect())
    }

    /// An object of the user's own keys and strings.
    pub fn text_map(
        &self,
        key: fn(&str) -> Result<(), String>,
        value: fn(&str) -> Result<(), String>,
    ) -> Option<BTreeMap<String, String>> {
        let mut map = BTreeMap::new();
        for (entry, item) in self.map()? {
            self.check_key(entry, key);
            if let Some(text) = item.named(value) {
                map.insert(entry.key.clone(), text.to_owned());
            }
        }
        Some(map)
    }

    /// Checks the form of a key of the user's own.
    pub fn check_key(&self, entry: &Entry, check: fn(&str) -> Result<(), String>) {
        if let Err(rule) = check(&entry.key) {
            let message = format!("the key {:?} {rule}", shorten(&entry.key));
            self.report
                .error(entry.place, &self.path, Code::Value, message);
        }
    }

    /// An object of a known type. Unknown and unsupported fields are told of here.
    pub fn object(&self, object: &'static Object) -> Option<Fields<'a>> {
        let fields = Fields {
            path: self.path.clone(),
            place: self.place(),
            object,
            entries: self.entries()?,
            report: self.report,
        };
        fields.check();
        Some(fields)
    }

    fn check_shape(&self, shape: Shape) {
        // The value is of no use; what is wrong with it has been told of.
        let _ = match shape {
            Shape::Bool => self.bool().is_some(),
            Shape::Int => self.int(i64::MIN..=i64::MAX).is_some(),
            Shape::Text => self.text().is_some(),
            Shape::List => self.list().is_some(),
            Shape::Object => self.entries().is_some(),
        };
    }
}

impl<'a> Fields<'a> {
    fn check(&self) {
        for entry in self.entries {
            let item = self.item(entry);
            match self.object.field(&entry.key).map(|field| field.support) {
                None => self.unknown(entry),
                Some(_) if item.node.is_null() => {}
                Some(Support::Supported(_)) => {}
                Some(Support::Accepted(shape, _)) => item.check_shape(shape),
                Some(Support::Unsupported(remedy)) => self.report.unsupported(
                    entry.place,
                    &item.path,
                    format!("is not supported: {remedy}"),
                ),
            }
        }
    }

    fn unknown(&self, entry: &Entry) {
        let known = self.object.fields.iter().map(|field| field.name);
        let hint = match self.report.similar(&entry.key, known) {
            Some(name) => format!("is it {name}?"),
            None => match owners(&entry.key) {
                Some(owners) => format!("it is a field of {owners}: check the indentation"),
                None => "remove it".into(),
            },
        };
        let name = self.object.name;
        let message = format!("{name} has no such field; {hint}");
        let path = self.item(entry).path;
        self.report
            .error(entry.place, &path, Code::UnknownField, message);
    }

    fn item(&self, entry: &'a Entry) -> Item<'a> {
        let key = shorten(&entry.key);
        Item {
            path: match self.path.as_str() {
                "" => key,
                path => format!("{path}.{key}"),
            },
            node: &entry.value,
            report: self.report,
        }
    }

    /// A field, if it is there and not null.
    pub fn get(&self, name: &'static str) -> Option<Item<'a>> {
        debug_assert!(
            matches!(
                self.object.field(name).map(|field| field.support),
                Some(Support::Supported(_))
            ),
            "{}.{name} is read and not listed as supported",
            self.object.name
        );
        #[cfg(test)]
        self.report
            .asked
            .borrow_mut()
            .insert((self.object.name, name));
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        (!entry.value.is_null()).then(|| self.item(entry))
    }

    /// A field that has to be there.
    pub fn need(&self, name: &'static str, remedy: &str) -> Option<Item<'a>> {
        let item = self.get(name);
        if item.is_none() {
            let path = match self.path.as_str() {
                "" => name.to_owned(),
                path => format!("{path}.{name}"),
            };
            let message = format!("is missing: {remedy}");
            self.report.error(self.place, &path, Code::Missing, message);
        }
        item
    }

    /// Names of all fields that are set.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        let set = |entry: &&Entry| !entry.value.is_null();
        self.entries
            .iter()
            .filter(set)
            .map(|entry| entry.key.as_str())
    }

    pub fn error(&self, code: Code, message: impl Into<String>) {
        self.report.error(self.place, &self.path, code, message);
    }
}

/// Whether a key can stand in a path as it is.
fn is_word(key: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=40).contains(&key.len()) && key.bytes().all(fine)
}

/// The types that have a field of this name, if they are few.
fn owners(field: &str) -> Option<String> {
    let owners = schema::OBJECTS
        .iter()
        .filter(|object| object.field(field).is_some());
    let names: Vec<_> = owners.map(|object| object.name).collect();
    (1..=2).contains(&names.len()).then(|| names.join(" and "))
}
