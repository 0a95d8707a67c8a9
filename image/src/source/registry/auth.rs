//! Who is asking: challenges of registries, tokens, and what `docker login` has left.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// Largest configuration of docker that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password.
    Basic,
    /// A token from elsewhere.
    Bearer(Bearer),
    /// Something else.
    Unknown,
}

/// Where a token is to be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// Reads the header `WWW-Authenticate`.
    pub(super) fn parse(header: &str) -> Self {
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Self::Basic;
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Self::Unknown;
        }
        let parameters = parameters(rest);
        let get = |name: &str| {
            let found = parameters
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        match get("realm").filter(|realm| realm.starts_with("http")) {
            Some(realm) => Self::Bearer(Bearer {
                realm,
                service: get("service"),
                scope: get("scope"),
            }),
            None => Self::Unknown,
        }
    }
}

impl Bearer {
    /// The address that gives a token for reading a repository.
    pub(super) fn url(&self, repository: &str) -> String {
        let scope = self.scope.clone();
        let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
        let mut url = self.realm.clone();
        url.push(if url.contains('?') { '&' } else { '?' });
        if let Some(service) = &self.service {
            url.push_str(&format!("service={}&", encoded(service)));
        }
        url.push_str(&format!("scope={}", encoded(&scope)));
        url
    }
}

/// `name=value` and `name="value"`, with commas between them.
fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let (value, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((index, c)) = chars.next() {
                match c {
                    '"' => {
                        end = index + 1;
                        break;
                    }
                    '\\' => value.extend(chars.next().map(|(_, c)| c)),
                    c => value.push(c),
                }
            }
            (value, &quoted[end..])
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (rest[..end].trim().to_owned(), &rest[end..])
        };
        let name = name.trim_start_matches([',', ' ']).trim_end();
        found.push((name.to_owned(), value));
        text = rest;
    }
    found
}

/// For the query of an address.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The token in an answer.
pub(super) fn token(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let names = ["token", "access_token"];
    let mut found = names.iter().filter_map(|name| value[*name].as_str());
    found.find(|token| !token.is_empty()).map(str::to_owned)
}

/// What `docker login` has left for a registry, in its file. Programs that keep passwords elsewhere
/// are not asked.
pub(super) fn stored_credentials(registry: &str) -> Option<String> {
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    let path = dir.or_else(home)?.join("config.json");
    if fs::metadata(&path).ok()?.len() > MAX_CONFIG {
        return None;
    }
    let config: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    in_config(&config, registry)
}

fn in_config(config: &Value, registry: &str) -> Option<String> {
    let mut keys = vec![
        registry.to_owned(),
        format!("https://{registry}"),
        format!("https://{registry}/v1/"),
        format!("https://{registry}/v2/"),
    ];
    if registry == "docker.io" {
        keys.push("https://index.docker.io/v1/".into());
        keys.push("index.docker.io".into());
    }
    let auths = config["auths"].as_object()?;
    let found = keys.iter().find_map(|key| auths.get(key)?["auth"].as_str());
    // It goes into a header as it is.
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=-_".contains(c);
    found
        .filter(|auth| !auth.is_empty() && auth.chars().all(base64))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = "Bearer realm=\"https://auth.example/t?a=b\",service=\"a, \\\"b\\\"\", \
                      scope=\"repository:x/y:pull\"";
        let Challenge::Bearer(bearer) = Challenge::parse(header) else {
            panic!("it is one");
        };
        assert_eq!(
            bearer.url("z"),
            "https://auth.example/t?a=b&service=a%2C%20%22b%22&scope=repository:x/y:pull"
        );
        let Challenge::Bearer(bearer) = Challenge::parse("bearer realm=http://x") else {
            panic!("it is one");
        };
        assert_eq!(bearer.url("z"), "http://x?scope=repository:z:pull");
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Challenge::Basic);
        for header in [
            "",
            "Digest x",
            "Bearer",
            "Bearer realm=",
            "Bearer realm=\"ftp://x\"",
            "Bearer =",
        ] {
            assert_eq!(Challenge::parse(header), Challenge::Unknown, "{header}");
        }
    }

    #[test]
    fn credentials_are_found_under_the_names_that_docker_uses() {
        let config = json!({ "auths": {
            "https://index.docker.io/v1/": { "auth": "aHVi" },
            "host.example:5000": { "auth": "aG9zdA==" },
            "evil.example": { "auth": "x\r\nY: z" },
            "empty.example": {},
        }});
        assert_eq!(in_config(&config, "docker.io").as_deref(), Some("aHVi"));
        assert_eq!(
            in_config(&config, "host.example:5000").as_deref(),
            Some("aG9zdA==")
        );
        for registry in ["evil.example", "empty.example", "host.example"] {
            assert_eq!(in_config(&config, registry), None);
        }
    }

    #[test]
    fn a_token_has_one_of_two_names() {
        assert_eq!(token(b"{\"access_token\":\"a\"}").as_deref(), Some("a"));
        assert_eq!(
            token(b"{\"token\":\"b\",\"access_token\":\"a\"}").as_deref(),
            Some("b")
        );
        assert_eq!(token(b"{\"token\":\"\"}"), None);
        assert_eq!(token(b"<html>"), None);
    }
}
