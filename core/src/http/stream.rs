//! Lines of the series stream on their way to one reader: as Server-Sent Events without an end, or as a file.
//!
//! A task takes them from the history as fast as the reader takes them from us, one piece ahead. What a reader does not take
//! stays in the history for everybody and costs nothing; one that falls too far behind is let go.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::history::{History, LineNumber, Reading};
use super::sampler::Beginning;

/// Bytes of one piece, unless a single line is longer.
const PIECE_LEN: usize = 64 * 1024;
/// How long a reader may take for one piece, and for all that there is when it comes.
const PIECE_MAX: Duration = Duration::from_secs(20);
const CATCH_UP_MAX: Duration = Duration::from_secs(120);
/// How far a reader that was up to date may fall behind.
const LAG_MAX: Duration = Duration::from_secs(30);

/// How lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// One a line.
    Lines,
    /// One an event named `line`.
    Events,
}

/// Where a stream ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Before this line.
    At(LineNumber),
    Never,
}

/// A bounded number of places.
#[derive(Debug, Default)]
pub(super) struct Places(AtomicU32);

/// One of the places; free again when this goes.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

impl Places {
    /// Takes one of so many, if one is free.
    pub(super) fn take(self: &Arc<Self>, most: u32) -> Option<Place> {
        let taken =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1));
        taken.is_ok().then(|| Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The reader was too slow.
#[derive(Debug)]
struct TooSlow;

impl std::fmt::Display for TooSlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the reader has fallen behind")
    }
}

impl std::error::Error for TooSlow {}

type Piece = Result<Bytes, TooSlow>;

