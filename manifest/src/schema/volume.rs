//! Volumes.

use super::{Object, no, note, yes};

const REMOTE: &str = "mount it on this machine and use a hostPath";

pub(crate) static VOLUME: Object = Object {
    name: "Volume",
    fields: &[
        yes("name"),
        yes("emptyDir"),
        yes("hostPath"),
        yes("configMap"),
        yes("secret"),
        yes("downwardAPI"),
        yes("projected"),
        no(
            "persistentVolumeClaim",
            "use a hostPath, or an emptyDir for what may be lost",
        ),
        no("ephemeral", "use an emptyDir"),
        no("awsElasticBlockStore", REMOTE),
        no("azureDisk", REMOTE),
        no("azureFile", REMOTE),
        no("cephfs", REMOTE),
        no("cinder", REMOTE),
        no("csi", REMOTE),
        no("fc", REMOTE),
        no("flexVolume", REMOTE),
        no("flocker", REMOTE),
        no("gcePersistentDisk", REMOTE),
        no("gitRepo", "clone it in an init container into an emptyDir"),
        no("glusterfs", REMOTE),
        no("image", "copy it in an init container into an emptyDir"),
        no("iscsi", REMOTE),
        no("nfs", REMOTE),
        no("photonPersistentDisk", REMOTE),
        no("portworxVolume", REMOTE),
        no("quobyte", REMOTE),
        no("rbd", REMOTE),
        no("scaleIO", REMOTE),
        no("storageos", REMOTE),
        no("vsphereVolume", REMOTE),
    ],
};

pub(crate) static EMPTY_DIR: Object = Object {
    name: "EmptyDirVolumeSource",
    fields: &[
        note("medium", "empty, or `Memory`: the guest's own"),
        note(
            "sizeLimit",
            "with `Memory` there is no more room; otherwise the pod is evicted",
        ),
    ],
};

pub(crate) static HOST_PATH: Object = Object {
    name: "HostPathVolumeSource",
    fields: &[
        yes("path"),
        note(
            "type",
            "empty, `Directory`, `DirectoryOrCreate`, `File`, `FileOrCreate`; sockets and devices cannot be shared",
        ),
    ],
};

pub(crate) static CONFIG_MAP_VOLUME: Object = Object {
    name: "ConfigMapVolumeSource",
    fields: &[
        yes("name"),
        yes("items"),
        yes("defaultMode"),
        yes("optional"),
    ],
};

pub(crate) static SECRET_VOLUME: Object = Object {
    name: "SecretVolumeSource",
    fields: &[
        yes("secretName"),
        yes("items"),
        yes("defaultMode"),
        yes("optional"),
    ],
};

pub(crate) static CONFIG_MAP_PROJECTION: Object = Object {
    name: "ConfigMapProjection, SecretProjection",
    fields: &[yes("name"), yes("items"), yes("optional")],
};

pub(crate) static KEY_TO_PATH: Object = Object {
    name: "KeyToPath",
    fields: &[yes("key"), yes("path"), yes("mode")],
};

pub(crate) static DOWNWARD_API: Object = Object {
    name: "DownwardAPIVolumeSource, DownwardAPIProjection",
    fields: &[
        yes("items"),
        note("defaultMode", "not in projected volumes"),
    ],
};

pub(crate) static DOWNWARD_FILE: Object = Object {
    name: "DownwardAPIVolumeFile",
    fields: &[
        yes("path"),
        yes("fieldRef"),
        yes("resourceFieldRef"),
        yes("mode"),
    ],
};

pub(crate) static PROJECTED: Object = Object {
    name: "ProjectedVolumeSource",
    fields: &[yes("sources"), yes("defaultMode")],
};

pub(crate) static PROJECTION: Object = Object {
    name: "VolumeProjection",
    fields: &[
        yes("configMap"),
        yes("secret"),
        yes("downwardAPI"),
        no(
            "serviceAccountToken",
            "leave it out: there is no API server that it would be for",
        ),
        no("clusterTrustBundle", "use a configMap"),
        no("podCertificate", "use a secret"),
    ],
};
