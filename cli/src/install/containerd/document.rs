//! One file of containerd's configuration: what it says, and the same with a handler more or less.
//!
//! Nothing here touches a file. An edit keeps comments, order and spacing of everything else, and is
//! read again before it counts: it has to differ from what was there by the handler alone.

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};
use toml_edit::{Array, DocumentMut, Item, Table, value};

/// The handler's name: what a RuntimeClass says.
pub const HANDLER: &str = "podvmm";
/// What containerd makes the shim's name of.
pub const RUNTIME_TYPE: &str = "io.containerd.podvmm.v2";
/// Annotations that reach the shim. It refuses those that it does not know, which is why they have to.
const ANNOTATIONS: &str = "io.podvmm.*";

/// Where the tables of runtimes are, by the version of the configuration.
const SECTIONS: [(i64, &str); 3] = [
    (3, "io.containerd.cri.v1.runtime"),
    (2, "io.containerd.grpc.v1.cri"),
    (1, "cri"),
];
const COMMENT: &str = "\n# Put here by `podvmm install`; `podvmm uninstall` takes it out.\n";

/// A configuration file that was read.
#[derive(Clone, Debug)]
pub struct Document(DocumentMut);

impl Document {
    /// Reads a file's text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let document: DocumentMut = text.parse().context("it is no valid TOML")?;
        Ok(Self(document))
    }

    /// A file that says nothing but its version.
    pub fn new(version: i64) -> Self {
        let mut document = DocumentMut::new();
        document["version"] = value(version);
        Self(document)
    }

    /// The version of the configuration; files of the first have none.
    pub fn version(&self) -> anyhow::Result<i64> {
        let Some(item) = self.0.get("version") else {
            return Ok(1);
        };
        match item.as_integer() {
            Some(version) if version >= 1 => Ok(version),
            _ => bail!(
                "version: {} is no version; write 2 or 3",
                item.to_string().trim()
            ),
        }
    }

    /// The files that it includes, as they are written.
    pub fn imports(&self) -> anyhow::Result<Vec<String>> {
        let Some(item) = self.0.get("imports") else {
            return Ok(Vec::new());
        };
        let texts = item.as_array().and_then(|array| {
            let texts = array.iter().map(|path| path.as_str().map(str::to_owned));
            texts.collect()
        });
        texts.context("imports: it is no list of paths")
    }

    /// The same with other files included.
    pub fn with_imports(mut self, paths: &[String]) -> Self {
        self.0["imports"] = value(paths.iter().collect::<Array>());
        self
    }

    /// Whether it switches the plugin off that serves the kubelet.
    pub fn disables_cri(&self) -> bool {
        let plugins = self.0.get("disabled_plugins").and_then(Item::as_array);
        let mut names = plugins
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str());
        names.any(|name| SECTIONS.iter().any(|(_, section)| name == *section))
    }

    /// The section of runtimes that it has.
    pub fn section(&self) -> Option<&'static str> {
        let plugins = self.0.get("plugins")?.as_table_like()?;
        let mut names = SECTIONS.iter().map(|(_, name)| *name);
        names.find(|name| plugins.contains_key(name))
    }

    /// Its text.
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// What it says, without its form.
    pub fn plain(&self) -> Value {
        plain(self.0.as_item())
    }

    /// A runtime's table.
    pub fn runtime(&self, name: &str) -> Option<Value> {
        runtimes(&self.plain())?.get(name).cloned()
    }

    /// The names of its runtimes.
    pub fn runtimes(&self) -> Vec<String> {
        let plain = self.plain();
        runtimes(&plain).map_or_else(Vec::new, |tables| tables.keys().cloned().collect())
    }

    /// The same with these runtimes more, in the section that it has or its version asks for.
    pub fn with(&self, added: &[(String, Table)]) -> anyhow::Result<String> {
        let version = self.version()?;
        let section = self.section().unwrap_or_else(|| section_of(version));
        let mut document = self.0.clone();
        let mut table = document.as_table_mut();
        for key in ["plugins", section, "containerd", "runtimes"] {
            table = table
                .entry(key)
                .or_insert_with(|| {
                    let mut made = Table::new();
                    made.set_implicit(true);
                    Item::Table(made)
                })
                .as_table_mut()
                .with_context(|| format!("{key}: it is no table of its own"))?;
        }
        for (name, runtime) in added {
            let mut runtime = runtime.clone();
            runtime.decor_mut().set_prefix(COMMENT);
            table.insert(name, Item::Table(runtime));
        }
        let text = document.to_string();
        let again = Self::parse(&text).context("the edit makes no valid TOML of it")?;
        let names: Vec<_> = added.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(
            without(&again.plain(), &names) == without(&self.plain(), &names)
                && names.iter().all(|name| again.runtime(name).is_some()),
            "the edit would change more than the runtimes of {section}"
        );
        Ok(text)
    }

    /// The same without these runtimes, and without the tables that only they needed.
    pub fn without(&self, names: &[&str]) -> anyhow::Result<String> {
        let mut document = self.0.clone();
        if let Some(section) = self.section() {
            let path = ["plugins", section, "containerd", "runtimes"];
            prune(document.as_table_mut(), &path, names);
        }
        let text = document.to_string();
        let again = Self::parse(&text).context("the edit makes no valid TOML of it")?;
        ensure!(
            again.plain_without(names) == self.plain_without(names)
                && names.iter().all(|name| again.runtime(name).is_none()),
            "the edit would change more than the runtimes"
        );
        Ok(text)
    }

    fn plain_without(&self, names: &[&str]) -> Value {
        without(&self.plain(), names)
    }
}

