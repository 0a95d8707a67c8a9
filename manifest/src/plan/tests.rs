use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::parse::{Options, parse};

const UNTRUSTED: &str = include_str!("../../../tests/cri/pods/untrusted.yaml");
const TRUSTED: &str = include_str!("../../../tests/cri/pods/trusted.yaml");
const FULL: &str = include_str!("../../tests/good/full.yaml");

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/entry".into(), "$(POD)".into()],
        cmd: vec!["cmd".into()],
        env: vec!["PATH=/bin".into(), "LANG=C".into(), "POD=image".into()],
        user: "web".into(),
        working_dir: "/img".into(),
        stop_signal: Some("SIGQUIT".into()),
    }
}

fn surroundings() -> Surroundings {
    Surroundings {
        uid: "5d4c".into(),
        node_name: "here".into(),
        pod_ip: "10.88.0.5".into(),
        pod_ips: "10.88.0.5,fd00::5".into(),
        host_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        vcpus: 2,
        memory: 2 << 30,
    }
}

fn plan_of(text: &str) -> Plan {
    let manifest = parse(text, &Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let image = image();
    plan(&manifest, |_| Some(&image), &surroundings()).unwrap()
}

/// A pod of one container with these fields.
fn with(container: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: a.b}}, spec: {{containers: [{{name: c, image: i, {container}}}]}}}}"
    )
}

fn error_of(text: &str, image: Option<&ImageConfig>) -> String {
    let manifest = parse(text, &Options::default()).unwrap();
    plan(&manifest, |_| image, &surroundings())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_users_own_examples() {
    for (text, name, sandbox) in [
        (
            UNTRUSTED,
            "untrusted",
            Sandbox::Asked("kata-mshv-vm-isolation".into()),
        ),
        (TRUSTED, "trusted", Sandbox::NotAsked),
    ] {
        let plan = plan_of(text);
        assert_eq!((plan.name.as_str(), &plan.sandbox), (name, &sandbox));
        assert_eq!(
            (plan.hostname.as_str(), plan.namespace.as_str()),
            (name, "default")
        );
        assert_eq!(plan.restart, RestartPolicy::Always);
        assert_eq!(plan.grace, Duration::from_secs(30));
        assert!(plan.volumes.is_empty() && plan.init_containers.is_empty());
        let [container] = &plan.containers[..] else {
            panic!("one container");
        };
        assert_eq!(
            container.image,
            "mcr.azk8s.cn/aks/fundamental/base-ubuntu:v0.0.11"
        );
        assert_eq!(
            container.args,
            ["/bin/sh", "-ec", "while :; do echo '.'; sleep 5 ; done"]
        );
        assert_eq!(container.resources, crate::pod::Resources::default());
        assert_eq!(plan.names, name);
        assert_eq!(plan.hosts, "");
        assert!(plan.dns.of_host);
    }
}

#[test]
fn commands_by_kubernetes_table() {
    for (fields, args) in [
        ("", &["/entry", "$(POD)", "cmd"][..]),
        ("command: [a]", &["a"]),
        ("args: [b]", &["/entry", "$(POD)", "b"]),
        ("command: [a], args: [b]", &["a", "b"]),
        ("command: [], args: []", &["/entry", "$(POD)", "cmd"]),
        // Variables of the manifest are known, those of the image are not.
        (
            "command: [$(A), $(LANG), $$(A)], env: [{name: A, value: x}]",
            &["x", "$(LANG)", "$(A)"],
        ),
    ] {
        assert_eq!(plan_of(&with(fields)).containers[0].args, args, "{fields}");
    }
    let nothing = ImageConfig::default();
    assert_eq!(
        error_of(&with(""), Some(&nothing)),
        "container c: neither it nor its image names a command; write spec.containers[].command"
    );
    assert_eq!(
        error_of(&with(""), None),
        "container c: there is no image i; pull it, or import it under this name"
    );
}

#[test]
fn variables_in_their_order() {
    let plan = plan_of(&with(
        "env: [{name: A, value: $(B)}, {name: B, value: b}, {name: C, value: $(B)$(A)}, {name: B, value: c$(B)}, {name: HOSTNAME, value: h}]",
    ));
    assert_eq!(
        plan.containers[0].env,
        [
            "PATH=/bin",
            "HOSTNAME=h",
            "LANG=C",
            "POD=image",
            "A=$(B)",
            "B=cb",
            "C=b$(B)"
        ]
    );
}

#[test]
fn addresses_are_told() {
    let field = |name: &str, path: &str| {
        format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: status.{path}}}}}}}")
    };
    let plan = plan_of(&with(&format!(
        "args: [$(IP)], env: [{}, {}, {}, {}, {{name: ALL, value: $(IPS)+$(HOST)}}]",
        field("IP", "podIP"),
        field("IPS", "podIPs"),
        field("HOST", "hostIP"),
        field("HOSTS", "hostIPs"),
    )));
    let container = &plan.containers[0];
    assert_eq!(container.args, ["/entry", "$(POD)", "10.88.0.5"]);
    for variable in [
        "IP=10.88.0.5",
        "IPS=10.88.0.5,fd00::5",
        "HOST=192.0.2.1",
        "HOSTS=192.0.2.1,2001:db8::1",
        "ALL=10.88.0.5,fd00::5+192.0.2.1",
    ] {
        let env = &container.env;
        assert!(env.iter().any(|own| own == variable), "{variable}: {env:?}");
    }
}

