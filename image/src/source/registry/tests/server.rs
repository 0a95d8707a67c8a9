//! The registry that the tests talk to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::manifest::OCI_MANIFEST;
use crate::testing::TestImage;

/// One request: its path with query, and its headers in small letters.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) headers: HashMap<String, String>,
}

type Answer = dyn Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

pub(super) struct Registry {
    pub(super) host: String,
    pub(super) requests: Arc<Mutex<Vec<Request>>>,
}

impl Registry {
    /// Answers each request, one per connection, on a thread that ends with the test program.
    pub(super) fn start(
        answer: impl Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer): (_, Arc<Answer>) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let request = read(&stream)?;
                    seen.lock().unwrap().push(request.clone());
                    answer(&request, &mut stream).ok()
                });
            }
        });
        Self { host, requests }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_lowercase(), value.trim().to_owned()))
        });
    Some(Request {
        path,
        headers: headers.collect(),
    })
}

pub(super) fn respond(
    to: &mut TcpStream,
    status: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    to.write_all((text + "\r\n").as_bytes())?;
    to.write_all(body)
}

/// Answers as a registry with this image under every tag.
pub(super) fn serve(
    image: &TestImage,
    request: &Request,
    to: &mut TcpStream,
) -> std::io::Result<()> {
    let last = request.path.rsplit('/').next().unwrap();
    let digest = last.parse().unwrap_or(image.manifest);
    let Some(bytes) = image.blobs.get(&digest) else {
        return respond(
            to,
            "404 Not Found",
            &[],
            b"{\"errors\":[{\"message\":\"no such\\u0007 thing\"}]}",
        );
    };
    let start = request.headers.get("range").map(|range| {
        let start = range
            .strip_prefix("bytes=")
            .unwrap()
            .strip_suffix('-')
            .unwrap();
        start.parse::<usize>().unwrap()
    });
    match start {
        None => respond(to, "200 OK", &[("Content-Type", OCI_MANIFEST)], bytes),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            respond(
                to,
                "206 Partial Content",
                &[("Content-Range", &range)],
                &bytes[start..],
            )
        }
    }
}
