//! What CNI put into the pod's network, seen from the pod, from another pod and from the node.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podvmm_cri_tests::client::CallError;
use podvmm_cri_tests::handler::PODVMM;
use podvmm_cri_tests::pod::{Node, Pod};
use podvmm_cri_tests::spec::{ContainerSpec, PodSpec};
use podvmm_cri_tests::stream::Stream;
use podvmm_cri_tests::wait;

use crate::case::Case;

pub const CASES: &[Case] = &[
    Case::new(
        "address",
        "the pod has the address, the route, the MAC and the MTU that CNI gave it",
        address,
    ),
    Case::new(
        "names",
        "host name, /etc/hosts and /etc/resolv.conf are the pod's",
        names,
    ),
    Case::new(
        "pod_to_pod",
        "pods reach each other and the node",
        pod_to_pod,
    ),
    Case::new(
        "host_port",
        "`hostPort` leads from the node into the pod",
        host_port,
    ),
    Case::new(
        "port_forward",
        "PortForward reaches a server on the pod's localhost",
        port_forward,
    ),
    Case::new(
        "host_network",
        "`hostNetwork`: the pod has the node's network",
        host_network,
    )
    .unlike(
        PODVMM,
        "refuses it: a pod with a kernel of its own cannot have the node's network",
    ),
];

/// Serves the image's file `/srv/seed`.
fn server(address: &str) -> ContainerSpec {
    ContainerSpec::sh(&format!("exec httpd -f -p {address} -h /srv"))
}

const REQUEST: &[u8] = b"GET /seed HTTP/1.0\r\n\r\n";
const SERVED: &str = "came with the image\n";

/// What a server of a pod answers, once it listens.
fn ask(address: &str) -> Result<()> {
    wait::until(20, &format!("{address} answers"), || {
        let target = address.to_socket_addrs()?.next().context("an address")?;
        let Ok(mut tcp) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else {
            return Ok(None);
        };
        tcp.set_read_timeout(Some(Duration::from_secs(5) * wait::slowness()))?;
        tcp.write_all(REQUEST)?;
        let mut said = String::new();
        tcp.read_to_string(&mut said)?;
        ensure!(said.ends_with(SERVED), "{address} says {said:?}");
        Ok(Some(()))
    })
}

fn address(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("address", ContainerSpec::idle())?;
    let shown = container.sh("ip -o -4 addr show dev eth0; ip link show dev eth0; ip route")?;
    let expected = [
        format!("inet {}/16", pod.ip()?),
        "default via 10.88.0.1 dev eth0".to_owned(),
        "mtu 1500".to_owned(),
        "link/ether".to_owned(),
    ];
    for part in expected {
        ensure!(shown.contains(&part), "no {part:?} in {shown}");
    }
    container.sh("ip addr show dev lo | grep -q 127.0.0.1")?;
    pod.remove()?;
    Ok(())
}

fn names(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("names", ContainerSpec::idle())?;
    ensure!(
        container.sh("hostname")? == "names",
        "{}",
        container.sh("hostname")?
    );
    let resolv = container.sh("cat /etc/resolv.conf")?;
    for line in [
        "nameserver 10.96.0.10",
        "search default.svc.cluster.local",
        "options ndots:5",
    ] {
        ensure!(
            resolv.lines().any(|had| had == line),
            "no {line:?} in {resolv:?}"
        );
    }
    ensure!(
        container.sh("cat /etc/hosts")? == "127.0.0.1\tlocalhost",
        "/etc/hosts"
    );
    ensure!(
        container.sh("cat /etc/hostname")? == "names",
        "/etc/hostname"
    );
    pod.remove()?;
    Ok(())
}

fn pod_to_pod(node: Node<'_>) -> Result<()> {
    let (one, _server) = node.run("server", server("8080"))?;
    let (other, client) = node.run("client", ContainerSpec::idle())?;
    let address = format!("{}:8080", one.ip()?);
    ask(&address).context("from the node")?;
    let heard = client.sh(&format!("wget -q -O - http://{address}/seed"))?;
    ensure!(heard == SERVED.trim_end(), "the other pod heard {heard:?}");
    client.sh("ping -c 1 -W 10 10.88.0.1")?;
    one.remove()?;
    other.remove()?;
    Ok(())
}

fn host_port(node: Node<'_>) -> Result<()> {
    let pod = node.run_pod(PodSpec::new("host-port").host_port(18080, 80))?;
    pod.start(server("80"))?;
    ask("127.0.0.1:18080")?;
    pod.remove()?;
    Ok(())
}

fn port_forward(node: Node<'_>) -> Result<()> {
    let (pod, container) = node.run("port-forward", server("127.0.0.1:7070"))?;
    wait::until(20, "the server listens", || {
        let listening = container.sh("netstat -ltn")?.contains("127.0.0.1:7070");
        Ok(listening.then_some(()))
    })?;
    let said = forwarded(node, &pod, 7070)?;
    ensure!(said.ends_with(SERVED), "{said:?}");
    let nobody = forwarded(node, &pod, 7071);
    ensure!(nobody.is_err(), "a port where nobody listens: {nobody:?}");
    let again = forwarded(node, &pod, 7070)?;
    ensure!(again.ends_with(SERVED), "{again:?}");
    pod.remove()?;
    Ok(())
}

/// What a server on a port of the pod says through PortForward.
fn forwarded(node: Node<'_>, pod: &Pod, port: i32) -> Result<String> {
    let answer = node.cri().port_forward(k8s_cri::v1::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![port],
    })?;
    // One pair of channels for a port, each of which begins with the port's number.
    const DATA: u8 = 0;
    let mut stream = Stream::open(&format!("{}?port={port}", answer.url))?;
    stream.send(DATA, REQUEST)?;
    let mut said = Vec::new();
    let mut complaints = Vec::new();
    while let Some((channel, bytes)) = stream.receive()? {
        if channel == DATA {
            &mut said
        } else {
            &mut complaints
        }
        .write_all(&bytes)?;
    }
    let number = u16::try_from(port)?.to_le_bytes();
    ensure!(
        complaints == number,
        "{}",
        String::from_utf8_lossy(&complaints)
    );
    let said = said.strip_prefix(&number).context("the port's number")?;
    Ok(String::from_utf8_lossy(said).into_owned())
}

fn host_network(node: Node<'_>) -> Result<()> {
    let mut spec = PodSpec::new("host-network");
    spec.namespaces().network = k8s_cri::v1::NamespaceMode::Node.into();
    spec.config.hostname = String::new();
    if node.handler == PODVMM {
        refused(node.run_pod(spec), &["host", "network"])?;
        return Ok(());
    }
    let pod = node.run_pod(spec)?;
    let mut container = ContainerSpec::idle();
    container.namespaces().network = k8s_cri::v1::NamespaceMode::Node.into();
    let container = pod.start(container)?;
    let links = container.sh("ip link")?;
    ensure!(
        links.contains("pods0"),
        "the node's bridge is not to be seen: {links}"
    );
    pod.remove()?;
    Ok(())
}

/// RunPodSandbox has failed, and its message has all these words.
pub fn refused(result: Result<Pod>, words: &[&str]) -> Result<()> {
    let Err(error) = result else {
        anyhow::bail!("RunPodSandbox succeeded");
    };
    let Some(error) = error.downcast_ref::<CallError>() else {
        return Err(error);
    };
    ensure!(error.call == "RunPodSandbox", "{error}");
    for word in words {
        ensure!(
            error.message.to_lowercase().contains(word),
            "refused, but there is no {word:?} in the message: {error}"
        );
    }
    Ok(())
}
