//! Capability names.

use rustix::thread::CapabilitySet;

use super::plan::CapabilityPlan;
use super::spec::Capabilities;
use crate::rpc::Refusal;

/// Checks `process.capabilities`. What is not listed is not held: an absent object means none.
pub(super) fn plan(spec: &Capabilities) -> Result<CapabilityPlan, Refusal> {
    let plan = CapabilityPlan {
        bounding: set(&spec.bounding)?,
        effective: set(&spec.effective)?,
        inheritable: set(&spec.inheritable)?,
        permitted: set(&spec.permitted)?,
        ambient: set(&spec.ambient)?,
    };
    if !plan.permitted.contains(plan.effective) {
        return Err(Refusal::invalid(
            "process.capabilities: effective exceeds permitted",
        ));
    }
    if !(plan.permitted & plan.inheritable).contains(plan.ambient) {
        return Err(Refusal::invalid(
            "process.capabilities: ambient exceeds permitted and inheritable",
        ));
    }
    Ok(plan)
}

fn set(names: &[String]) -> Result<CapabilitySet, Refusal> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        let found = name
            .strip_prefix("CAP_")
            .and_then(CapabilitySet::from_name)
            .ok_or_else(|| Refusal::invalid(format!("process.capabilities: {name:?}")))?;
        Ok(set | found)
    })
}
