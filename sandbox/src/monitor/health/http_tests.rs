use super::*;

fn place() -> Place {
    Place::of(&HttpGet {
        tls: false,
        host: None,
        port: 8080,
        path: "/healthz".into(),
        headers: Vec::new(),
    })
}

#[test]
fn a_request_has_the_headers_that_servers_expect() {
    let own = [("host".into(), "web".into()), ("X-A".into(), "b".into())];
    let text = request(&place(), &own);
    assert!(
        text.starts_with("GET /healthz HTTP/1.1\r\nUser-Agent: podvmm-probe/"),
        "{text}"
    );
    assert!(
        text.ends_with("host: web\r\nX-A: b\r\nConnection: close\r\n\r\n"),
        "{text}"
    );
    assert!(request(&place(), &[]).contains("\r\nHost: 127.0.0.1:8080\r\n"));
}

#[test]
fn an_answer_is_its_status() {
    let head = |text: &str| read_head(text.as_bytes());
    assert_eq!(head("HTTP/1.0 204 No Content\r\n\r\n").unwrap().status, 204);
    let head_of =
        head("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nlocation: /x\r\n\r\nbody");
    let head_of = head_of.unwrap();
    assert_eq!(
        (head_of.status, head_of.location.as_deref()),
        (302, Some("/x"))
    );
    for (text, word) in [
        ("", "EOF"),
        ("HTTP/1.1 200 OK\r\n", "EOF"),
        ("SSH-2.0-x\r\n\r\n", "malformed"),
        ("HTTP/1.1 20\r\n\r\n", "malformed"),
        ("HTTP/2 200\r\n\r\n", "malformed"),
        (
            &format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD)),
            "no end",
        ),
    ] {
        let error = head(text).unwrap_err().told();
        assert!(error.contains(word), "{text:.30}: {error}");
    }
}

#[test]
fn a_container_cannot_send_a_probe_to_another_host() {
    let place = place();
    for (location, path, port) in [
        ("/a", "/a", 8080),
        ("http://127.0.0.1:81/b?c", "/b?c", 81),
        ("http://127.0.0.1", "/", 80),
    ] {
        let next = place.at(location).unwrap();
        assert_eq!((next.path.as_str(), next.port), (path, port), "{location}");
    }
    assert!(place.at("https://127.0.0.1/").unwrap().tls);
    for location in [
        "http://169.254.169.254/",
        "http://127.0.0.1.example/",
        "http://127.0.0.1@example/",
        "//example/",
        "ftp://127.0.0.1/",
        "x",
        "http://127.0.0.1:/",
    ] {
        assert_eq!(place.at(location), None, "{location}");
    }
}

#[test]
fn errors_have_gos_words() {
    let refused = io::Error::from_raw_os_error(111);
    assert_eq!(in_words(&refused), "connection refused");
    assert_eq!(
        plain("Connection refused (os error 111)"),
        "connection refused"
    );
    assert!(matches!(
        HttpError::from(io::Error::from(io::ErrorKind::WouldBlock)),
        HttpError::TimedOut
    ));
}

#[test]
fn any_certificate_will_do_and_none_will_not() {
    assert!(super::super::tls::session("127.0.0.1").is_ok());
    assert!(super::super::tls::session("[::1]").is_ok());
    assert!(super::super::tls::session("a b").is_err());
}
