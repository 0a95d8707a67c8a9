//! Pods with a network namespace of their own, made by CNI's plugins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Bench, file, podvmm};
use crate::manifests::{self, IMAGE, images};
use crate::pods::{Pod, podvmm_does};
use crate::rootfs::{self, TempDir};

/// A server that shows where it is.
const SERVER: &str = "mkdir /tmp/www; hostname > /tmp/www/index.html; httpd -p 80 -h /tmp/www
    echo serving; while :; do sleep 1; done";

/// A directory without configurations, and the options that make pods use it.
struct Conf(TempDir);

impl Conf {
    fn none() -> Self {
        Self(TempDir::new())
    }

    /// A bridge, with room for so many pods.
    fn bridge(name: &str, pods: u8) -> Self {
        let conf = Self::none();
        let last = 1 + pods;
        let list = format!(
            r#"{{ "cniVersion": "1.0.0", "name": "{name}", "plugins": [{{
                "type": "bridge", "bridge": "{name}", "isGateway": true, "mtu": 1400,
                "dns": {{ "nameservers": ["198.51.100.53"], "search": ["pods.example"] }},
                "ipam": {{ "type": "host-local", "dataDir": "{}", "ranges": [[{{
                    "subnet": "198.51.100.0/24", "rangeStart": "198.51.100.2",
                    "rangeEnd": "198.51.100.{last}" }}]] }} }}] }}"#,
            conf.0.join("leases").display()
        );
        file(conf.0.path(), "10-bridge.conflist", list.as_bytes());
        conf
    }

    fn options(&self) -> [String; 2] {
        let dir = self.0.path().display();
        ["--net=cni".into(), format!("--cni-conf-dir={dir}")]
    }

    fn start(&self, name: &str) -> (Pod, String) {
        let options = self.options();
        let pod = Pod::start(name, &[&options[0], &options[1]], SERVER);
        pod.wait_for_log("serving");
        let record = pod.record();
        let address = record["record"]["addresses"][0].as_str();
        let address = address.unwrap_or_else(|| panic!("no address: {record:#}"));
        let address = address.to_owned();
        (pod, address)
    }

    /// Addresses that pods have.
    fn leases(&self) -> usize {
        let files = fs::read_dir(self.0.join("leases")).into_iter().flatten();
        let networks = files
            .flatten()
            .flat_map(|network| fs::read_dir(network.path()));
        let leases = networks.flatten().flatten();
        leases
            .filter(|lease| lease.file_name().as_encoded_bytes()[0].is_ascii_digit())
            .count()
    }
}

/// What plugins never take away, as it is for all pods of the network.
struct Bridge(&'static str);

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", self.0]).status();
    }
}

