//! Disks of a pod's containers: opened before the VM is started, given to the guest when it is there.

use serde_json::Value;

use super::plan::{PlanError, PodPlan};
use crate::block::BlockVolume;
use crate::pod::{Pod, PodError};

/// The disks of a plan's containers, in their order.
pub(super) struct Blocks(Vec<Vec<(String, BlockVolume)>>);

impl Blocks {
    /// Opens them.
    pub fn open(plan: &PodPlan) -> Result<Self, PlanError> {
        let mut all = Vec::new();
        for container in &plan.containers {
            let mut blocks = Vec::new();
            for block in &container.blocks {
                let volume = BlockVolume::open("--device", &block.source, block.read_only)?;
                blocks.push((block.path.clone(), volume));
            }
            all.push(blocks);
        }
        Ok(Self(all))
    }

    /// Gives them to the guest, which has them until its end. Gives the nodes of each container.
    pub fn give(self, pod: &Pod) -> Result<Vec<Vec<Value>>, PodError> {
        let give = |(path, volume): (String, BlockVolume)| {
            let block = pod.add_block(&volume)?;
            Ok(volume.node(&path, &block))
        };
        let of_container = |blocks: Vec<_>| blocks.into_iter().map(give).collect();
        self.0.into_iter().map(of_container).collect()
    }
}
