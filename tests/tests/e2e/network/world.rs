//! What a CNI plugin makes: a network namespace with an interface, and a bridge outside of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The pod's interface.
pub const MAC: &str = "02:00:5e:00:53:01";
pub const MTU: u32 = 1400;
pub const POD_V4: &str = "192.0.2.7";
pub const POD_V6: &str = "2001:db8::7";
/// The bridge.
pub const OUT_V4: &str = "192.0.2.1";
pub const OUT_V6: &str = "2001:db8::1";

/// Two namespaces, gone when this is dropped. The host's own network is not touched.
pub struct World {
    pod: String,
    out: String,
}

impl World {
    /// A pod's namespace with `eth0` set up, and a bridge behind it.
    pub fn new() -> Self {
        let world = Self::bare();
        let (pod, out) = (world.pod.as_str(), world.out.as_str());
        ip(&format!("-n {out} link add br0 mtu {MTU} type bridge"));
        ip(&format!("-n {out} addr add {OUT_V4}/24 dev br0"));
        ip(&format!("-n {out} addr add {OUT_V6}/64 dev br0 nodad"));
        ip(&format!("-n {out} link set br0 up"));
        world.plug("eth0", MAC);
        ip(&format!("-n {pod} addr add {POD_V4}/24 dev eth0"));
        ip(&format!("-n {pod} addr add {POD_V6}/64 dev eth0 nodad"));
        ip(&format!("-n {pod} route add default via {OUT_V4}"));
        ip(&format!("-n {pod} -6 route add default via {OUT_V6}"));
        world
    }

    /// Both namespaces, with nothing in them.
    pub fn bare() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| format!("e2e-{what}-{}-{count}", std::process::id());
        let world = Self {
            pod: name("pod"),
            out: name("out"),
        };
        ip(&format!("netns add {}", world.pod));
        ip(&format!("netns add {}", world.out));
        ip(&format!("-n {} link set lo up", world.pod));
        world
    }

    /// Gives the pod's namespace an interface whose other end is a port of the bridge.
    pub fn plug(&self, name: &str, mac: &str) {
        let (pod, out) = (self.pod.as_str(), self.out.as_str());
        ip(&format!(
            "-n {pod} link add {name} address {mac} mtu {MTU} type veth \
             peer name {name}-out mtu {MTU} netns {out}"
        ));
        ip(&format!("-n {out} link set {name}-out master br0 up"));
        ip(&format!("-n {pod} link set {name} up"));
    }

    /// A command of `ip` in the pod's namespace.
    pub fn pod_ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.pod))
    }

    /// A command of `ip` outside.
    pub fn out_ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.out))
    }

    /// The option that joins a pod to it.
    pub fn option(&self) -> String {
        format!("--net=netns:{}", self.path().display())
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.pod)
    }

    /// A program of busybox outside.
    pub fn outside(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.out, "busybox"])
            .args(arguments);
        command
    }

    /// Its output, which must be a success.
    pub fn outside_says(&self, arguments: &[&str]) -> String {
        output(self.outside(arguments))
    }

    /// A web server outside that serves `dir`.
    pub fn serve(&self, dir: &Path) -> Server {
        let dir = dir.to_str().expect("a path of ours");
        let mut command = self.outside(&["httpd", "-f", "-p", "80", "-h", dir]);
        let child = command.stdin(Stdio::null()).spawn();
        Server(child.expect("ip is there: apt-get install iproute2"))
    }

    /// Waits until the pod's namespace has nothing on its way, such as a link-local address.
    pub fn settle(&self) {
        let began = Instant::now();
        while !self.pod_ip("addr show tentative").is_empty() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "it never settles"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Everything about interfaces and traffic control in the pod's namespace that a pod could change.
    pub fn state(&self) -> String {
        let mut all = String::new();
        for (program, arguments) in [
            ("ip", "-d link show"),
            ("ip", "addr show"),
            ("ip", "route show table all"),
            ("tc", "qdisc show"),
            ("tc", "filter show dev eth0 ingress"),
        ] {
            let mut command = Command::new(program);
            command.args(["-n", &self.pod]).args(arguments.split(' '));
            all.push_str(&output(command));
        }
        all
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in [&self.pod, &self.out] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A server that ends with its owner.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    output(command)
}

#[track_caller]
fn output(mut command: Command) -> String {
    let shown = format!("{command:?}");
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{shown}: {error}; apt-get install iproute2"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.success(), "{shown}: {status}: {}", text(&stderr));
    text(&stdout)
}
