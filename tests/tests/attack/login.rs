//! Before anybody is let in: start-up packets (A), cancel requests (K), SASL (P).

use crate::wire::Step::{Await, Send};
use crate::wire::{Case, Door, Step, start};

const fn closed(id: &'static str, steps: fn() -> Vec<Step>) -> Case {
    Case { id, door: Door::Closed, steps }
}

const fn scram(id: &'static str, steps: fn() -> Vec<Step>) -> Case {
    Case { id, door: Door::Scram, steps }
}

fn send(bytes: impl Into<Vec<u8>>) -> Vec<Step> {
    vec![Send(bytes.into())]
}

/// A packet without a tag that says it is so long.
fn packet(len: u32, rest: &[u8]) -> Vec<u8> {
    [&len.to_be_bytes()[..], rest].concat()
}

/// A packet without a tag, as long as it is.
fn whole(code: u32, rest: &[u8]) -> Vec<u8> {
    packet(u32::try_from(rest.len() + 8).unwrap(), &[&code.to_be_bytes()[..], rest].concat())
}

const V3: u32 = 3 << 16;
const CANCEL: u32 = 80_877_102;
const USER: (&str, &str) = ("user", "postgres");
const DATABASE: (&str, &str) = ("database", "postgres");

fn user(more: &[(&str, &str)]) -> Vec<u8> {
    start(&[&[USER, DATABASE], more].concat())
}

fn query(text: &str) -> Vec<u8> {
    let body = [text.as_bytes(), b"\0"].concat();
    message(b'Q', &body)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &packet(u32::try_from(body.len() + 4).unwrap(), body)[..]].concat()
}

/// Logs in, and asks something then.
fn then_ask(first: Vec<u8>, text: &str) -> Vec<Step> {
    vec![Send(first), Await(b'Z'), Send(query(text))]
}

/// A SASLInitialResponse that says its response is so long.
fn initial_of(mechanism: &str, len: u32, response: &[u8]) -> Vec<u8> {
    message(b'p', &[mechanism.as_bytes(), b"\0", &len.to_be_bytes(), response].concat())
}

fn initial(response: &[u8]) -> Vec<u8> {
    initial_of("SCRAM-SHA-256", u32::try_from(response.len()).unwrap(), response)
}

const FIRST: &[u8] = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO";