#[test]
fn values_that_grow_are_stopped() {
    let mut fields = format!("env: [{{name: A0, value: {}}}", "x".repeat(1000));
    for index in 0..20 {
        fields += &format!(", {{name: A{}, value: $(A{index})$(A{index})}}", index + 1);
    }
    assert_eq!(
        error_of(&with(&(fields + "]")), Some(&image())),
        "container c: variable A8"
    );
    let many = "{name: A, value: x}, ".replace('x', &"x".repeat(1000));
    let fields = format!("env: [{many}], args: [{}]", "$(A),".repeat(3000));
    assert_eq!(
        error_of(&with(&fields), Some(&image())),
        "container c: arguments and variables have more than 2097152 bytes together, which the kernel does not take"
    );
}

#[test]
fn the_full_manifest() {
    let plan = plan_of(FULL);
    assert_eq!(plan.init_containers[0].args[2], "cp /conf/web.conf /work/");
    let web = &plan.containers[0];
    assert_eq!(web.args, ["/bin/web", "--name=full", "hello", "$(literal)"]);
    let env: BTreeMap<_, _> = web.env.iter().filter_map(|v| v.split_once('=')).collect();
    for (name, value) in [
        ("APP", "web"),
        ("IP", "10.88.0.5"),
        ("MEMORY", "512"),
        ("TOKEN", "secret"),
        ("KEY_user", "root"),
        ("blob", "hello"),
        ("POD", "full"),
        ("LANG", "C"),
        ("HOSTNAME", "web"),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name}");
    }
    assert_eq!(web.user.uid, Some(1001));
    assert_eq!(web.user.groups, [2000, 2001, 3000]);
    assert_eq!(web.capabilities, ["CAP_NET_ADMIN"]);
    assert!(web.no_new_privileges && web.read_only_root && web.masked_proc && !web.seccomp);
    assert!(plan.init_containers[0].seccomp);
    assert_eq!(plan.hostname, "web");
    assert_eq!(plan.names, "web.site.shop.svc.cluster.local\tweb");
    assert_eq!(plan.hosts, "10.0.0.9\tdb\tdb.internal\n");
    let servers = ["10.0.0.53", "fd00::53"].map(|ip| ip.parse().unwrap());
    assert_eq!(
        plan.dns,
        Dns {
            of_host: false,
            nameservers: servers.to_vec(),
            searches: vec!["internal".into(), "example.com.".into()],
            options: vec![("ndots".into(), Some("2".into())), ("edns0".into(), None)],
        }
    );
    let paths: Vec<_> = web.mounts.iter().map(|mount| mount.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/work",
            "/host",
            "/keys",
            "/info",
            "/all",
            "/dev/shm",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/work/last",
            "/work/deep/data",
        ]
    );
    let deep = web.mounts.last().unwrap();
    assert_eq!(
        deep.source,
        MountSource::Volume {
            name: "work".into(),
            sub_path: "data/full".into()
        }
    );
}

