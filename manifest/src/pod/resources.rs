//! Reading limits and requests.

use crate::problem::Code;
use crate::quantity::Quantity;
use crate::reader::Item;
use crate::schema;

/// Limits and requests of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// What it may use at most.
    pub limits: Amounts,
    /// What it asks for.
    pub requests: Amounts,
}

/// An amount of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

/// Below this a container's first process does not come up.
const MIN_MEMORY: u64 = 1 << 20;

pub fn read(item: &Item<'_>) -> Resources {
    let Some(fields) = item.object(&schema::RESOURCES) else {
        return Resources::default();
    };
    let limits = fields.get("limits").map(|item| read_amounts(&item, true));
    let requests = fields
        .get("requests")
        .map(|item| read_amounts(&item, false));
    let (limits, limit_items) = limits.unwrap_or_default();
    let (requests, request_items) = requests.unwrap_or_default();
    for (what, limit, request, item) in [
        (
            "cpu",
            limits.cpu_millis,
            requests.cpu_millis,
            request_items.0,
        ),
        ("memory", limits.memory, requests.memory, request_items.1),
    ] {
        if let (Some(limit), Some(request), Some(item)) = (limit, request, item)
            && request > limit
        {
            item.error(Code::Conflict, format!("is more than the limit of {what}"));
        }
    }
    if let (Some(memory), Some(item)) = (limits.memory, limit_items.1)
        && memory < MIN_MEMORY
    {
        item.bad(format!(
            "is {memory} bytes, in which nothing runs: is a suffix such as Mi missing?"
        ));
    }
    Resources { limits, requests }
}

type Items<'a> = (Option<Item<'a>>, Option<Item<'a>>);

fn read_amounts<'a>(item: &Item<'a>, are_limits: bool) -> (Amounts, Items<'a>) {
    let mut amounts = Amounts::default();
    let mut items = (None, None);
    for (entry, value) in item.map().unwrap_or_default() {
        match entry.key.as_str() {
            "cpu" => {
                amounts.cpu_millis = value.quantity().and_then(|quantity| cpu(&value, quantity));
                items.0 = Some(value);
            }
            "memory" => {
                amounts.memory = bytes(&value);
                items.1 = Some(value);
            }
            // It is for the scheduler to find a node with it.
            "ephemeral-storage" if !are_limits => {
                value.quantity();
            }
            "ephemeral-storage" => {
                value.unsupported(
                    "is not held: leave it out, and give emptyDir volumes a sizeLimit",
                );
            }
            key if key.starts_with("hugepages-") => {
                value.unsupported(
                    "is not supported: the guest takes huge pages by itself where it can",
                );
            }
            key if key.contains('/') => {
                value.unsupported("is not supported: devices of the host are not passed on");
            }
            _ => value.error(
                Code::UnknownField,
                "is no resource; there are cpu and memory",
            ),
        }
    }
    // As in Kubernetes, a limit of nothing is none.
    let some = |amount: Option<u64>| amount.filter(|amount| *amount > 0);
    let amounts = Amounts {
        cpu_millis: some(amounts.cpu_millis),
        memory: some(amounts.memory),
    };
    (amounts, items)
}

fn cpu(item: &Item<'_>, quantity: Quantity) -> Option<u64> {
    let millis = quantity.as_millis();
    if millis.is_none() {
        item.bad(format!(
            "is {quantity} CPUs, and CPUs are counted in thousandths: write a multiple of 1m"
        ));
    }
    millis
}

/// A whole number of bytes.
pub fn bytes(item: &Item<'_>) -> Option<u64> {
    let quantity = item.quantity()?;
    let bytes = quantity.as_whole();
    if bytes.is_none() {
        item.bad(format!("is {quantity} bytes, and bytes are counted as a whole: m means thousandths, write M or Mi"));
    }
    bytes
}
