//! A registry on loopback that answers as registries do, and as they should not.

mod server;

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use self::server::{Registry, respond, serve};
use crate::manifest::OCI_INDEX;
use crate::progress::Silent;
use crate::source::registry::{Patience, RegistryOptions};
use crate::source::{Pull, Source, SourceError, Wanted};
use crate::store::{Image, Store};
use crate::testing::{Tar, TempDir, TestImage, gzip};

fn image() -> TestImage {
    // Noise, so that the layer is large when it is compressed, too.
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(400_000)
    .collect();
    let plain = Tar::new().file("f", &noise).end();
    TestImage::of(&[(gzip(&plain), plain)], json!({ "Cmd": ["/bin/true"] }))
}

struct Bed {
    _dir: TempDir,
    store: Store,
}

impl Bed {
    fn new() -> Self {
        let dir = TempDir::new();
        let store = Store::open(dir.join("store")).unwrap();
        Self { _dir: dir, store }
    }

    fn pull_as(
        &self,
        registry: &Registry,
        credentials: Option<&str>,
    ) -> Result<Image, SourceError> {
        let wanted = Wanted {
            registry: RegistryOptions {
                patience: Patience {
                    connect: Duration::from_secs(5),
                    silence: Duration::from_millis(300),
                    attempts: 3,
                    pause: Duration::from_millis(1),
                },
                // Never those of whoever runs the tests.
                credentials: Some(credentials.unwrap_or("bm9ib2R5").into()),
                ..RegistryOptions::default()
            },
            ..Wanted::default()
        };
        let source: Source = format!("{}/some/app:1", registry.host).parse().unwrap();
        self.store.acquire(&source, Pull::Missing, &wanted, &Silent)
    }

    fn pull(&self, registry: &Registry) -> Result<Image, SourceError> {
        self.pull_as(registry, None)
    }
}

#[track_caller]
fn fails(registry: &Registry, words: &[&str]) {
    let bed = Bed::new();
    let error = bed.pull(registry).unwrap_err().to_string();
    for word in words.iter().chain([&registry.host.as_str()]) {
        assert!(error.contains(word), "no {word}: {error}");
    }
    assert!(bed.store.list().unwrap().is_empty());
}

#[test]
fn an_image_is_pulled_once() {
    let (image, bed) = (image(), Bed::new());
    let registry = Registry::start({
        let image = image.clone();
        move |request, to| serve(&image, request, to)
    });
    let pulled = bed.pull(&registry).unwrap();
    assert_eq!(pulled.record().manifest.digest, image.manifest);
    assert_eq!(pulled.name(), format!("{}/some/app:1", registry.host));
    assert_eq!(registry.requests().len(), 3);
    assert!(registry.requests()[0].headers["accept"].contains(OCI_INDEX));
    pulled.rootfs().unwrap();
    bed.pull(&registry).unwrap();
    assert_eq!(registry.requests().len(), 3);
}

#[test]
fn a_token_is_fetched_where_the_registry_says() {
    let image = image();
    let registry = Registry::start(move |request, to| {
        let host = &request.headers["host"];
        let authorization = request.headers.get("authorization").map(String::as_str);
        if request.path.starts_with("/token?") {
            assert_eq!(authorization, Some("Basic dXNlcg=="));
            assert!(
                request
                    .path
                    .contains("service=the%20service&scope=repository:some/app:pull")
            );
            return respond(to, "200 OK", &[], b"{\"token\":\"secret\"}");
        }
        if authorization == Some("Bearer secret") {
            return serve(&image, request, to);
        }
        let challenge = format!(
            "Bearer realm=\"http://{host}/token\",service=\"the service\",scope=\"repository:some/app:pull\""
        );
        respond(
            to,
            "401 Unauthorized",
            &[("WWW-Authenticate", &challenge)],
            b"",
        )
    });
    Bed::new().pull_as(&registry, Some("dXNlcg==")).unwrap();
    // One refusal, one token, and three that it is good for.
    assert_eq!(registry.requests().len(), 5);
}