/// Takes the names out of the table at the end of the path, and tables that have nothing to say then.
fn prune(table: &mut Table, path: &[&str], names: &[&str]) {
    let Some((key, rest)) = path.split_first() else {
        for name in names {
            table.remove(name);
        }
        return;
    };
    let Some(below) = table.get_mut(key).and_then(Item::as_table_mut) else {
        return;
    };
    prune(below, rest, names);
    if below.is_empty() && below.is_implicit() {
        table.remove(key);
    }
}

/// The section of runtimes in configurations of a version.
pub fn section_of(version: i64) -> &'static str {
    let mut sections = SECTIONS.iter();
    let found = sections.find(|(since, _)| version >= *since);
    found.map_or("cri", |(_, name)| name)
}

/// The handler's table. The shim's path stands in it where containerd would not find the shim by name.
pub fn handler(shim: Option<&str>) -> Table {
    let mut table = Table::new();
    table["runtime_type"] = value(RUNTIME_TYPE);
    if let Some(path) = shim {
        table["runtime_path"] = value(path);
    }
    // A privileged container gets the devices of the guest: those of the host are not there.
    table["privileged_without_host_devices"] = value(true);
    for list in ["pod_annotations", "container_annotations"] {
        table[list] = value(Array::from_iter([ANNOTATIONS]));
    }
    table
}

/// What containerd 1 has by itself while a configuration names no runtime. It forgets it as soon as one
/// is named.
pub fn runc() -> Table {
    let mut table = Table::new();
    table["runtime_type"] = value("io.containerd.runc.v2");
    table
}

/// The form of a plain table.
pub fn table_of(plain: &Value) -> Option<Table> {
    let mut table = Table::new();
    for (key, entry) in plain.as_object()? {
        let item = match entry {
            Value::Object(_) => Item::Table(table_of(entry)?),
            Value::Array(entries) => {
                let texts: Option<Vec<_>> = entries.iter().map(Value::as_str).collect();
                value(texts?.into_iter().collect::<Array>())
            }
            Value::Bool(it) => value(*it),
            Value::Number(it) => value(it.as_i64()?),
            Value::String(it) => value(it),
            Value::Null => continue,
        };
        table.insert(key, item);
    }
    Some(table)
}

/// The tables of runtimes in a plain configuration.
pub fn runtimes(plain: &Value) -> Option<&Map<String, Value>> {
    let plugins = plain.get("plugins")?;
    let mut sections = SECTIONS.iter().filter_map(|(_, name)| plugins.get(name));
    sections.find_map(|section| section.get("containerd")?.get("runtimes")?.as_object())
}

/// A plain configuration without these runtimes, and without tables that are empty then.
pub fn without(plain: &Value, names: &[&str]) -> Value {
    let mut left = plain.clone();
    for (_, section) in SECTIONS {
        let pointer = format!("/plugins/{section}/containerd/runtimes");
        if let Some(Value::Object(tables)) = left.pointer_mut(&pointer) {
            tables.retain(|name, _| !names.contains(&name.as_str()));
        }
    }
    drop_empty(&mut left);
    left
}

fn drop_empty(plain: &mut Value) {
    if let Value::Object(map) = plain {
        map.values_mut().for_each(drop_empty);
        map.retain(|_, entry| entry.as_object().is_none_or(|map| !map.is_empty()));
    }
}

fn plain(item: &Item) -> Value {
    if let Some(table) = item.as_table_like() {
        let entries = table.iter().filter(|(_, item)| !item.is_none());
        return Value::Object(
            entries
                .map(|(key, item)| (key.to_owned(), plain(item)))
                .collect(),
        );
    }
    if let Some(tables) = item.as_array_of_tables() {
        let tables = tables
            .iter()
            .map(|table| plain(&Item::Table(table.clone())));
        return Value::Array(tables.collect());
    }
    item.as_value().map_or(Value::Null, plain_value)
}

fn plain_value(of: &toml_edit::Value) -> Value {
    match of {
        toml_edit::Value::String(it) => it.value().as_str().into(),
        toml_edit::Value::Integer(it) => (*it.value()).into(),
        toml_edit::Value::Float(it) => (*it.value()).into(),
        toml_edit::Value::Boolean(it) => (*it.value()).into(),
        toml_edit::Value::Datetime(it) => it.value().to_string().into(),
        toml_edit::Value::Array(it) => it.iter().map(plain_value).collect(),
        toml_edit::Value::InlineTable(it) => {
            let entries = it
                .iter()
                .map(|(key, value)| (key.to_owned(), plain_value(value)));
            Value::Object(entries.collect())
        }
    }
}