/// The list.
pub(crate) const CASES: &[Case] = &[
    closed("A01", || send(packet(0, &V3.to_be_bytes()))),
    closed("A02", || send(packet(4, b""))),
    closed("A03", || send(packet(7, &[0, 3, 0]))),
    closed("A04", || send(packet(u32::MAX, &V3.to_be_bytes()))),
    closed("A05", || send(packet(0x7fff_ffff, &V3.to_be_bytes()))),
    closed("A06", || send(whole(V3, &vec![b'x'; 9_993]))),
    closed("A07", || send(whole(V3, &vec![b'x'; 1 << 20]))),
    closed("A08 no final NUL", || send(whole(V3, b"user\0postgres\0"))),
    closed("A08 nothing at all", || send(whole(V3, b""))),
    closed("A09", || send(whole(V3, b"user\0postgres\0database\0\0"))),
    closed("A10", || send(start(&[("user", ""), DATABASE]))),
    closed("A11", || send(start(&[DATABASE]))),
    closed("A12", || then_ask(start(&[("user", "scrammed"), USER, DATABASE]), "select current_user, session_user")),
    closed("A12 the other way", || send(start(&[USER, ("user", "scrammed"), DATABASE]))),
    closed("A13", || send(whole(2 << 16, b"user\0postgres\0\0"))),
    closed("A14", || send(whole(4 << 16, b"user\0postgres\0\0"))),
    closed("A15", || {
        let rest = b"user\0postgres\0database\0postgres\0\0";
        then_ask(whole(V3 + 2, rest), "select 15")
    }),
    closed("A16", || then_ask(user(&[("_pq_.evil", "1")]), "select 16")),
    closed("A17", || then_ask(user(&[("search_path", "evil")]), "show search_path")),
    closed("A18", || then_ask(user(&[("options", "-c role=plain")]), "select current_user, session_user")),
    closed("A18 with blanks", || then_ask(user(&[("options", "-c work_mem=1\\234MB")]), "show work_mem")),
    closed("A18 unknown switch", || send(user(&[("options", "-Z")]))),
    closed("A18 unknown setting", || send(user(&[("no_such_setting", "1")]))),
    closed("A18 refused value", || send(user(&[("work_mem", "much")]))),
    closed("A19", || then_ask(user(&[("replication", "true")]), "IDENTIFY_SYSTEM_NOT")),
    closed("A20", || send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")),
    closed("A21", || {
        let body = [query("drop table x"), user(&[])].concat();
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        send([head.into_bytes(), body].concat())
    }),
    closed("A22", || {
        send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".iter().copied().chain([7; 505]).collect::<Vec<_>>())
    }),
    closed("A23", || send(start(&[("user", &"u".repeat(5_000)), DATABASE]))),
    closed("A24", || send(start(&[USER, ("database", &"d".repeat(4_096))]))),
    closed("A25", || send(start(&[USER, ("database", "pgbouncer")]))),
    closed("A26", || send(query("select 26"))),
    closed("A27", || send([user(&[]), query("select 27")].concat())),
    closed("A27 behind a proof", || send([start(&[("user", "scrammed"), DATABASE]), query("select 27")].concat())),
    closed("A27 half of it", || send(user(&[]).get(..20).unwrap())),
    closed("K01", || send(whole(CANCEL, b"\0\x01\x02\x03\x09\x08\x07\x06"))),
    closed("K02", || send(whole(CANCEL, b"\0\x01\x02\x03"))),
    closed("K03", || send(whole(CANCEL, &[7; 304]))),
    closed("K03 and a startup packet", || {
        send([whole(CANCEL, b"\0\x01\x02\x03\x09\x08\x07\x06"), user(&[]), query("select 1")].concat())
    }),
    scram("P01", || send(initial_of("SCRAM-SHA-256", u32::MAX, &[b'n'; 32]))),
    scram("P02", || send(initial_of("SCRAM-SHA-256", 0xffff_fff0, &[b'n'; 32]))),
    scram("P03", || send(initial_of("SCRAM-SHA-256", 0x7fff_ffff, &[b'n'; 32]))),
    scram("P04", || send(initial_of("SCRAM-SHA-1", 28, FIRST))),
    scram("P05", || send(initial_of("SCRAM-SHA-256-PLUS", 28, FIRST))),
    scram("P06", || send(initial(b"y,,n=,r=rOprNGfwEbeRWgbNEkqO"))),
    scram("P07", || send(initial(&[b"n,,n=,r=", &vec![b'a'; 60_000][..]].concat()))),
    scram("P08", || send(message(b'p', &vec![b'a'; 1 << 20]))),
    scram("P09", || send([&b"p"[..], &packet(0x7fff_ffff, b"SCRAM-SHA-256\0")].concat())),
    scram("P10", || send(query("select 1"))),
    scram("P11", || send([&b"p"[..], &packet(3, b"")].concat())),
    scram("P12", || send(initial(b"n,,n=,r="))),
    scram("P13", || send(initial(b"n,,r=rOprNGfwEbeRWgbNEkqO"))),
    scram("P14", || send(initial(b"n,,n=,r=rOprN\0GfwEbeRWgbNEkqO"))),
    scram("P15 first twice", || vec![Send(initial(FIRST)), Await(b'R'), Send(initial(FIRST))]),
    scram("P15 final first", || send(message(b'p', b"c=biws,r=rOprNGfwEbeRWgbNEkqO,p=AAAA"))),
    scram("P15 final without a proof", || {
        vec![Send(initial(FIRST)), Await(b'R'), Send(message(b'p', b"c=biws,r=abc"))]
    }),
    scram("P15 first in two", || {
        let bytes = initial(FIRST);
        let (one, two) = bytes.split_at(9);
        vec![Send(one.to_vec()), Send(two.to_vec())]
    }),
    scram("P17", || send(initial(b"p=tls-server-end-point,,n=,r=rOprNGfwEbeRWgbNEkqO"))),
    scram("P no response", || send(initial_of("SCRAM-SHA-256", u32::MAX, b""))),
    scram("P nothing", || send(message(b'p', b""))),
    scram("P unended", || send(message(b'p', b"SCRAM-SHA-256"))),
    scram("P authzid", || send(initial(b"n,a=other,n=,r=rOprNGfwEbeRWgbNEkqO"))),
    scram("P attribute", || send(initial(b"n,,m=x,n=,r=rOprNGfwEbeRWgbNEkqO"))),
];
