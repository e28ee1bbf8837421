//! Who may ask: the name it is asked by, the page it is asked from, the token.
//!
//! Names and pages matter because of browsers: a page of anybody's may have its own name point to this machine (DNS
//! rebinding), or ask directly; either would read what only the user of the browser may read. A page that asks directly is
//! told apart by `Origin`, a name that is not ours by `Host`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    HOST, HeaderName, ORIGIN, REFERRER_POLICY, TRANSFER_ENCODING, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config::Http;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::route::refuse;

/// What browsers may do with our pages: show them and run what is ours, nothing else. Pictures may be made by the page itself,
/// for exports.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// Asked without a token, to find out whether anybody is there.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// How a request has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// The address of ours that it came to.
    pub(super) to: IpAddr,
    pub(super) scheme: Scheme,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Gate {
    /// The digest of the token, so that all are of one length.
    token: Option<[u8; 32]>,
    hosts: Vec<String>,
    origins: Vec<String>,
}

/// What becomes of a request.
#[derive(Debug)]
enum Verdict {
    /// It passes; a page of this origin may read the answer.
    Pass(Option<HeaderValue>),
    /// A browser asks whether a page of this origin may ask.
    May(HeaderValue),
    Refused(StatusCode, &'static str),
}

impl Gate {
    pub(super) fn new(settings: &Http) -> Self {
        Self {
            token: settings.token.as_ref().map(|token| Sha256::digest(token.as_str()).into()),
            hosts: settings.allowed_hosts.clone(),
            origins: settings.allowed_origins.clone(),
        }
    }

    fn judge(&self, request: &Request, arrival: Arrival) -> Verdict {
        let headers = request.headers();
        let Some(host) = single(headers, &HOST) else {
            return Verdict::Refused(StatusCode::BAD_REQUEST, "a request names its host, once");
        };
        // a request to a proxy names the host twice
        let named = request.uri().authority().map_or(host, |authority| authority.as_str());
        if named != host || !self.is_ours(host, arrival.to) {
            return Verdict::Refused(
                StatusCode::MISDIRECTED_REQUEST,
                "this name is not one of ours; [http] allowed_hosts has those that are",
            );
        }
        let origin = match (headers.contains_key(ORIGIN), single(headers, &ORIGIN)) {
            (false, _) => None,
            (true, Some(origin)) if self.may_read(origin, host, arrival.scheme) => Some(origin),
            (true, _) => {
                return Verdict::Refused(
                    StatusCode::FORBIDDEN,
                    "pages of this origin may not ask; [http] allowed_origins has those that may",
                );
            }
        };
        let origin = origin.and_then(|origin| HeaderValue::from_str(origin).ok());
        if let (Some(origin), &Method::OPTIONS, true) =
            (&origin, request.method(), headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD))
        {
            return Verdict::May(origin.clone());
        }
        if self.token.is_some() && !OPEN_PATHS.contains(&request.uri().path()) && !self.is_known(headers) {
            return Verdict::Refused(StatusCode::UNAUTHORIZED, "a token is asked for: Authorization: Bearer TOKEN");
        }
        let has_body = headers.get(CONTENT_LENGTH).is_some_and(|len| len != "0");
        if has_body || headers.contains_key(TRANSFER_ENCODING) {
            return Verdict::Refused(StatusCode::PAYLOAD_TOO_LARGE, "nothing is taken here, it can only be read");
        }
        Verdict::Pass(origin)
    }

    /// Whether a `Host` is one that we are called by. The port does not matter: it may be another one's on the way to us.
    fn is_ours(&self, host: &str, to: IpAddr) -> bool {
        let name = name_of(host).to_ascii_lowercase();
        if let Ok(address) = name.parse::<IpAddr>() {
            let address = address.to_canonical();
            return address.is_loopback()
                || address == to.to_canonical()
                || self.hosts.iter().any(|own| own.parse() == Ok(address));
        }
        name == "localhost" || name.ends_with(".localhost") || self.hosts.contains(&name)
    }

    /// Whether pages of an origin may read our answers: our own, and those that are listed.
    fn may_read(&self, origin: &str, host: &str, scheme: Scheme) -> bool {
        let origin = origin.to_ascii_lowercase();
        let own = origin.strip_prefix(scheme.name()).and_then(|rest| rest.strip_prefix("://"));
        own.is_some_and(|own| own.eq_ignore_ascii_case(host)) || self.origins.contains(&origin)
    }

    /// Whether a request shows the token. Takes the same time for any token that is not it.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let shown = single(headers, &AUTHORIZATION).and_then(shown).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
        token.ct_eq(&digest).into()
    }
}

