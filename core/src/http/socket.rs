//! A connection whose other end may be slow, but not for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How long the other end may take none of what we have for it.
const STALL_MAX: Duration = Duration::from_secs(10);
/// How long, and how many bytes, we listen to the other end after our last word: closing at once would throw away what it has not
/// read yet.
const LINGER_MAX: Duration = Duration::from_secs(1);
const LINGER_LEN_MAX: usize = 256 * 1024;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Patient {
    stream: TcpStream,
    /// Since the other end takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

/// We have said our last word.
#[derive(Debug)]
struct Linger {
    until: Pin<Box<Sleep>>,
    heard_len: usize,
}

impl Patient {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self { stream, stall: None, linger: None }
    }

    /// Counts the time in which nothing is taken.
    fn watch<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stall = None;
            return progress;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, progress)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let own = &mut *self;
        let linger = match &mut own.linger {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut own.stream).poll_shutdown(cx))?;
                own.linger.insert(Linger { until: Box::pin(sleep(LINGER_MAX)), heard_len: 0 })
            }
        };
        let mut scratch = [0; 4096];
        while linger.heard_len < LINGER_LEN_MAX && linger.until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut own.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => linger.heard_len += buf.filled().len(),
                // it has nothing more to say
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.watch(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Patient, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Patient::new(accepted.unwrap().0), client.unwrap())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (mut ours, _theirs) = pair().await;
        tokio::time::pause();
        let error = ours.write_all(&vec![0; 64 * 1024 * 1024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_last_word_reaches_who_is_still_talking() {
        let (mut ours, mut theirs) = pair().await;
        theirs.write_all(&[1; 100_000]).await.unwrap();
        ours.write_all(b"last word").await.unwrap();
        let (shut, heard) = tokio::join!(ours.shutdown(), async {
            let mut heard = String::new();
            theirs.read_to_string(&mut heard).await.unwrap();
            drop(theirs);
            heard
        });
        shut.unwrap();
        assert_eq!(heard, "last word");
    }
}
