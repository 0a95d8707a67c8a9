//! The methods of service Agent about what containers and the guest have and use.

use agent_protocol::proto::{StatsRequest, StatsResponse};

use super::service::Reply;
use crate::server::Agent;
use crate::stats;

pub(super) fn stats(agent: &mut Agent, request: &StatsRequest) -> Reply<StatsResponse> {
    let id = request.container_id.as_str();
    let containers = if id.is_empty() {
        let all = agent.containers.visible();
        all.map(|(id, container)| stats::container(id.as_str(), container.cgroup()))
            .collect()
    } else {
        vec![stats::container(id, agent.containers.get(id)?.cgroup())]
    };
    Ok(Some(stats::response(containers)))
}