/// The body of an answer.
struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    /// Taken as long as somebody reads.
    _place: Place,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = TooSlow;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TooSlow>>> {
        self.pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Starts a stream; its task ends with the body.
pub(super) fn start(
    history: &Arc<History>,
    beginning: Beginning,
    (framing, end): (Framing, End),
    place: Place,
) -> Body {
    let (sender, pieces) = mpsc::channel(1);
    let writer = Writer { history: Arc::clone(history), next: beginning.from, framing, end, sender };
    tokio::spawn(writer.run(beginning));
    Body::new(Pieces { pieces, _place: place })
}

struct Writer {
    history: Arc<History>,
    next: LineNumber,
    framing: Framing,
    end: End,
    sender: mpsc::Sender<Piece>,
}

/// Nobody reads any more.
struct Gone;

impl Writer {
    async fn run(mut self, beginning: Beginning) {
        // an error means that there is nobody to tell
        let _ended: Result<(), Gone> = self.write_all(beginning).await;
    }

    async fn write_all(&mut self, beginning: Beginning) -> Result<(), Gone> {
        let began = Instant::now();
        // before the first look, so that nothing is missed between the two
        let mut news = self.history.follow();
        let mut piece = String::new();
        for line in std::iter::once(beginning.header).chain(beginning.known) {
            self.frame(&mut piece, &line);
            if piece.len() >= PIECE_LEN {
                self.send(Ok(std::mem::take(&mut piece).into())).await?;
            }
        }
        self.send(Ok(piece.into())).await?;
        let mut was_up_to_date = false;
        loop {
            let _seen: LineNumber = *news.borrow_and_update();
            match self.read() {
                Reading::Lines(lines, at, next) => {
                    let behind = if was_up_to_date { at.elapsed() > LAG_MAX } else { began.elapsed() > CATCH_UP_MAX };
                    if behind {
                        return self.send(Err(TooSlow)).await;
                    }
                    self.next = next;
                    let mut piece = String::with_capacity(PIECE_LEN);
                    lines.iter().for_each(|line| self.frame(&mut piece, line));
                    self.send(Ok(piece.into())).await?;
                }
                Reading::Lost => return self.send(Err(TooSlow)).await,
                Reading::UpToDate if self.end != End::Never => return Ok(()),
                Reading::UpToDate => {
                    was_up_to_date = true;
                    tokio::select! {
                        changed = news.changed() => changed.map_err(|_| Gone)?,
                        () = self.sender.closed() => return Err(Gone),
                    }
                }
            }
        }
    }

    /// The next lines, but none behind the end.
    fn read(&self) -> Reading {
        let reading = self.history.read(self.next, PIECE_LEN);
        match (reading, self.end) {
            (Reading::Lines(..), End::At(end)) if self.next >= end => Reading::UpToDate,
            (Reading::Lines(mut lines, at, next), End::At(end)) if next > end => {
                lines.truncate(usize::try_from(end - self.next).unwrap_or(usize::MAX));
                Reading::Lines(lines, at, end)
            }
            (reading, _) => reading,
        }
    }

    fn frame(&self, out: &mut String, line: &str) {
        match self.framing {
            Framing::Lines => {
                out.push_str(line);
                out.push('\n');
            }
            Framing::Events => {
                out.push_str("event: line\ndata: ");
                out.push_str(line);
                out.push_str("\n\n");
            }
        }
    }

    async fn send(&self, piece: Piece) -> Result<(), Gone> {
        match timeout(PIECE_MAX, self.sender.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(history: &Arc<History>, from: LineNumber, framing: Framing, end: End) -> mpsc::Receiver<Piece> {
        let (sender, pieces) = mpsc::channel(1);
        let writer = Writer { history: Arc::clone(history), next: from, framing, end, sender };
        let beginning = Beginning { header: "{h}".to_owned(), known: vec!["{k}".to_owned()], from };
        tokio::spawn(writer.run(beginning));
        pieces
    }

    async fn text(pieces: &mut mpsc::Receiver<Piece>) -> Option<String> {
        let piece = pieces.recv().await?;
        Some(piece.map_or_else(|error| error.to_string(), |piece| String::from_utf8(piece.to_vec()).unwrap()))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_file_has_the_header_all_that_is_known_and_the_lines_until_its_end() {
        let history = Arc::new(History::default());
        history.push(Instant::now(), vec!["{1}".to_owned(), "{2}".to_owned(), "{3}".to_owned()], Some(String::new()));
        let mut pieces = begun(&history, 0, Framing::Lines, End::At(2));
        assert_eq!(text(&mut pieces).await.as_deref(), Some("{h}\n{k}\n"));
        assert_eq!(text(&mut pieces).await.as_deref(), Some("{1}\n{2}\n"));
        assert_eq!(text(&mut pieces).await, None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_live_stream_goes_on_with_what_comes() {
        let history = Arc::new(History::default());
        let mut pieces = begun(&history, 0, Framing::Events, End::Never);
        assert_eq!(text(&mut pieces).await.as_deref(), Some("event: line\ndata: {h}\n\nevent: line\ndata: {k}\n\n"));
        assert!(history.is_followed());
        history.push(Instant::now(), vec!["{1}".to_owned()], Some(String::new()));
        assert_eq!(text(&mut pieces).await.as_deref(), Some("event: line\ndata: {1}\n\n"));
        drop(pieces);
        while history.is_followed() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_reader_that_takes_nothing_is_let_go() {
        let history = Arc::new(History::default());
        history.push(Instant::now(), vec!["{1}".to_owned(), "{2}".to_owned()], Some(String::new()));
        let pieces = begun(&history, 0, Framing::Events, End::Never);
        // time goes on by itself while everybody waits
        while history.is_followed() || !pieces.is_closed() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        drop(pieces);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_whose_place_is_given_up_is_told() {
        let history = Arc::new(History::default());
        let mut pieces = begun(&history, 0, Framing::Lines, End::Never);
        assert!(text(&mut pieces).await.is_some());
        for _ in 0..40 {
            history.push(Instant::now(), vec!["x".repeat(1024 * 1024)], Some(String::new()));
        }
        assert_eq!(text(&mut pieces).await.as_deref(), Some("the reader has fallen behind"));
        assert_eq!(text(&mut pieces).await, None);
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Arc::new(Places::default());
        let held: Vec<Place> = (0..2).map(|_| places.take(2).unwrap()).collect();
        assert!(places.take(2).is_none());
        drop(held);
        assert!(places.take(2).is_some());
    }
}
