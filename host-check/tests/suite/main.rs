//! Host checks on recorded machines and on paper.
//!
//! - `hosts`: each machine in `tests/hosts` leads to the findings that it should
//! - `schema`: the JSON form is what the published schema says
//! - `docs`: each id has its section, and the page names no others
//! - `text`: what people read; `labels`: what nodes get

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of this is a test

mod docs;
mod fixture;
mod hosts;
mod labels;
mod schema;
mod text;