/// The value of a header that is there once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// `Host` without its port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// The token: behind `Bearer`, or the password behind `Basic`, which is what browsers ask their users for.
fn shown(authorization: &str) -> Option<Zeroizing<String>> {
    let (scheme, value) = authorization.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Zeroizing::new(value.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = Zeroizing::new(STANDARD.decode(value).ok()?);
    let (_, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some(Zeroizing::new(password.to_owned()))
}

/// Lets a request through or answers it; sees to what every answer must say.
pub(super) async fn watch(
    State(gate): State<Arc<Gate>>,
    Extension(arrival): Extension<Arrival>,
    request: Request,
    next: Next,
) -> Response {
    let (mut response, reader) = match gate.judge(&request, arrival) {
        Verdict::Pass(reader) => (next.run(request).await, reader),
        Verdict::May(reader) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization"));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            (response, Some(reader))
        }
        Verdict::Refused(status, why) => {
            let mut response = refuse(status, why);
            if status == StatusCode::UNAUTHORIZED {
                for challenge in ["Basic realm=\"OptimaCore\", charset=\"UTF-8\"", "Bearer"] {
                    response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                }
            }
            (response, None)
        }
    };
    let ends = response.status().is_client_error() && response.status() != StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    if ends {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(reader) = reader {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, reader);
    }
    headers.append(VARY, HeaderValue::from_static("origin"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const ARRIVAL: Arrival = Arrival { to: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7)), scheme: Scheme::Http };

    fn gate() -> Gate {
        Gate::new(&Http {
            allowed_hosts: vec!["ops.example.com".to_owned(), "10.9.9.9".to_owned()],
            allowed_origins: vec!["https://board.example.com".to_owned()],
            ..Http::default()
        })
    }

    fn judged(gate: &Gate, path: &str, headers: &[(HeaderName, &str)]) -> u16 {
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        match gate.judge(&request, ARRIVAL) {
            Verdict::Pass(_) => 200,
            Verdict::May(_) => 204,
            Verdict::Refused(status, _) => status.as_u16(),
        }
    }

    #[test]
    fn only_our_own_names_are_answered_to() {
        let gate = gate();
        for (host, status) in [
            ("localhost", 200),
            ("LOCALHOST:6480", 200),
            ("a.localhost:1", 200),
            ("127.0.0.1:6480", 200),
            ("127.1.2.3", 200),
            ("[::1]:6480", 200),
            ("[::ffff:127.0.0.1]", 200),
            ("10.0.0.7:6480", 200),
            ("10.9.9.9", 200),
            ("ops.example.com:443", 200),
            ("10.0.0.8", 421),
            ("evil.example.com", 421),
            ("localhost.evil.com", 421),
            ("127.0.0.1.evil.com", 421),
            ("", 421),
            ("[", 421),
            (":", 421),
        ] {
            assert_eq!(judged(&gate, "/", &[(HOST, host)]), status, "{host}");
        }
        assert_eq!(judged(&gate, "/", &[]), 400);
        assert_eq!(judged(&gate, "/", &[(HOST, "localhost"), (HOST, "localhost")]), 400);
        assert_eq!(judged(&gate, "http://evil.com/", &[(HOST, "localhost")]), 421);
    }

    #[test]
    fn only_listed_pages_and_our_own_may_read() {
        let gate = gate();
        for (origin, status) in [
            ("http://localhost:6480", 200),
            ("https://board.example.com", 200),
            ("https://localhost:6480", 403),
            ("http://localhost:6481", 403),
            ("http://board.example.com", 403),
            ("https://board.example.com.evil.com", 403),
            ("null", 403),
            ("", 403),
        ] {
            assert_eq!(judged(&gate, "/", &[(HOST, "localhost:6480"), (ORIGIN, origin)]), status, "{origin}");
        }
    }

    #[test]
    fn a_token_is_shown_in_one_of_two_ways() {
        let mut gate = gate();
        gate.token = Some(Sha256::digest("open sesame:1").into());
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (shown, status) in [
            ("Bearer open sesame:1", 200),
            ("bearer  open sesame:1", 200),
            (basic("anybody:open sesame:1").as_str(), 200),
            (basic(":open sesame:1").as_str(), 200),
            ("Bearer open sesame:", 401),
            ("Bearer", 401),
            ("Bearer ", 401),
            ("Digest open sesame:1", 401),
            ("Basic ???", 401),
            (basic("open sesame").as_str(), 401),
        ] {
            assert_eq!(judged(&gate, "/", &[(HOST, "localhost"), (AUTHORIZATION, shown)]), status, "{shown}");
        }
        assert_eq!(judged(&gate, "/metrics", &[(HOST, "localhost")]), 401);
        assert_eq!(judged(&gate, "/readyz", &[(HOST, "localhost")]), 200);
        assert_eq!(judged(&gate, "/readyz/", &[(HOST, "localhost")]), 401);
        let twice = [(HOST, "localhost"), (AUTHORIZATION, "Bearer open sesame:1"), (AUTHORIZATION, "Bearer x")];
        assert_eq!(judged(&gate, "/", &twice), 401);
    }

    #[test]
    fn nothing_is_taken() {
        let gate = gate();
        assert_eq!(judged(&gate, "/", &[(HOST, "localhost"), (CONTENT_LENGTH, "0")]), 200);
        assert_eq!(judged(&gate, "/", &[(HOST, "localhost"), (CONTENT_LENGTH, "1")]), 413);
        assert_eq!(judged(&gate, "/", &[(HOST, "localhost"), (TRANSFER_ENCODING, "chunked")]), 413);
    }
}
