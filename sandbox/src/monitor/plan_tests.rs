use super::*;

fn plan(names: &[&str]) -> PodPlan {
    let mut plan = PodPlan::new("web");
    plan.rootfs("rootfs", Path::new("/"), Changes::Guest);
    for name in names {
        let mut config = ContainerConfig::command(["true"]);
        config.id = (*name).to_owned();
        plan.containers.push(ContainerPlan::new(&config));
    }
    plan
}

fn block(source: &str) -> BlockPlan {
    BlockPlan {
        source: source.into(),
        path: "/dev/xvda".into(),
        read_only: false,
    }
}

#[test]
fn a_plan_is_the_same_when_it_was_written_down() {
    let mut plan = plan(&["a", "b"]);
    plan.containers[1].restart = Restart::OnFailure;
    plan.containers[1].terminal = Some((24, 80));
    plan.containers[1].blocks.push(block("/disk"));
    plan.network = Some(NetworkPlan {
        source: NetworkSource::Netns("/run/netns/x".into()),
        allow_metadata: true,
    });
    let text = serde_json::to_vec(&plan).unwrap();
    let read: PodPlan = serde_json::from_slice(&text).unwrap();
    assert_eq!(read, plan);
    assert_eq!(read.containers[0].command(), ["true"]);
}

#[test]
fn what_cannot_be_carried_out_is_refused_by_name() {
    let word = |plan: &PodPlan| plan.check().unwrap_err().to_string();
    plan(&["a", "b"]).check().unwrap();
    assert!(word(&plan(&[])).contains("no container"));
    assert!(word(&plan(&["a", "a"])).contains("two of this name"));
    for name in ["", "../x", "a/b", ".a", "a b"] {
        assert!(word(&plan(&[name])).contains("name"), "{name}");
    }
    let many: Vec<_> = (0..65).map(|n| format!("c{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert!(word(&plan(&many)).contains("65"));
    let mut nowhere = plan(&["a"]);
    nowhere.shares.clear();
    assert!(word(&nowhere).contains("rootfs"));
    let mut disks = plan(&["a", "b"]);
    disks.containers[0].blocks = vec![block("/disk"); MAX_BLOCKS];
    disks.check().unwrap();
    disks.containers[1].blocks = vec![block("/disk")];
    assert!(word(&disks).contains("17 block devices"));
    let mut only_init = plan(&["a"]);
    only_init.containers[0].init = true;
    assert!(word(&only_init).contains("no container"));
}

#[test]
fn what_is_named_must_be_there() {
    let mut plan = plan(&["a"]);
    plan.shares[0].path = "/no-such-dir".into();
    let error = plan.open().unwrap_err().to_string();
    assert!(
        error.contains("--rootfs /no-such-dir: does not exist"),
        "{error}"
    );
}

#[test]
fn disks_join_the_devices_that_a_container_has() {
    let mut plan = plan(&["a"]);
    let container = &mut plan.containers[0];
    let node = |path: &str| serde_json::json!({ "path": path });
    container.add_devices(&[]);
    assert_eq!(container.spec["linux"].get("devices"), None);
    for path in ["/dev/a", "/dev/b"] {
        container.add_devices(&[node(path)]);
    }
    let both = serde_json::json!([node("/dev/a"), node("/dev/b")]);
    assert_eq!(container.spec["linux"]["devices"], both);
}

#[test]
fn a_cgroup_that_is_none_is_refused_by_name() {
    for path in ["/", "/dev/null", "/nowhere"] {
        let mut plan = plan(&["a"]);
        plan.cgroup = Some(path.into());
        let error = plan.open().err().unwrap().to_string();
        assert!(error.contains(&format!("--cgroup {path}: ")), "{error}");
    }
}
