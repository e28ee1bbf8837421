//! Bytes of a socket with TLS, on their way from the ring to the reactor.

use super::{Hears, finished};
use crate::reactor::{Closed, Event, Io as _, SocketId};
use crate::socket::Life;
use crate::tls::{End, Heard};
use crate::uring::RingIo;

/// Opens what came and tells the reactor what it says; what has to be answered goes out at the end of the turn.
pub(super) fn on_bytes<M>(reactor: &mut impl Hears<M>, io: &mut RingIo<M>, id: SocketId, bytes: &[u8]) {
    let mut plain = std::mem::take(&mut io.plain);
    let mut records = std::mem::take(&mut io.records);
    let Some(socket) = io.sockets.get_mut(id) else { return };
    let token = socket.token;
    let Some(tls) = socket.tls.as_deref_mut() else { return };
    let Heard { agreed, end } = tls.receive(bytes, &mut plain, &mut records);
    io.records = records;
    io.mark_dirty(id);
    if let Some(agreed) = agreed {
        reactor.hear(io, Event::Secured { socket: id, token, agreed });
    }
    if !plain.is_empty() && listens(io, id) {
        reactor.hear(io, Event::Received { socket: id, token, bytes: &plain });
    }
    plain.clear();
    io.plain = plain;
    match end {
        None => {}
        Some(End::PeerClosed) => finished(reactor, io, id),
        Some(End::Broken(error)) => {
            let told = !listens(io, id);
            // the alert still goes out
            io.close_after_output(id);
            if !told {
                reactor.hear(io, Event::Closed { socket: id, token, cause: Closed::Tls(error) });
            }
        }
    }
}

/// Whether the reactor has not closed the socket.
fn listens<M>(io: &RingIo<M>, id: SocketId) -> bool {
    io.sockets.get(id).is_some_and(|socket| matches!(socket.life, Life::Open | Life::Leaving))
}