#[test]
fn a_login_that_does_not_help_is_said() {
    for challenge in [
        "Basic realm=\"x\"",
        "Digest realm=\"x\"",
        "",
        "Bearer realm=\"http://127.0.0.1:1/\"",
    ] {
        let registry = Registry::start(move |_, to| {
            respond(
                to,
                "401 Unauthorized",
                &[("WWW-Authenticate", challenge)],
                b"",
            )
        });
        fails(&registry, &["registry"]);
    }
    let registry = Registry::start(|_, to| respond(to, "403 Forbidden", &[], b"no"));
    fails(&registry, &["does not give", "some/app:1", "docker login"]);
}

#[test]
fn credentials_do_not_follow_redirects_to_other_hosts() {
    let image = image();
    let elsewhere = {
        let image = image.clone();
        Registry::start(move |request, to| serve(&image, request, to))
    };
    let other = elsewhere.host.clone();
    let registry = Registry::start(move |request, to| {
        if !request.headers.contains_key("authorization") {
            let basic = [("WWW-Authenticate", "Basic realm=\"x\"")];
            return respond(to, "401 Unauthorized", &basic, b"");
        }
        if request.path.contains("/blobs/") {
            let location = format!(
                "http://{}{}",
                other.replace("127.0.0.1", "localhost"),
                request.path
            );
            return respond(
                to,
                "307 Temporary Redirect",
                &[("Location", &location)],
                b"",
            );
        }
        serve(&image, request, to)
    });
    Bed::new().pull_as(&registry, Some("dXNlcg==")).unwrap();
    let redirected = elsewhere.requests();
    assert_eq!(redirected.len(), 2);
    assert!(
        redirected
            .iter()
            .all(|request| !request.headers.contains_key("authorization"))
    );
}

#[test]
fn refusals_are_told_with_the_reason() {
    let registry = Registry::start(|_, to| {
        let body = b"{\"errors\":[{\"message\":\"manifest\\u001b[31m unknown\"}]}";
        respond(to, "404 Not Found", &[], body)
    });
    fails(
        &registry,
        &[
            "has no image",
            "some/app:1",
            "it says: manifest[31m unknown",
        ],
    );
    let registry = Registry::start(|_, to| respond(to, "418 I'm a teapot", &[], b""));
    fails(&registry, &["418"]);
    assert_eq!(registry.requests().len(), 1);
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let registry =
            Registry::start(move |_, to| respond(to, status, &[("Retry-After", "0")], b""));
        fails(&registry, &[&status[..3], "again and again"]);
        assert_eq!(registry.requests().len(), 3);
    }
}

#[test]
fn garbage_is_refused() {
    let registry = Registry::start(|_, to| to.write_all(b"\x16\x03\x01 no http at all\r\n\r\n"));
    fails(&registry, &["registry"]);
    for body in [
        &b"<html>hello</html>"[..],
        b"{}",
        b"",
        b"{\"schemaVersion\":1}",
    ] {
        let registry = Registry::start(move |_, to| respond(to, "200 OK", &[], body));
        let bed = Bed::new();
        assert!(bed.pull(&registry).is_err());
        assert!(bed.store.list().unwrap().is_empty());
    }
    // A document without end.
    let registry = Registry::start(|_, to| {
        to.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        loop {
            to.write_all(&[b' '; 65536])?;
        }
    });
    fails(&registry, &["more than 4194304 bytes"]);
    // Headers without end.
    let registry = Registry::start(|_, to| {
        to.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
        loop {
            to.write_all(&[b'x'; 65536])?;
        }
    });
    fails(&registry, &["registry"]);
}

