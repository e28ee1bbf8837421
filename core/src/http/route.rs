//! What there is to be asked for, and the answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use crossbeam::channel::Sender;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::gate::{self, Gate};
use super::health::Status;
use super::history::History;
use super::preference::{self, Packing};
use super::sampler::{Beginning, Question, Start, Task, Text};
use super::stream::{self, End, Framing, Places};
use super::{STREAMS_MAX, asset};

/// How long the sampler may take; a shard that hangs is waited for two seconds.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What answers are made of.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    pub(super) tasks: Sender<Task>,
    pub(super) history: Arc<History>,
    /// Places for readers of streams.
    pub(super) places: Arc<Places>,
}

/// All routes, behind the gate.
pub(super) fn routes(sources: Sources, gate: Gate) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/header", get(header))
        .route("/api/v1/snapshot", get(snapshot))
        .route("/api/v1/history", get(history))
        .route("/api/v1/live", get(live))
        .method_not_allowed_fallback(not_allowed)
        .fallback(file)
        .layer(middleware::from_fn_with_state(Arc::new(gate), gate::watch))
        .with_state(sources)
}

/// An error as a document.
#[derive(Serialize)]
struct Refusal<'t> {
    schema: &'static str,
    error: &'t str,
}

/// Says no.
pub(super) fn refuse(status: StatusCode, why: &str) -> Response {
    let document = Refusal { schema: "optimacore.error/1", error: why };
    (status, [(CONTENT_TYPE, JSON)], serde_json::to_vec(&document).unwrap_or_default()).into_response()
}

/// Why there is no answer to a request that was sound.
fn unable() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the statistics cannot be had now")
}

async fn not_allowed() -> Response {
    let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here; there are GET and HEAD");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// A file of the dashboard.
async fn file(request: Request) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return not_allowed().await;
    }
    let mut response = asset::find(request.uri().path(), request.headers())
        .unwrap_or_else(|| refuse(StatusCode::NOT_FOUND, "there is nothing here"));
    if request.method() == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

impl Sources {
    /// Has the sampler do something, and waits for it.
    async fn ask<T>(&self, task: impl FnOnce(oneshot::Sender<T>) -> Task) -> Option<T> {
        let (sender, reply) = oneshot::channel();
        self.tasks.send(task(sender)).ok()?;
        timeout(ANSWER_MAX, reply).await.ok()?.ok()
    }

    async fn text(&self, text: Text) -> Option<Bytes> {
        self.ask(|reply| Task::Text(text, reply)).await
    }

    async fn begin(&self, start: Start) -> Option<Beginning> {
        self.ask(|reply| Task::Begin(start, reply)).await
    }
}

async fn metrics(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    let form = preference::form(headers.get_all(ACCEPT).iter());
    let packs = preference::takes(headers.get_all(ACCEPT_ENCODING).iter(), Packing::Gzip);
    let text = if packs { Text::PackedMetrics(form) } else { Text::Metrics(form) };
    let Some(body) = sources.text(text).await else { return unable() };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.kind()));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if packs {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

async fn snapshot(State(sources): State<Sources>) -> Response {
    match sources.text(Text::Snapshot).await {
        Some(body) => ([(CONTENT_TYPE, JSON)], body).into_response(),
        None => unable(),
    }
}

async fn healthz(State(sources): State<Sources>) -> Response {
    tell_health(&sources, Question::Alive).await
}

async fn readyz(State(sources): State<Sources>) -> Response {
    tell_health(&sources, Question::Ready).await
}

async fn tell_health(sources: &Sources, question: Question) -> Response {
    let Some(report) = sources.ask(|reply| Task::Health(question, reply)).await else { return unable() };
    let status = match report.status {
        Status::Ok => StatusCode::OK,
        Status::Failing => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(CONTENT_TYPE, JSON)], serde_json::to_vec(&report).unwrap_or_default()).into_response()
}

async fn header(State(sources): State<Sources>) -> Response {
    match sources.begin(Start::History).await {
        Some(beginning) => ([(CONTENT_TYPE, JSON)], beginning.header).into_response(),
        None => unable(),
    }
}

async fn history(State(sources): State<Sources>) -> Response {
    stream_of(&sources, Start::History, Framing::Lines).await
}

async fn live(State(sources): State<Sources>, uri: Uri) -> Response {
    let is_named = |query: &str| query.split('&').any(|pair| pair == "history=0");
    let start = if uri.query().is_some_and(is_named) { Start::Now } else { Start::History };
    stream_of(&sources, start, Framing::Events).await
}

async fn stream_of(sources: &Sources, start: Start, framing: Framing) -> Response {
    let Some(place) = sources.places.take(STREAMS_MAX) else {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "as many streams are open as there may be");
    };
    let Some(beginning) = sources.begin(start).await else { return unable() };
    let (end, kind) = match framing {
        Framing::Lines => (End::At(sources.history.head()), "application/x-ndjson"),
        Framing::Events => (End::Never, "text/event-stream"),
    };
    let body = stream::start(&sources.history, beginning, (framing, end), place);
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // proxies would hold events back
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
