//! Ports: those that a pod publishes, and those that are forwarded to it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Bench, file, slowness};
use crate::images::{Images, curl};
use crate::pods::{Pod, detached, podvmm_does, verb};
use crate::rootfs::TempDir;

/// On port 80 a web server, on port 81 one that sends back what it is sent.
const SERVERS: &str = "mkdir /tmp/www; echo served by $(hostname) > /tmp/www/index.html
    httpd -p 80 -h /tmp/www; nc -ll -p 81 -e cat & echo serving; wait";

/// What goes there and back: more than is on the way at any time.
fn bulk(seed: u8) -> Vec<u8> {
    let bytes = (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8);
    bytes.map(|byte| byte ^ seed).collect()
}

/// Several connections at once to a server that sends back.
fn echo_at_once(port: u16) {
    let dialers: Vec<_> = (0..4)
        .map(|seed| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let mut sending = stream.try_clone().unwrap();
                let sender = thread::spawn(move || {
                    sending.write_all(&bulk(seed)).unwrap();
                    sending.shutdown(Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                stream.read_to_end(&mut back).unwrap();
                sender.join().unwrap();
                assert!(back == bulk(seed), "{} bytes came back", back.len());
            })
        })
        .collect();
    for dialer in dialers {
        dialer.join().unwrap();
    }
}