#[test]
fn volumes_as_data() {
    let plan = plan_of(FULL);
    let volume = |name: &str| {
        plan.volumes
            .iter()
            .find(|volume| volume.name == name)
            .unwrap()
    };
    assert_eq!(volume("work").content, Content::Directory { limit: None });
    assert_eq!(volume("work").group, Some(3000));
    assert_eq!(
        volume("shm").content,
        Content::Memory {
            size: Some(64 << 20)
        }
    );
    assert_eq!(volume("host").group, None);
    let files = |name: &str| match &volume(name).content {
        Content::Files(files) => files
            .iter()
            .map(|file| {
                (
                    file.path.as_str(),
                    file.mode,
                    String::from_utf8_lossy(&file.data),
                )
            })
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(files("conf"), [("web.conf", 0o400, "listen 80\n".into())]);
    assert_eq!(files("keys"), [("t", 0o400, "secret".into())]);
    assert_eq!(
        files("info"),
        [
            ("cpus", 0o400, "2".into()),
            (
                "labels",
                0o444,
                "app=\"web\"\nexample.com/tier=\"front\"".into()
            ),
        ]
    );
    let all: Vec<_> = files("all").into_iter().map(|(path, ..)| path).collect();
    assert_eq!(all, ["conf/web", "name", "token", "user"]);
}

#[test]
fn resources_that_are_not_set_are_the_vms() {
    let env =
        |what: &str| format!("{{name: A, valueFrom: {{resourceFieldRef: {{resource: {what}}}}}}}");
    for (resources, what, value) in [
        ("{}", "limits.cpu", "2"),
        ("{}", "limits.memory", "2147483648"),
        ("{}", "requests.cpu", "0"),
        ("{limits: {cpu: 500m}}", "limits.cpu", "1"),
        ("{limits: {cpu: 500m}}", "requests.cpu", "1"),
        ("{limits: {cpu: 500m}}", "limits.cpu, divisor: 1m", "500"),
        (
            "{limits: {memory: 1.5Gi}}",
            "limits.memory, divisor: 1Gi",
            "2",
        ),
    ] {
        let plan = plan_of(&with(&format!(
            "env: [{}], resources: {resources}",
            env(what)
        )));
        let found = plan.containers[0]
            .env
            .iter()
            .find(|variable| variable.starts_with("A="));
        assert_eq!(found, Some(&format!("A={value}")), "{resources} {what}");
    }
}

#[test]
fn sub_paths_stay_in_the_volume() {
    for (value, reason) in [
        (
            "../x",
            "comes out as \"../x\", which leads out of the volume",
        ),
        (
            "/etc",
            "comes out as \"/etc\", which leads out of the volume",
        ),
    ] {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{volumes: [{{name: v}}], containers: [{{name: c, image: i, env: [{{name: A, value: {value}}}], volumeMounts: [{{name: v, mountPath: /v, subPathExpr: $(A)}}]}}]}}}}"
        );
        assert_eq!(
            error_of(&text, Some(&image())),
            format!("container c: subPathExpr $(A): {reason}")
        );
    }
}

#[test]
fn parts_of_an_oci_configuration() {
    let plan = plan_of(FULL);
    let web = &plan.containers[0];
    let passwd = "app:x:1001:50::/home/app:/bin/sh\n";
    let ids = web.user.resolve(passwd, "").unwrap();
    let process = oci::process(web, &ids);
    assert_eq!(
        process["user"],
        json!({ "uid": 1001, "gid": 1001, "additionalGids": [2000, 2001, 3000] })
    );
    assert_eq!(process["cwd"], "/srv");
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(
        process["capabilities"]["bounding"],
        json!(["CAP_NET_ADMIN"])
    );
    assert_eq!(process["capabilities"]["effective"], json!([]));
    let env = process["env"].as_array().unwrap();
    assert!(env.contains(&json!("HOME=/home/app")) && env.contains(&json!("TERM=xterm")));
    assert_eq!(
        oci::resources(web),
        json!({
            "cpu": { "shares": 512, "quota": 150_000, "period": 100_000 },
            "memory": { "limit": 512 << 20 },
        })
    );
    assert_eq!(
        oci::resources(&plan.init_containers[0]),
        json!({ "cpu": { "shares": 2 } })
    );
    let mounts = oci::mounts(web, |mount| format!("/share{}", mount.path));
    assert_eq!(
        mounts[1],
        json!({ "destination": "/host", "type": "bind", "source": "/share/host",
            "options": ["rbind", "ro", "X-mount.subdir=lib"] })
    );
    assert_eq!(oci::seccomp(web), None);
    let profile = oci::seccomp(&plan.init_containers[0]).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
    let refused = profile["syscalls"][0]["names"].as_array().unwrap();
    assert!(refused.contains(&json!("mount")) && refused.contains(&json!("bpf")));
    assert_eq!(
        oci::namespaces(true)[0],
        json!({ "type": "pid", "path": "pod" })
    );
}

#[test]
fn capabilities_by_name() {
    for (fields, expected) in [
        ("drop: [ALL]", &[][..]),
        (
            "drop: [ALL], add: [chown, CAP_KILL]",
            &["CAP_CHOWN", "CAP_KILL"],
        ),
    ] {
        let plan = plan_of(&with(&format!(
            "securityContext: {{capabilities: {{{fields}}}}}"
        )));
        assert_eq!(plan.containers[0].capabilities, expected, "{fields}");
    }
    let count = |fields: &str| {
        let plan = plan_of(&with(&format!(
            "securityContext: {{capabilities: {{{fields}}}}}"
        )));
        plan.containers[0].capabilities.len()
    };
    assert_eq!(count(""), 14);
    assert_eq!(count("add: [ALL]"), 41);
    assert_eq!(count("add: [ALL], drop: [SYS_ADMIN]"), 40);
}

#[test]
fn a_pods_name_is_cut_to_a_host_name() {
    assert_eq!(hostname_of("a.b"), "a.b");
    let long = format!("{}-{}", "a".repeat(62), "b".repeat(30));
    assert_eq!(hostname_of(&long), "a".repeat(62));
}
