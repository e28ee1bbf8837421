//! LISTEN, UNLISTEN and NOTIFY in transaction mode: what sessions hear is what they would hear on PostgreSQL directly, and it
//! costs no server connections.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::time::{Duration, Instant};

use dbproto::message::backend::Notification;
use harness::{Cluster, DEADLINE, Message, Plane, RawClient, Reply};

mod crowd;
mod loss;
mod order;
mod random;
mod rule;

/// A data plane with one server connection on one core, and a database of its own.
fn alone() -> (Plane, String) {
    let database = Cluster::shared().make_database();
    (Plane::before(Cluster::shared()).cores("0").pool("size", 1).start(), database)
}

/// What a client has heard: by whom, on which channel, what.
type Heard = (u32, String, String);

fn read(message: &Message) -> Option<Heard> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let heard = (message.tag == b'A').then(|| Notification::read(&message.body).unwrap())?;
    Some((heard.process_id, text(heard.channel), text(heard.payload)))
}

fn heard_in(reply: &Reply) -> Vec<Heard> {
    reply.messages.iter().filter_map(read).collect()
}

fn payloads(reply: &Reply) -> Vec<String> {
    heard_in(reply).into_iter().map(|(_, _, payload)| payload).collect()
}

/// The next notification, which nobody has asked for.
fn hear(client: &mut RawClient) -> Heard {
    let message = client.receive();
    let heard = read(&message);
    assert!(heard.is_some(), "no notification: {message:?}");
    heard.unwrap()
}

/// The same from a direct connection, whose process id is another each time.
fn hear_payload(client: &mut RawClient) -> String {
    hear(client).2
}

/// Waits until one connection listens for so many sessions, none of which has one of its own.
fn wait_until_moved(plane: &Plane, database: &str, sessions: u64) {
    let mut pool = plane.pool(database);
    let deadline = Instant::now() + DEADLINE;
    while pool.clients_listening != sessions || pool.servers_pinned > 0 {
        assert!(Instant::now() < deadline, "the line has not taken over: {pool:?}");
        std::thread::sleep(Duration::from_millis(10));
        pool = plane.pool(database);
    }
}

/// Functions that listen and let go, made elsewhere.
fn make_functions(database: &str) {
    for (name, verb) in [("hear", "listen"), ("unhear", "unlisten")] {
        Cluster::shared().sql_in(
            database,
            &format!(
                "create function {name}(text) returns void language plpgsql as $$ begin execute '{verb} ' || $1; end $$"
            ),
        );
    }
}

fn notify(database: &str, channel: &str, payload: &str) {
    Cluster::shared().sql_in(database, &format!("notify {channel}, '{payload}'"));
}
