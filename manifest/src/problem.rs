//! What is wrong with a manifest, where, and what to do about it.

use std::cell::{Cell, RefCell};
use std::fmt;

use crate::names;

/// Most problems that are told of one manifest; a broken one of 100,000 lines needs no more.
const MAX_PROBLEMS: usize = 100;

/// A place in the text. Both numbers start at 1; columns are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    /// Where a text begins.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}:{}", self.line, self.column)
    }
}

/// What kind of problem it is, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It is no YAML, or uses a part of YAML that is not taken.
    Syntax,
    /// Too large or too many.
    Limit,
    /// A kind of object that is not taken, or the wrong number of objects.
    Kind,
    /// A key that is there twice.
    Duplicate,
    /// A field that Kubernetes does not have.
    UnknownField,
    /// A field or value that Kubernetes has and podvmm does not support.
    Unsupported,
    /// A field or value that a pod in a VM of its own cannot have.
    Refused,
    /// Another type than the field's.
    Type,
    /// A field that has to be there.
    Missing,
    /// A value that the field cannot have.
    Value,
    /// Fields that contradict each other.
    Conflict,
    /// A name of something that is not there.
    Reference,
    /// Something that has no effect, or another one than in a cluster.
    Effect,
}

impl Code {
    /// Its name, as programs see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Limit => "limit",
            Self::Kind => "kind",
            Self::Duplicate => "duplicate",
            Self::UnknownField => "unknown-field",
            Self::Unsupported => "unsupported",
            Self::Refused => "refused",
            Self::Type => "type",
            Self::Missing => "missing",
            Self::Value => "value",
            Self::Conflict => "conflict",
            Self::Reference => "reference",
            Self::Effect => "effect",
        }
    }
}

/// Whether a manifest can be used in spite of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can.
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the text.
    pub place: Place,
    /// Which field, such as `spec.containers[1].image`; empty for the whole text.
    pub path: String,
    /// Kind.
    pub code: Code,
    /// Weight.
    pub severity: Severity,
    /// What is wrong and what to do, without path and place.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.place, self.message)
        } else {
            write!(f, "{} ({}): {}", self.path, self.place, self.message)
        }
    }
}

/// Why a manifest cannot be used: all of it, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Errors and warnings; at least one error.
    pub problems: Vec<Problem>,
    /// How many further ones were found and not kept.
    pub more: usize,
}

impl std::error::Error for Rejected {}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            if problem.severity == Severity::Warning {
                f.write_str("warning: ")?;
            }
            write!(f, "{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

/// Collects problems while a manifest is read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: RefCell<Vec<Problem>>,
    dropped: Cell<usize>,
    errors: Cell<usize>,
    /// Unsupported fields are warnings.
    ignore_unsupported: bool,
    /// Which fields were asked for: object and field.
    #[cfg(test)]
    pub asked: RefCell<std::collections::BTreeSet<(&'static str, &'static str)>>,
}

impl Report {
    pub fn new(ignore_unsupported: bool) -> Self {
        Self {
            ignore_unsupported,
            ..Self::default()
        }
    }

    /// What was probably meant; not sought any more when nobody will be told.
    pub fn similar<'a>(&self, text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let is_full = self.problems.borrow().len() >= MAX_PROBLEMS;
        if is_full {
            None
        } else {
            names::similar(text, words)
        }
    }

    pub fn has_errors(&self) -> bool {
        self.errors.get() > 0
    }

    pub fn add(&self, problem: Problem) {
        if problem.severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(problem);
        } else {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    pub fn error(&self, place: Place, path: &str, code: Code, message: impl Into<String>) {
        self.add(Problem {
            place,
            path: path.to_owned(),
            code,
            severity: Severity::Error,
            message: message.into(),
        });
    }

    /// A field that is not supported: an error unless such fields are ignored.
    pub fn unsupported(&self, place: Place, path: &str, message: impl Into<String>) {
        let severity = match self.ignore_unsupported {
            true => Severity::Warning,
            false => Severity::Error,
        };
        self.add(Problem {
            place,
            path: path.to_owned(),
            code: Code::Unsupported,
            severity,
            message: message.into(),
        });
    }

    pub fn warning(&self, place: Place, path: &str, message: impl Into<String>) {
        self.add(Problem {
            place,
            path: path.to_owned(),
            code: Code::Effect,
            severity: Severity::Warning,
            message: message.into(),
        });
    }

    /// The warnings, if there were no errors.
    pub fn finish(self) -> Result<Vec<Problem>, Rejected> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.place);
        if self.errors.get() == 0 {
            return Ok(problems);
        }
        Err(Rejected {
            problems,
            more: self.dropped.get(),
        })
    }
}
