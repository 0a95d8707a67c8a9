//! Objects themselves, and what they all have.

use super::Shape::{Bool, Int, List, Object as Obj, Text};
use super::{Field, Object, idle, no, yes};

const OF_A_CLUSTER: &str = "what a cluster notes about its objects";

pub(crate) static POD: Object = Object {
    name: "Pod",
    fields: &[
        yes("apiVersion"),
        yes("kind"),
        yes("metadata"),
        yes("spec"),
        idle("status", Obj, OF_A_CLUSTER),
    ],
};

pub(crate) static METADATA: Object = Object {
    name: "ObjectMeta",
    fields: &[
        yes("name"),
        yes("namespace"),
        yes("labels"),
        yes("annotations"),
        no("generateName", "write metadata.name"),
        idle("uid", Text, "each pod gets one of its own"),
        idle("creationTimestamp", Text, OF_A_CLUSTER),
        idle("deletionGracePeriodSeconds", Int, OF_A_CLUSTER),
        idle("deletionTimestamp", Text, OF_A_CLUSTER),
        idle("finalizers", List, OF_A_CLUSTER),
        idle("generation", Int, OF_A_CLUSTER),
        idle("managedFields", List, OF_A_CLUSTER),
        idle("ownerReferences", List, OF_A_CLUSTER),
        idle("resourceVersion", Text, OF_A_CLUSTER),
        idle("selfLink", Text, OF_A_CLUSTER),
    ],
};

const DATA: [Field; 4] = [
    yes("apiVersion"),
    yes("kind"),
    yes("metadata"),
    idle("immutable", Bool, "nothing changes it here"),
];

pub(crate) static CONFIG_MAP: Object = Object {
    name: "ConfigMap",
    fields: &[
        DATA[0],
        DATA[1],
        DATA[2],
        yes("data"),
        yes("binaryData"),
        DATA[3],
    ],
};

pub(crate) static SECRET: Object = Object {
    name: "Secret",
    fields: &[
        DATA[0],
        DATA[1],
        DATA[2],
        yes("data"),
        yes("stringData"),
        idle("type", Text, "it says what the keys are for"),
        DATA[3],
    ],
};
