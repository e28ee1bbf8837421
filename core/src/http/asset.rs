//! The dashboard's files, which `core/build.rs` has put into the program.

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::preference::{self, Packing};

/// A file of the dashboard.
#[derive(Debug)]
struct Asset {
    /// As it is asked for: `/index.html`.
    path: &'static str,
    /// What it is.
    kind: &'static str,
    /// The SHA-256 of it.
    tag: &'static str,
    /// Whether another content would have another name.
    is_hashed: bool,
    plain: &'static [u8],
    brotli: Option<&'static [u8]>,
    gzip: Option<&'static [u8]>,
}

static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// Shown where the dashboard was not built.
const NOTICE: &str = include_str!("notice.html");
/// How long browsers keep what cannot change: a year.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Everything else is asked for again, which costs a line when it is the same.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// The file of this path, or a page in its place; none if there is none.
pub(super) fn find(path: &str, headers: &HeaderMap) -> Option<Response> {
    let path = if path == "/" { "/index.html" } else { path };
    match ASSETS.iter().find(|asset| asset.path == path) {
        Some(asset) => Some(give(asset, headers)),
        None if path == "/index.html" => {
            let kind = HeaderValue::from_static("text/html; charset=utf-8");
            Some(([(CONTENT_TYPE, kind), (CACHE_CONTROL, ASK_AGAIN)], NOTICE).into_response())
        }
        None => None,
    }
}

fn give(asset: &Asset, headers: &HeaderMap) -> Response {
    let accepted = |packing| preference::takes(headers.get_all(ACCEPT_ENCODING).iter(), packing);
    let (suffix, packing, content) = match (asset.brotli, asset.gzip) {
        (Some(brotli), _) if accepted(Packing::Brotli) => ("-br", Some("br"), brotli),
        (_, Some(gzip)) if accepted(Packing::Gzip) => ("-gz", Some("gzip"), gzip),
        _ => ("", None, asset.plain),
    };
    let tag = format!("\"{}{suffix}\"", asset.tag);
    let is_known =
        headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|tags| {
            tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
        });
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(Body::from(Bytes::from_static(content)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.kind));
        if let Some(packing) = packing {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(packing));
        }
        response
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(CACHE_CONTROL, if asset.is_hashed { IMMUTABLE } else { ASK_AGAIN });
    response
}