fn fetch(url: &str) -> String {
    let output = Command::new("busybox")
        .args(["timeout", "60", "wget", "-q", "-O", "-", url])
        .output()
        .expect("busybox is there");
    assert!(output.status.success(), "{url}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A web server of the host; ends with its owner.
struct Outside(Child);

impl Outside {
    fn serve(dir: &Path, port: &str) -> Self {
        let child = Command::new("busybox")
            .args(["httpd", "-f", "-p", port, "-h"])
            .arg(dir)
            .stdin(Stdio::null())
            .spawn();
        Self(child.expect("busybox is there"))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Rules of the host's firewall that are about pods.
fn rules() -> String {
    let output = Command::new("iptables-save")
        .output()
        .expect("it is there: apt-get install iptables");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // What the plugin `firewall` has made once stays: chains that are empty.
    let lines = text.lines();
    let lines = lines.filter(|line| line.contains("10.223.") || line.contains("podvmm"));
    lines.map(|line| format!("{line}\n")).collect()
}

fn namespaces() -> Vec<PathBuf> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.display().to_string().contains("podvmm-"))
        .collect()
}

#[test]
fn without_a_configuration_pods_are_routed_and_translated() {
    let _bench = Bench::new();
    let conf = Conf::none();
    let (pod, address) = conf.start("e2e-cni");
    assert!(address.starts_with("10.223."), "{address}");
    assert_eq!(fetch(&format!("http://{address}/")), "e2e-cni\n");
    let www = TempDir::new();
    file(www.path(), "index.html", b"from the host\n");
    let _outside = Outside::serve(www.path(), "18099");
    let script = "ip route get 192.0.2.1 | head -n 1 | grep -o 'via [0-9.]*'
        wget -q -O - http://$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'):18099/";
    let said = podvmm_does(&["exec", "e2e-cni", "--", "sh", "-c", script]).status(0);
    assert!(said.text().ends_with("from the host\n"), "{}", said.text());
    // Names are asked of whom the host asks, but not of the host itself.
    let script = "! grep '^nameserver 127' /etc/resolv.conf && grep -c e2e-cni /etc/hosts";
    podvmm_does(&["exec", "e2e-cni", "sh", "-c", script]).prints("1\n");
    assert!(rules().contains("MASQUERADE"), "{}", rules());
    assert_eq!(namespaces().len(), 1);
    drop(pod);
    assert_eq!(rules(), "");
    assert_eq!(namespaces(), Vec::<PathBuf>::new());
}

#[test]
fn pods_of_a_configured_network_reach_each_other() {
    let _bench = Bench::new();
    let _bridge = Bridge("e2e-br");
    let conf = Conf::bridge("e2e-br", 2);
    let (first, address) = conf.start("e2e-one");
    assert_eq!(fetch(&format!("http://{address}/")), "e2e-one\n");
    let (_second, other) = conf.start("e2e-two");
    assert_ne!(address, other);
    let url = format!("http://{address}/");
    podvmm_does(&["exec", "e2e-two", "wget", "-q", "-O", "-", &url]).prints("e2e-one\n");
    // The network's resolver, not the host's.
    let resolvers = "search pods.example\nnameserver 198.51.100.53\n";
    podvmm_does(&["exec", "e2e-two", "cat", "/etc/resolv.conf"]).prints(resolvers);
    let script = "cat /etc/hostname; tail -n 1 /etc/hosts";
    podvmm_does(&["exec", "e2e-two", "sh", "-c", script])
        .prints(&format!("e2e-two\n{other}\te2e-two\n"));
    assert_eq!(conf.leases(), 2);
    // There is no room for a third, and what it had begun is taken back.
    let options = conf.options();
    crate::pods::detached("e2e-three", &[&options[0], &options[1]], "true")
        .outcome()
        .failed(125, &["bridge", "ADD", "no IP addresses", "larger subnet"]);
    assert_eq!((conf.leases(), namespaces().len()), (2, 2));
    drop(first);
    assert_eq!((conf.leases(), namespaces().len()), (1, 1));
}

#[test]
fn a_pod_of_a_manifest_is_told_its_addresses() {
    let bench = Bench::new();
    let images = images();
    let conf = Conf::none();
    let dir = TempDir::new();
    let field = |name: &str, path: &str| {
        format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: status.{path}}}}}}}")
    };
    let (ip, ips, host) = (
        field("IP", "podIP"),
        field("IPS", "podIPs"),
        field("HOST", "hostIP"),
    );
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-told}}
spec:
  runtimeClassName: podvmm
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: '{IMAGE}'
    command: [sh, -c, 'echo $0 $URL $IPS; ip -o -4 addr show dev eth0 | grep -c \"$IP/\"; echo on $HOST; sleep 1000', $(IP)]
    env: [{ip}, {ips}, {host}, {{name: URL, value: http://$(IP):80/}}]
"
    );
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let pod = Pod("e2e-told".to_owned());
    let [net, conf_dir] = conf.options();
    manifests::run(&bench, &images, &path, &[&net, &conf_dir]).prints("e2e-told\n");
    pod.wait_for_log("on ");
    let record = pod.record();
    let own = record["record"]["addresses"][0].as_str();
    let own = own.unwrap_or_else(|| panic!("no address: {record:#}"));
    let said = podvmm_does(&["logs", "e2e-told"]).status(0).text();
    let told = format!("{own} http://{own}:80/ {own}\n1\non ");
    let host = said.strip_prefix(&told).unwrap_or_else(|| panic!("{said}"));
    host.trim_end()
        .parse::<std::net::IpAddr>()
        .unwrap_or_else(|error| panic!("{said}: {error}"));
    // Others that run there are told the same, and nothing else is shown.
    podvmm_does(&["exec", "e2e-told", "sh", "-c", "echo $IP"]).prints(&format!("{own}\n"));
    assert_eq!(record["record"]["containers"][0]["command"][3], own);
    assert_eq!(
        record["plan"]["containers"][0]["spec"]["process"]["args"][3],
        own
    );
}

#[test]
fn what_a_killed_monitor_has_left_is_removed_with_the_pod() {
    let bench = Bench::new();
    let _bridge = Bridge("e2e-kill");
    let conf = Conf::bridge("e2e-kill", 2);
    let (pod, _) = conf.start("e2e-left");
    let pid = pod.record()["record"]["monitor"]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    pod.wait_for_status("dead");
    assert_eq!((conf.leases(), namespaces().len()), (1, 1));
    podvmm_does(&["rm", "e2e-left"]).prints("e2e-left\n");
    assert_eq!((conf.leases(), namespaces().len()), (0, 0));

    // One in the foreground, whose plugins are gone when it is to be removed.
    let mut running = bench
        .sh_with(
            [&conf.options()[..], &["--name=e2e-left".into()]].concat(),
            "echo here; sleep 1000",
        )
        .start();
    running.wait_for("here");
    running.signal(Signal::KILL);
    running.wait();
    let pod = Pod("e2e-left".into());
    pod.wait_for_status("dead");
    let state = Path::new("/run/podvmm/e2e-left/network.json");
    let text = fs::read_to_string(state).unwrap();
    fs::write(state, text.replace("/usr/lib/cni", "/usr/lib/gone")).unwrap();
    podvmm_does(&["rm", "e2e-left"])
        .failed(125, &["e2e-left", "bridge", "containernetworking-plugins"]);
    assert_eq!(conf.leases(), 1);
    fs::write(state, text).unwrap();
    podvmm_does(&["rm", "e2e-left"]).prints("e2e-left\n");
    assert_eq!((conf.leases(), namespaces().len()), (0, 0));
}

#[test]
fn networks_that_cannot_be_had() {
    let bench = Bench::new();
    let conf = Conf::bridge("e2e-no", 1);
    let dir = conf.0.path().display().to_string();
    let refused = |options: &[&str], words: &[&str]| {
        let conf = format!("--cni-conf-dir={dir}");
        let options = [&[conf.as_str()], options].concat();
        bench.sh_with(options, "true").outcome().refused(words);
    };
    refused(&["--net=cni="], &["--net", "cni=NAME"]);
    refused(&["--net=cni=other"], &["cni=other", "e2e-no, podvmm"]);
    refused(
        &["--net=cni", "--cni-bin-dir=/usr/lib/gone"],
        &["bridge", "/usr/lib/gone", "apt-get install"],
    );
    file(conf.0.path(), "00-broken.conf", b"{");
    refused(&["--net=cni"], &["00-broken.conf", "JSON"]);

    // Who is not root is told so.
    let own = TempDir::new();
    std::os::unix::fs::chown(own.path(), Some(1234), Some(1234)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=1234", "--regid=1234", "--clear-groups"])
        .arg(podvmm())
        .args(["run", "--net=cni", "--root"])
        .arg(own.join("pods"))
        .arg("--rootfs")
        .arg(rootfs::shared())
        .args(["--", "true"])
        .env("PODVMM_GUEST_DIR", crate::harness::guest_dir());
    crate::harness::Run::new(command)
        .outcome()
        .failed(125, &["--net cni", "run as root"]);
    assert_eq!(namespaces(), Vec::<PathBuf>::new());
}