/// How a connection ends where nobody listens in the pod: it was taken, and is broken.
fn expect_reset(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn published_ports_lead_to_a_pod_without_a_network() {
    let _bench = Bench::new();
    let options = [
        "--publish=127.0.0.1:18080:80",
        "--publish=18081:81",
        "-p",
        "127.0.0.1::82",
    ];
    let pod = Pod::start("e2e-publish", &options, SERVERS);
    pod.wait_for_log("serving");
    assert_eq!(
        curl(&["http://127.0.0.1:18080/"]),
        "served by e2e-publish\n"
    );
    echo_at_once(18081);
    assert!(TcpStream::connect("[::1]:18080").is_err());
    assert!(TcpStream::connect("[::1]:18081").is_ok());
    let record = pod.record();
    let ports = &record["record"]["ports"];
    assert_eq!(ports[0], json!({ "host": "127.0.0.1:18080", "pod": 80 }));
    let found = ports[2]["host"].as_str().unwrap();
    let (_, found) = found.rsplit_once(':').unwrap();
    expect_reset(found.parse().unwrap());
    let listed = podvmm_does(&["ps"]).status(0).text();
    let shown = format!("127.0.0.1:18080->80, 18081->81, 127.0.0.1:{found}->82");
    assert!(listed.contains(&shown), "{listed}");

    // Two cannot have the same, and that is told before there is a VM.
    detached("e2e-second", &["-p", "18081:80"], "true")
        .outcome()
        .refused(&["18081", "taken", "choose another"]);
    assert_eq!(
        podvmm_does(&["ps", "-aq"]).status(0).text(),
        "e2e-publish\n"
    );
    podvmm_does(&["rm", "-f", "e2e-publish"]).status(0);
    for port in [18080, 18081] {
        TcpListener::bind(("127.0.0.1", port)).expect("it is free again");
    }
}

#[test]
fn ports_that_cannot_be_published() {
    let bench = Bench::new();
    let refused = |publish: &str, words: &[&str]| {
        let option = format!("--publish={publish}");
        bench.sh_with([option], "true").outcome().refused(words);
    };
    refused("8080:80/udp", &["--publish", "udp", "--net cni"]);
    refused("192.0.2.1:8080:80", &["192.0.2.1:8080", "no such address"]);
    refused("localhost:8080:80", &["--publish", "localhost"]);
}

#[test]
fn forwarded_ports_lead_to_the_pod_until_ctrl_c() {
    let _bench = Bench::new();
    let pod = Pod::start("e2e-forward", &[], SERVERS);
    pod.wait_for_log("serving");
    let mut forward = verb(&["port-forward", "pod/e2e-forward", "18090:80", ":81", ":82"])
        .within(30)
        .start();
    forward.wait_for(" -> 82\n");
    let said = forward.written();
    let ports: Vec<u16> = said
        .lines()
        .map(|line| {
            let address = line.strip_prefix("Forwarding from 127.0.0.1:").unwrap();
            let (port, _) = address.split_once(" -> ").unwrap();
            port.parse().unwrap()
        })
        .collect();
    assert_eq!(ports[0], 18090, "{said}");
    assert_eq!(
        curl(&["http://127.0.0.1:18090/"]),
        "served by e2e-forward\n"
    );
    echo_at_once(ports[1]);
    // A port where nobody listens is told, and does not end it.
    expect_reset(ports[2]);
    assert_eq!(
        curl(&["http://127.0.0.1:18090/"]),
        "served by e2e-forward\n"
    );
    podvmm_does(&["port-forward", "e2e-forward", "18090:80"])
        .refused(&["127.0.0.1:18090", "taken"]);
    forward.signal(Signal::INT);
    let outcome = forward.wait().status(0);
    let refusal = "podvmm: port 82 of the pod: ";
    assert!(
        outcome.stderr.starts_with(refusal) && outcome.stderr.contains("refused"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.text().contains("Handling connection for 18090\n"));

    // It ends with its pod, too.
    let mut forward = verb(&["port-forward", "e2e-forward", "18090:80"]).start();
    forward.wait_for(" -> 80\n");
    podvmm_does(&["stop", "-t", "0", "e2e-forward"]).status(0);
    let outcome = forward.wait().status(125);
    assert!(outcome.stderr.contains("e2e-forward has ended"));
    podvmm_does(&["port-forward", "e2e-forward", "80"]).failed(125, &["e2e-forward", "stopped"]);
}

/// Debian's registry, with a store of its own; ends with its owner.
struct Registry {
    child: Child,
    _dir: TempDir,
}

const REGISTRY: &str = "127.0.0.1:5000";

impl Registry {
    fn start() -> Self {
        let dir = TempDir::new();
        let config = format!(
            "version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {}}}}}
http: {{addr: '{REGISTRY}'}}
",
            dir.join("registry").display()
        );
        let config = file(dir.path(), "config.yml", config.as_bytes());
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is there: apt-get install docker-registry");
        let registry = Self { child, _dir: dir };
        let until = Instant::now() + Duration::from_secs(10) * slowness();
        while TcpStream::connect(REGISTRY).is_err() {
            assert!(Instant::now() < until, "the registry does not listen");
            thread::sleep(Duration::from_millis(100));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_web_server_from_a_registry_is_reached_with_curl() {
    let bench = Bench::new();
    let images = Images::new(json!({
        "Entrypoint": ["httpd", "-f", "-p", "80"], "Env": ["PATH=/bin"], "WorkingDir": "/srv",
        "ExposedPorts": { "80/tcp": {} },
    }));
    let registry = Registry::start();
    images.push(REGISTRY, "web", "1");
    let name = format!("{REGISTRY}/web:1");
    images.verb(&["pull", "--quiet", &name]).status(0);
    drop(registry);
    let store = images.store();
    let store = store.to_str().expect("it is text");
    let pod = Pod("e2e-web".to_owned());
    let mut run = bench.run(["-d", "--name", "e2e-web", "--publish", "127.0.0.1:8080:80"]);
    run.command
        .args(["--mem", "256M", "--store", store, "--image", &name]);
    run.outcome().prints("e2e-web\n");
    // The server may still be on its way to listen.
    let retry = ["--retry", "20", "--retry-all-errors", "--retry-delay", "1"];
    let page = curl(&[&retry[..], &["http://127.0.0.1:8080/seed"]].concat());
    assert_eq!(page, "came with the image\n");
    drop(pod);

    // The same by a manifest.
    let dir = TempDir::new();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-web}}
spec:
  runtimeClassName: podvmm
  containers:
  - name: web
    image: '{name}'
    ports: [{{containerPort: 80, hostPort: 8081, hostIP: 127.0.0.1}}]
"
    );
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let with = |manifest: &std::path::Path| {
        let mut run = bench.run(["--store", store, "--base-mem", "256M", "-f"]);
        run.command.arg(manifest);
        run.outcome()
    };
    let pod = Pod("e2e-web".to_owned());
    with(&path).prints("e2e-web\n");
    let page = curl(&[&retry[..], &["http://127.0.0.1:8081/seed"]].concat());
    assert_eq!(page, "came with the image\n");
    drop(pod);
    let udp = manifest.replace("hostPort", "protocol: UDP, hostPort");
    fs::write(&path, udp).unwrap();
    with(&path).failed(125, &["container web", "hostPort 8081", "UDP"]);
}
