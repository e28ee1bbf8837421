//! Real sockets through one and two executors.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::thread;

use super::*;
use crate::Tenure;
use crate::reactor::{Io, SocketId, Token};

enum Message {
    Socket(OwnedFd),
    Stop,
}

/// Sends back what comes; hands every accepted socket to the other shard, pauses those that do not read.
struct Echo {
    listener: Option<OwnedFd>,
}

impl Reactor for Echo {
    type Message = Message;

    fn on_start(&mut self, io: &mut dyn Io<Message>) {
        if let Some(listener) = self.listener.take() {
            io.listen(listener, Tenure::Own, 0);
        }
    }

    fn on_event(&mut self, io: &mut dyn Io<Message>, event: Event<'_>) {
        match event {
            Event::Accepted { socket, .. } => {
                let to = ShardId(u16::try_from(io.shard_count() - 1).unwrap());
                if let Err(Message::Socket(socket)) = io.post(to, Message::Socket(socket)) {
                    io.attach(socket, 7);
                }
            }
            Event::Received { socket, bytes, .. } => {
                io.output(socket).extend_from_slice(bytes);
                if io.output_len(socket) > 4 * LOW_WATER {
                    io.pause(socket);
                    io.notify_drained(socket);
                }
            }
            Event::Drained { socket, .. } => io.resume(socket),
            Event::Finished { socket, .. } => io.close_after_output(socket),
            Event::Connected { .. } | Event::Closed { .. } | Event::Detached { .. } | Event::Secured { .. } => {}
        }
    }

    fn on_message(&mut self, io: &mut dyn Io<Message>, _from: ShardId, message: Message) {
        if let Message::Socket(socket) = message {
            let id = io.attach(socket, 7);
            stale_ids_do_nothing(io, id);
        }
    }

    fn on_control(&mut self, io: &mut dyn Io<Message>, message: Message) {
        if matches!(message, Message::Stop) {
            io.stop();
        }
    }

    fn on_timer(&mut self, _io: &mut dyn Io<Message>) {}
}

fn stale_ids_do_nothing(io: &mut dyn Io<Message>, id: SocketId) {
    let stale = SocketId { generation: id.generation.wrapping_add(1), ..id };
    io.output(stale).extend_from_slice(b"nobody");
    assert_eq!(io.output_len(stale), 0);
    io.close(stale);
}

fn start() -> (std::net::SocketAddr, Running<Message>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = Arc::new(Mutex::new(Some(OwnedFd::from(listener))));
    let cores = crate::topology::pick(None).unwrap().into_iter().take(2).collect();
    let make =
        move |shard: ShardId| Echo { listener: if shard.0 == 0 { listener.lock().unwrap().take() } else { None } };
    (address, launch(&Plan::new(cores), make).unwrap())
}

