//! Logins: both sides talk to each other through somebody who changes what they say. Only what nobody changed may succeed.

use std::sync::OnceLock;

use bytes::BytesMut;
use dbproto::auth::ClientAuth;
use dbproto::auth::server::{Challenge, Secret, ServerAuth, Step, build_scram_verifier};
use dbproto::frame;
use dbproto::message::backend::Authentication;

use crate::Target;

/// A change: which message, where, and by what.
pub(crate) const EXCHANGE: Target = Target {
    name: "SASL",
    inputs: &[
        b"\0\0\0\0",
        b"\x01\0\x05\x01n",
        b"\x01\0\x12\x04\xff\xff\xff\xff",
        b"\x02\0\x20\x01,",
        b"\x03\0\x08\x01A",
        b"\x04\0\x03\x01v",
        b"\x01\0\0\x0eSCRAM-SHA-256\0\xff\xff\xff\xf0nnnn",
        b"\x01\0\x12\x20y,,",
        b"\x01\0\x12\x20p=tls-server-end-point,,",
        b"\x02\0\0\x20r=foreign,s=QUJD,i=64",
        b"\x04\0\0\x20e=other-error",
    ],
    words: &[b"n,,", b"n=", b"r=", b",p=", b"c=biws", b"m=x,", b"i=64", b"=", b"\0", b"v="],
    check: check_exchange,
};

const PASSWORD: &[u8] = b"a password";

/// One message of the exchange after the change.
struct Changed {
    body: Vec<u8>,
    was_changed: bool,
}

/// The change that an input stands for, if it is for the message of this number.
fn change(input: &[u8], number: u8, body: &[u8]) -> Changed {
    let mut out = body.to_vec();
    if let [which, a, b, len, text @ ..] = input
        && *which % 5 == number
    {
        let at = usize::from(u16::from_be_bytes([*a, *b])).min(out.len());
        let end = (at + usize::from(*len)).min(out.len());
        out.splice(at..end, text.iter().copied());
    }
    Changed { was_changed: out != body, body: out }
}

/// What one side has written: the body of its only message.
fn only_body(out: &BytesMut) -> Vec<u8> {
    assert!(out.len() < 128 * 1024, "{} bytes are written for one message", out.len());
    frame::split(out).unwrap().map(|(message, _)| message.body.to_vec()).unwrap_or_default()
}

fn check_exchange(input: &[u8]) {
    static VERIFIER: OnceLock<Secret> = OnceLock::new();
    let secret = VERIFIER.get_or_init(|| Secret::parse(&build_scram_verifier("a password", b"salt", 64)).unwrap());
    let challenge = Challenge { salt: [1; 4], nonce: [7; 18] };
    let mut changed = false;
    let mut pass = |number: u8, body: &[u8]| {
        let message = change(input, number, body);
        // what is offered is not a part of what is proven, without a channel binding
        changed |= message.was_changed && number > 0;
        message.body
    };
    let mut out = BytesMut::new();
    let (mut server, step) = ServerAuth::start(secret, b"alice", challenge, &mut out);
    assert_eq!(step, Step::Continue);
    let mut client = ClientAuth::new(b"alice", Some(PASSWORD));
    let (mut said, mut number) = (only_body(&out), 0);
    let mut accepted = false;
    // offer, first, first, final, final
    while number < 5 {
        let mut out = BytesMut::new();
        let heard = pass(number, &said);
        if number % 2 == 0 {
            if asks_for_much(&heard) {
                return;
            }
            let Ok(request) = Authentication::read(&heard) else { break };
            if client.handle(request, &mut out).is_err() || number == 4 {
                break;
            }
        } else {
            match server.handle_password(&heard, &mut out) {
                Step::Continue => {}
                Step::Done => accepted = true,
                Step::Failed => break,
            }
        }
        said = only_body(&out);
        number += 1;
    }
    let believed = number == 4 && client.handle(Authentication::Ok, &mut BytesMut::new()).is_ok();
    if input.first().is_some_and(|which| which % 5 == 0) {
        // an offer that is changed may be refused or not
        assert!(accepted || !believed);
    } else if changed {
        assert!(!(accepted && believed), "a changed exchange satisfied both sides");
    } else {
        assert!(accepted && believed, "an exchange that nobody changed failed");
    }
}

/// Rounds of hashing that would take the time of all other inputs.
fn asks_for_much(heard: &[u8]) -> bool {
    let count = heard.split(|byte| *byte == b',').filter_map(|part| part.strip_prefix(b"i="));
    count.filter_map(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok()).any(|count| count > 500)
}

/// Secrets as administrators write them.
pub(crate) const SECRETS: Target = Target {
    name: "secrets",
    inputs: &[
        b"SCRAM-SHA-256$4096:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        b"md5c0b6b2a5c0b6b2a5c0b6b2a5c0b6b2a5",
        b"a password",
        b"",
    ],
    words: &[b"$", b":", b"=", b"SCRAM-SHA-256", b"md5", b"-1", b"2147483648"],
    check: check_secret,
};

fn check_secret(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(secret) = Secret::parse(text) else { return };
    assert!(text.starts_with("md5") || text.starts_with("SCRAM-SHA-256$"), "a password passed for a secret");
    let shown = format!("{secret:?}");
    assert!(shown.len() < 20 && !shown.contains('='), "a secret shows itself: {shown}");
    // nobody is let in who proves nothing
    let challenge = Challenge { salt: [1; 4], nonce: [7; 18] };
    let mut out = BytesMut::new();
    let (mut server, step) = ServerAuth::start(&secret, b"alice", challenge, &mut out);
    assert_eq!(step, Step::Continue);
    assert_ne!(server.handle_password(input, &mut out), Step::Done);
}
