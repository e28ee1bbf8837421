//! Connections: accepted up to a bound, encrypted where that is wanted, spoken to in HTTP/1.1 within limits.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::CONNECTIONS_MAX;
use super::gate::{Arrival, Scheme};
use super::socket::Patient;
use super::stream::{Place, Places};
use crate::tls::endpoint::Identity;

/// Bytes of a request's first line and headers together, and how many headers.
const HEAD_LEN_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// How long a request may take to come; a connection on which none comes is closed then.
const HEAD_MAX: Duration = Duration::from_secs(10);
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How many of those for whom there is no room are told so at once.
const TURNED_AWAY_MAX: u32 = 32;
/// Pause after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often certificates are looked at.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Serves everybody who comes, for as long as the process lives.
pub(super) async fn serve(listener: TcpListener, app: Router, mut identity: Option<Identity>) {
    let (places, turned_away) = (Arc::<Places>::default(), Arc::<Places>::default());
    let mut looked_at = Instant::now();
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the HTTP endpoint was not accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Some(identity) = identity.as_mut().filter(|_| looked_at.elapsed() >= LOOK_PAUSE) {
            looked_at = Instant::now();
            identity.renew();
        }
        let acceptor = identity.as_ref().map(|identity| TlsAcceptor::from(identity.config()));
        match (places.take(CONNECTIONS_MAX), acceptor) {
            (Some(place), acceptor) => {
                tokio::spawn(talk(stream, app.clone(), acceptor, place));
            }
            (None, None) => {
                if let Some(place) = turned_away.take(TURNED_AWAY_MAX) {
                    tokio::spawn(turn_away(stream, place));
                }
            }
            // saying so would take a handshake
            (None, Some(_)) => {}
        }
    }
}

async fn turn_away(stream: TcpStream, _place: Place) {
    let mut stream = Patient::new(stream);
    let said = async {
        let why = "as many connections are open as there may be; come again later";
        stream.write_all(last_word("503 Service Unavailable", why).as_bytes()).await?;
        stream.shutdown().await
    };
    // it may have gone
    let _said: io::Result<()> = said.await;
}

async fn talk(stream: TcpStream, app: Router, acceptor: Option<TlsAcceptor>, _place: Place) {
    let Ok(to) = stream.local_addr() else { return };
    // answers are written in one piece, and events are small
    let _set: io::Result<()> = stream.set_nodelay(true);
    let stream = Patient::new(stream);
    let outcome = match acceptor {
        None => converse(stream, app, arrival(to, Scheme::Http)).await,
        Some(acceptor) => match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => converse(stream, app, arrival(to, Scheme::Https)).await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection to the HTTP endpoint has failed");
    }
}

const fn arrival(to: SocketAddr, scheme: Scheme) -> Arrival {
    Arrival { to: to.ip(), scheme }
}

/// Answers the requests of one connection until it ends.
async fn converse<T>(stream: T, app: Router, arrival: Arrival) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let app = TowerToHyperService::new(app.layer(Extension(arrival)));
    // hyper gives the stream back only when all is Unpin
    let service = service_fn(move |request| Box::pin(app.call(request)));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_LEN_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let outcome = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let parts = connection.into_parts();
    let mut stream = pin!(parts.io.into_inner());
    let is_late = outcome.as_ref().is_err_and(hyper::Error::is_timeout) && !parts.read_buf.is_empty();
    if is_late {
        let why = "the request did not come to its end in time";
        stream.write_all(last_word("408 Request Timeout", why).as_bytes()).await?;
    }
    stream.shutdown().await?;
    outcome.map_err(io::Error::other)
}

/// An answer where there is no request that hyper could answer.
fn last_word(status: &str, why: &str) -> String {
    let body = format!("{{\"schema\":\"optimacore.error/1\",\"error\":\"{why}\"}}");
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
