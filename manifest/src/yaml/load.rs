//! From events to trees.

use std::collections::HashSet;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::scalar::shorten;
use super::{Entry, Node, Scalar, Value};
use crate::problem::{Code, Place, Report};

/// Longest text that is read, in bytes. Kubernetes takes somewhat more than 1 MiB.
pub const MAX_BYTES: usize = 1 << 20;
/// Most values in all documents.
const MAX_NODES: usize = 100_000;
/// Deepest nesting. A Pod needs about 12.
const MAX_DEPTH: usize = 64;

/// Reads all documents of `text`. Those after a syntax error are not looked at.
pub fn load(text: &str, report: &Report) -> Vec<Node> {
    if text.len() > MAX_BYTES {
        let message = format!(
            "the text has {} bytes, at most {MAX_BYTES} are read: large data belongs into files or images",
            text.len()
        );
        report.error(Place::START, "", Code::Limit, message);
        return Vec::new();
    }
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut loader = Loader {
        report,
        documents: Vec::new(),
        stack: Vec::new(),
        nodes: 0,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => {
                if !loader.event(event, span) {
                    break;
                }
            }
            Err(error) => {
                let place = place(error.marker());
                report.error(place, "", Code::Syntax, explain(&error));
                break;
            }
        }
    }
    loader.documents
}

fn place(marker: &Marker) -> Place {
    Place {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

fn explain(error: &ScanError) -> String {
    match error.kind() {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation => {
            "a tab where YAML takes spaces alone: indent with spaces".into()
        }
        _ if error.info().contains("tab") => {
            format!("{}: indent with spaces", error.info())
        }
        ErrorKind::InvalidIndentation => {
            "the indentation fits nothing above it: indent what belongs together by the same number of spaces".into()
        }
        _ => format!("is not YAML: {}", error.info()),
    }
}

/// A list or object that is not complete.
enum Open {
    List(Place, Vec<Node>),
    Map {
        place: Place,
        entries: Vec<Entry>,
        seen: HashSet<String>,
        /// A key that waits for its value; none if the key itself was a problem.
        key: Option<Option<(String, Place)>>,
    },
}

struct Loader<'a> {
    report: &'a Report,
    documents: Vec<Node>,
    stack: Vec<Open>,
    nodes: usize,
}

impl Loader<'_> {
    /// Takes one event; says whether to go on.
    fn event(&mut self, event: Event<'_>, span: Span) -> bool {
        let at = place(&span.start);
        if event.is_node() {
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                let message =
                    format!("there are more than {MAX_NODES} values: no pod needs as many");
                self.report.error(at, "", Code::Limit, message);
                return false;
            }
            self.check_node(&event, at);
        }
        match event {
            Event::Scalar(text, style, _, _) => {
                let scalar = match style {
                    ScalarStyle::Plain => Scalar::plain(&text),
                    _ => Scalar::Text(text.into_owned()),
                };
                self.value(at, Value::Scalar(scalar));
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => self.value(at, Value::Broken),
            Event::SequenceStart(..) => self.stack.push(Open::List(at, Vec::new())),
            Event::MappingStart(..) => self.stack.push(Open::Map {
                place: at,
                entries: Vec::new(),
                seen: HashSet::new(),
                key: None,
            }),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(place, items)) => self.value(place, Value::List(items)),
                Some(Open::Map { place, entries, .. }) => self.value(place, Value::Map(entries)),
                None => {}
            },
            _ => {}
        }
        true
    }

    fn check_node(&self, event: &Event<'_>, at: Place) {
        let path = self.path();
        let complain = |message: &str| self.report.error(at, &path, Code::Syntax, message);
        if event.is_alias() || matches!(event, Event::UnresolvedAlias(_)) {
            complain("an alias (*name) is not taken: write the value out");
        }
        if event.anchor_id().is_some_and(|id| id != 0) {
            complain("an anchor (&name) is not taken: write the value out where it is needed");
        }
        if event.tag().is_some() {
            complain(
                "a tag (!name) is not taken: leave it out, and quote the value if it is a string",
            );
        }
    }

    /// Path of the value that is being read; none of a key.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.stack {
            match open {
                Open::List(_, items) => path += &format!("[{}]", items.len()),
                Open::Map { key, .. } => {
                    let Some(Some((name, _))) = key else { break };
                    let dot = if path.is_empty() { "" } else { "." };
                    path += &format!("{dot}{}", shorten(name));
                }
            }
        }
        path
    }

    fn value(&mut self, at: Place, value: Value) {
        let path = match self.stack.last() {
            Some(Open::Map { key: None, .. }) => self.path(),
            _ => String::new(),
        };
        match self.stack.last_mut() {
            None => {
                let node = Node { place: at, value };
                // `---` before the first or after the last object makes an empty document.
                if !node.is_null() {
                    self.documents.push(node);
                }
            }
            Some(Open::List(_, items)) => items.push(Node { place: at, value }),
            Some(Open::Map {
                entries, seen, key, ..
            }) => match key.take() {
                None => *key = Some(key_of(self.report, &path, seen, at, value)),
                Some(None) => {}
                Some(Some((name, place))) => entries.push(Entry {
                    key: name,
                    place,
                    value: Node { place: at, value },
                }),
            },
        }
    }
}

fn key_of(
    report: &Report,
    path: &str,
    seen: &mut HashSet<String>,
    at: Place,
    value: Value,
) -> Option<(String, Place)> {
    let Value::Scalar(Scalar::Text(text)) = value else {
        if !matches!(value, Value::Broken) {
            let node = Node { place: at, value };
            let message = format!(
                "a key is {}, and only strings are taken: quote it",
                node.describe()
            );
            report.error(at, path, Code::Syntax, message);
        }
        return None;
    };
    if !seen.insert(text.clone()) {
        let dot = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{dot}{}", shorten(&text));
        let message = "is there twice in the same object: remove one of the two";
        report.error(at, &path, Code::Duplicate, message);
        return None;
    }
    Some((text, at))
}
