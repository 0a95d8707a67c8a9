//! The pod's network namespace, where it has one of its own.

use super::MonitorError;
use super::shared::Shared;
use crate::logging::one_line;
use crate::monitor::plan::NetworkSource;
use crate::net::cni;
use crate::net::resolvers::Resolvers;
use crate::net::{Netns, Network};

/// Makes it, if the plan asks for one. Tells whom it asks for names, if plugins have said that.
pub(super) fn attach(
    shared: &Shared,
) -> Result<Option<(Network, Option<Resolvers>)>, MonitorError> {
    let Some(plan) = &shared.plan.network else {
        return Ok(None);
    };
    let NetworkSource::Cni(source) = &plan.source else {
        return Ok(None);
    };
    // Whoever cleans up after this process has to know what plugins have done.
    shared.dir.keep(true)?;
    let attachment = cni::add(source, &shared.plan.name, shared.dir.path())?;
    shared.change(|state| {
        state.record.netns = Some(attachment.netns().to_owned());
        state.record.addresses = attachment.addresses();
    });
    let netns = Netns::open(attachment.netns()).map_err(crate::PodError::Network)?;
    let mut network = Network::new(netns);
    network.allow_metadata = plan.allow_metadata;
    Ok(Some((network, attachment.resolvers())))
}

/// Takes it back, once nothing of the pod is in it. Tells what could not be, in which case the pod's
/// directory stays.
pub(super) fn detach(shared: &Shared) -> Option<String> {
    match cni::remove(shared.dir.path()) {
        Ok(()) => {
            if shared.lock().record.foreground {
                let _ = shared.dir.keep(false);
            }
            None
        }
        Err(error) => {
            log::warn!("pod {}: {}", shared.plan.name, one_line(&error));
            Some(one_line(&error))
        }
    }
}