#[test]
fn every_byte_comes_back_through_another_shard() {
    let (address, running) = start();
    let clients: Vec<_> = [1_usize, 100, 70_000, 8 << 20]
        .into_iter()
        .map(|len| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                let sent: Vec<u8> = (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
                let mut writer = stream.try_clone().unwrap();
                let copy = sent.clone();
                let writing = thread::spawn(move || writer.write_all(&copy).unwrap());
                let mut received = vec![0; len];
                stream.read_exact(&mut received).unwrap();
                writing.join().unwrap();
                assert!(received == sent);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    for handle in running.handles() {
        handle.post(Message::Stop);
    }
    running.join().unwrap();
    assert!(TcpStream::connect(address).is_err(), "a stopped shard listens no more");
}

/// Sends back what comes and gives the connection to the other shard after every piece.
struct Wanderer {
    listener: Option<OwnedFd>,
    moves: Sender<ShardId>,
}

impl Reactor for Wanderer {
    type Message = Step;

    fn on_start(&mut self, io: &mut dyn Io<Step>) {
        if let Some(listener) = self.listener.take() {
            io.listen(listener, Tenure::Own, 0);
        }
    }

    fn on_event(&mut self, io: &mut dyn Io<Step>, event: Event<'_>) {
        match event {
            Event::Accepted { socket, .. } => {
                io.attach(socket, 7);
            }
            Event::Received { socket, bytes, .. } => {
                io.output(socket).extend_from_slice(bytes);
                io.detach(socket);
            }
            Event::Detached { socket, output, token, .. } => {
                assert_eq!(token, 7);
                let to = ShardId(u16::try_from(io.shard_count() - 1).unwrap() - io.shard().0);
                self.moves.send(to).unwrap();
                match io.post(to, Step::Moved(socket, output)) {
                    Ok(()) => {}
                    Err(message) => self.on_message(io, to, message),
                }
            }
            Event::Finished { socket, .. } => io.close(socket),
            Event::Drained { .. } | Event::Connected { .. } | Event::Closed { .. } | Event::Secured { .. } => {}
        }
    }

    fn on_message(&mut self, io: &mut dyn Io<Step>, _from: ShardId, message: Step) {
        if let Step::Moved(socket, output) = message {
            let id = io.attach(socket, 7);
            io.output(id).extend_from_slice(&output);
        }
    }

    fn on_control(&mut self, io: &mut dyn Io<Step>, message: Step) {
        if matches!(message, Step::Stop) {
            io.stop();
        }
    }

    fn on_timer(&mut self, _io: &mut dyn Io<Step>) {}
}

enum Step {
    Moved(OwnedFd, bytes::BytesMut),
    Stop,
}

#[test]
fn no_byte_is_lost_while_a_connection_moves_between_shards() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = Arc::new(Mutex::new(Some(OwnedFd::from(listener))));
    let (moves, moved) = unbounded();
    let cores = crate::topology::pick(None).unwrap().into_iter().take(2).collect();
    let make = move |shard: ShardId| Wanderer {
        listener: if shard.0 == 0 { listener.lock().unwrap().take() } else { None },
        moves: moves.clone(),
    };
    let running = launch(&Plan::new(cores), make).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    // one piece at a time: each comes back by way of a move
    for round in 0..10_u8 {
        let mut echo = [0; 97];
        stream.write_all(&[round; 97]).unwrap();
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(echo, [round; 97]);
    }
    let sent: Vec<u8> = (0..400_000_usize).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
    let copy = sent.clone();
    // the peer goes on sending while its connection moves
    let writing = thread::spawn(move || {
        for piece in copy.chunks(97) {
            writer.write_all(piece).unwrap();
        }
    });
    let mut received = vec![0; sent.len()];
    stream.read_exact(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent);
    assert!(moved.try_iter().count() >= 10);
    for handle in running.handles() {
        handle.post(Step::Stop);
    }
    running.join().unwrap();
}

#[test]
fn a_refused_connect_is_an_event() {
    struct Dial {
        outcome: Sender<(Token, String)>,
    }
    impl Reactor for Dial {
        type Message = ();
        fn on_start(&mut self, io: &mut dyn Io<()>) {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            io.connect(&crate::Address::Tcp(free), 9).unwrap();
        }
        fn on_event(&mut self, io: &mut dyn Io<()>, event: Event<'_>) {
            if let Event::Closed { token, cause, .. } = event {
                self.outcome.send((token, cause.to_string())).unwrap();
                io.set_timer(Some(io.now() + Duration::from_millis(1)));
            }
        }
        fn on_message(&mut self, _io: &mut dyn Io<()>, _from: ShardId, _message: ()) {}
        fn on_control(&mut self, _io: &mut dyn Io<()>, _message: ()) {}
        fn on_timer(&mut self, io: &mut dyn Io<()>) {
            io.stop();
        }
    }
    let (outcome, heard) = unbounded();
    let cores = crate::topology::pick(None).unwrap().into_iter().take(1).collect();
    let running = launch(&Plan::new(cores), move |_| Dial { outcome: outcome.clone() }).unwrap();
    let (token, cause) = heard.recv().unwrap();
    assert_eq!(token, 9);
    assert!(cause.contains("refused"), "{cause}");
    running.join().unwrap();
}