#[test]
fn other_bytes_than_the_digests_are_refused() {
    let image = image();
    let registry = Registry::start(move |request, to| {
        let mut lying = image.clone();
        if request.path.contains("/blobs/") {
            for bytes in lying.blobs.values_mut() {
                bytes[5] ^= 1;
            }
        }
        serve(&lying, request, to)
    });
    let bed = Bed::new();
    let error = bed.pull(&registry).unwrap_err().to_string();
    assert!(error.contains("lies"), "{error}");
    assert!(bed.store.list().unwrap().is_empty());
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_was() {
    let image = image();
    let registry = Registry::start(move |request, to| {
        let layer = request.path.contains("/blobs/");
        let mut answer = Vec::new();
        if !layer {
            return serve(&image, request, to);
        }
        let digest = request.path.rsplit('/').next().unwrap().parse().unwrap();
        let bytes = &image.blobs[&digest];
        let start = request.headers.get("range").map_or(0, |range| {
            range[6..].strip_suffix('-').unwrap().parse().unwrap()
        });
        let status = if start == 0 {
            "200 OK"
        } else {
            "206 Partial Content"
        };
        let rest = &bytes[start..];
        write!(
            answer,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/*\r\n\r\n",
            rest.len(),
            bytes.len() - 1,
        )?;
        // Never more than this at once.
        answer.extend_from_slice(&rest[..rest.len().min(50_000)]);
        to.write_all(&answer)
    });
    Bed::new().pull(&registry).unwrap().rootfs().unwrap();
    // 400 kB in pieces of 50 kB, more than there are attempts, because each brings something.
    let resumed = registry.requests();
    let resumed = resumed
        .iter()
        .filter(|request| request.headers.contains_key("range"));
    assert!(resumed.count() >= 6);
}

#[test]
fn a_registry_that_cannot_go_on_sends_all_of_it_again() {
    let image = image();
    let first = Mutex::new(true);
    let registry = Registry::start(move |request, to| {
        let mut request = request.clone();
        request.headers.remove("range");
        let cut = request.path.contains("/blobs/")
            && image.blobs[&request.path.rsplit('/').next().unwrap().parse().unwrap()].len()
                > 100_000
            && std::mem::take(&mut *first.lock().unwrap());
        if cut {
            to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 390000\r\n\r\n")?;
            return to.write_all(&[0; 10_000]);
        }
        serve(&image, &request, to)
    });
    Bed::new().pull(&registry).unwrap().rootfs().unwrap();
}

#[test]
fn the_next_process_goes_on_and_does_not_trust_what_it_finds() {
    for damaged in [false, true] {
        let (image, bed) = (image(), Bed::new());
        let (digest, bytes) = image
            .blobs
            .iter()
            .max_by_key(|(_, bytes)| bytes.len())
            .unwrap();
        let partial = bed._dir.join("store/partial").join(digest.hex());
        let mut half = bytes[..200_000].to_vec();
        if damaged {
            half[100_000] ^= 1;
        }
        std::fs::write(partial, half).unwrap();
        let registry = Registry::start({
            let image = image.clone();
            move |request, to| serve(&image, request, to)
        });
        bed.pull(&registry).unwrap().rootfs().unwrap();
        let ranges = registry.requests();
        let ranges: Vec<_> = ranges
            .iter()
            .filter_map(|request| request.headers.get("range"))
            .collect();
        assert_eq!(ranges, ["bytes=200000-"]);
        assert_eq!(registry.requests().len(), if damaged { 4 } else { 3 });
    }
}

#[test]
fn a_registry_that_stalls_is_given_up() {
    let began = Instant::now();
    let registry = Registry::start(|_, _| {
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    });
    fails(&registry, &["sent nothing"]);
    let image = image();
    let registry = Registry::start(move |request, to| {
        if !request.path.contains("/blobs/") {
            return serve(&image, request, to);
        }
        to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
        std::thread::sleep(Duration::from_secs(60));
        Ok(())
    });
    fails(&registry, &["sent nothing"]);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let registry = Registry {
        host,
        requests: Arc::default(),
    };
    fails(&registry, &["nothing listens there"]);
}
