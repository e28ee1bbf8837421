//! Servers that break the protocol (the list M): whatever they say, the program goes on, the client hears of one error and one
//! end of its request or is cut off, the connection is not used again, and nothing grows without bound.
//!
//! Each is a few lines of script for an [`Impostor`]: what it says when it is asked for `evil`. Asked for anything else it
//! answers like PostgreSQL, so that the next request shows whether the service is well. M13 (another cluster) needs
//! replicas and is not here.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::impostor::{READY, Visit, message, reply, row, welcome};
use harness::{ErrorReply, Impostor, Message, Plane, RawClient, Request, wait_until, wait_within};

/// What a server does when it is asked for `evil`.
type Evil = fn(&mut Visit);

/// Answers like PostgreSQL as far as it is needed here; true when it was asked for `evil`.
fn serve(visit: &mut Visit) -> bool {
    while let Some(text) = visit.expect_request() {
        match text.as_str() {
            "select 'evil'" => return true,
            text if text.starts_with("select '") => {
                let value = text.trim_start_matches("select '").trim_end_matches('\'');
                visit.say(&reply(value));
            }
            // what a session has left: nothing
            text if text.contains("pg_my_temp_schema") => {
                let columns = message(b'D', b"\0\x03\0\0\0\x01a\0\0\0\x08postgres\0\0\0\0");
                visit.say(&[columns, message(b'C', b"SELECT 1\0"), READY.to_vec()].concat());
            }
            "DISCARD ALL" => visit.say(&[&message(b'C', b"DISCARD ALL\0"), READY].concat()),
            text => {
                // settings of a session, and questions about a catalog that there is not
                let sets = text.matches("set_config").count();
                let code = if text.to_lowercase().contains("pg_class") { "42P01" } else { "42601" };
                let error = message(b'E', format!("SERROR\0VERROR\0C{code}\0Mno\0\0").as_bytes());
                let each = [row("value"), message(b'C', b"SELECT 1\0")].concat();
                let answer = if sets > 0 { each.repeat(sets) } else { error };
                visit.say(&[&answer, READY].concat());
            }
        }
    }
    false
}

/// A server that lets everybody in and is evil when it is asked to be.
fn impostor(evil: Evil) -> Impostor {
    Impostor::start(move |mut visit| {
        if visit.let_in() && serve(&mut visit) {
            evil(&mut visit);
        }
        visit.wait_for_the_end();
    })
}

fn plane(impostor: &Impostor) -> Plane {
    Plane::before_port(impostor.port()).cores("0").pool("size", 1).pool("query_wait_timeout", "3s").start()
}

fn resident_kb(plane: &Plane) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", plane.pid())).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

fn ask(client: &mut RawClient, request: &Request) -> Vec<Message> {
    client.send(request.bytes());
    client.receive_to_end_or_ready()
}

/// The errors in a reply, and how many requests it ends.
fn outline(messages: &[Message]) -> (Vec<String>, usize) {
    let errors =
        messages.iter().filter(|message| message.tag == b'E').map(|message| ErrorReply::read(&message.body).code);
    (errors.collect(), messages.iter().filter(|message| message.tag == b'Z').count())
}

/// A client is hurt by a server as little as can be, and the next request is served by a connection of its own.
fn one_error_and_a_new_connection(what: &str, evil: Evil) {
    let impostor = impostor(evil);
    let plane = plane(&impostor);
    let (mut victim, mut other) = (plane.client("postgres"), plane.client("postgres"));
    assert_eq!(other.query("select 'good'").value(), "good", "{what}");
    let before = (impostor.visits(), resident_kb(&plane));
    let messages = ask(&mut victim, &Request::new().query("select 'evil'"));
    let (errors, ends) = outline(&messages);
    assert!(errors.len() == 1 && ends <= 1, "{what}: {messages:?}");
    assert!(errors.iter().all(|code| code.starts_with("08") || code.starts_with("XX")), "{what}: {messages:?}");
    assert_eq!(other.query("select 'still good'").value(), "still good", "{what}");
    assert!(impostor.visits() > before.0, "{what}: the connection was used again");
    let grown = resident_kb(&plane).saturating_sub(before.1);
    assert!(grown < 16 * 1024, "{what}: {grown} kB more");
    if ends == 1 {
        assert_eq!(victim.query("select 'served again'").value(), "served again", "{what}");
    }
}

#[test]
fn m04_frames_that_cannot_be() {
    for (what, evil) in [
        ("a length of 3", (|visit| visit.say(b"T\0\0\0\x03")) as Evil),
        ("a length of 4 GiB", |visit| visit.say(b"D\xff\xff\xff\xff")),
        ("a length of 2 GiB", |visit| visit.say(b"D\x7f\xff\xff\xff")),
        ("a tag of 0", |visit| visit.say(&message(0, b"what"))),
        ("a tag of frontends", |visit| visit.say(&message(b'Q', b"select 1\0"))),
        ("a long message that is to be whole", |visit| visit.say(b"Z\x10\0\0\0what")),
        ("a ReadyForQuery without a status", |visit| visit.say(b"Z\0\0\0\x04")),
        ("an unknown status", |visit| visit.say(b"Z\0\0\0\x05X")),
        ("a login in the middle", |visit| visit.say(&welcome())),
        ("nonsense", |visit| visit.say(&[0xa5; 4096])),
    ] {
        one_error_and_a_new_connection(what, evil);
    }
}

#[test]
fn m01_errors_that_say_nothing_or_too_much() {
    // such an error is the client's to read; what must be is that it ends there
    let bodies: [fn() -> Vec<u8>; 5] = [
        || b"\0".to_vec(),
        Vec::new,
        || b"Sno end".to_vec(),
        || [b"SERROR\0VERROR\0C\0M".as_slice(), &[b'x'; 2 << 20], b"\0\0"].concat(),
        || b"MFATAL\0MFATAL\0\0\0\0M\0".to_vec(),
    ];
    for body in bodies {
        let said = body();
        let impostor = Impostor::start(move |mut visit| {
            if visit.let_in() {
                while serve(&mut visit) {
                    visit.say(&[&message(b'E', &said), READY].concat());
                }
            }
            visit.wait_for_the_end();
        });
        let plane = plane(&impostor);
        let mut client = plane.client("postgres");
        let messages = ask(&mut client, &Request::new().query("select 'evil'"));
        assert_eq!(messages.iter().map(|message| char::from(message.tag)).collect::<String>(), "EZ");
        assert_eq!(client.query("select 'served'").value(), "served");
    }
}

#[test]
fn m06_more_ends_than_requests() {
    for (what, evil) in [
        ("an end too many", (|visit| visit.say(&[&reply("evil"), READY].concat())) as Evil),
        ("a whole reply too many", |visit| visit.say(&[reply("evil"), reply("foreign")].concat())),
        ("a row behind the end", |visit| visit.say(&[reply("evil"), row("foreign")].concat())),
        ("an end before its reply", |visit| visit.say(&[READY, &message(b'C', b"SELECT 1\0")].concat())),
        ("an end that is torn", |visit| visit.say(&[&reply("evil")[..], b"Z\0"].concat())),
    ] {
        let impostor = impostor(evil);
        let plane = plane(&impostor);
        let (mut victim, mut other) = (plane.client("postgres"), plane.client("postgres"));
        assert_eq!(other.query("select 'good'").value(), "good", "{what}");
        let visits = impostor.visits();
        let messages = ask(&mut victim, &Request::new().query("select 'evil'"));
        assert!(outline(&messages).1 <= 1, "{what}: {messages:?}");
        for number in 0..3 {
            let value = format!("good {number}");
            let reply = other.query(&format!("select '{value}'"));
            assert_eq!((reply.tags().as_str(), reply.values()), ("TDCZ", vec![value]), "{what}");
        }
        assert!(impostor.visits() > visits, "{what}: the connection was used again");
    }
}

#[test]
fn m07_l29_what_comes_while_nobody_asks_reaches_nobody() {
    for (what, said, kept) in [
        ("a row", row("foreign"), false),
        ("an end", READY.to_vec(), false),
        ("a reply", reply("foreign"), false),
        ("a COPY", message(b'G', b"\0\0\0"), false),
        ("an error", message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0"), false),
        ("a notice", message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mfor somebody\0\0"), true),
        ("a notification", message(b'A', b"\0\0\0\x01news\0for somebody\0"), true),
        ("a parameter", message(b'S', b"application_name\0of somebody\0"), true),
    ] {
        let (said, told) = (Arc::new(said), Arc::new(AtomicUsize::new(0)));
        let (words, counts) = (Arc::clone(&said), Arc::clone(&told));
        let impostor = Impostor::start(move |mut visit| {
            if visit.let_in() {
                while serve(&mut visit) {
                    visit.say(&reply("evil"));
                    visit.say(&words);
                    counts.fetch_add(1, Ordering::Release);
                    if words.first() == Some(&b'E') {
                        return;
                    }
                }
            }
            visit.wait_for_the_end();
        });
        let plane = plane(&impostor);
        let (mut one, mut other) = (plane.client("postgres"), plane.client("postgres"));
        assert_eq!(one.query("select 'evil'").value(), "evil", "{what}");
        wait_until("it is said", || told.load(Ordering::Acquire) > 0);
        let visits = impostor.visits();
        if !kept {
            let pool = || plane.pool("postgres");
            wait_until("the connection is closed", || pool().servers_idle == 0 || impostor.visits() > visits);
        }
        let reply = other.query("select 'mine'");
        assert_eq!((reply.tags().as_str(), reply.values()), ("TDCZ", vec!["mine".to_owned()]), "{what}");
        let tags = one.query("select 'mine too'").tags();
        // the connection is the first one's, and may listen for it by what it has run there
        let tags = if what == "a notification" { tags.trim_start_matches('A') } else { &tags };
        assert_eq!(tags, "TDCZ", "{what}");
    }
}

#[test]
fn m08_floods_of_parameters_and_notices_are_bounded() {
    for with_answer in [false, true] {
        let impostor = Impostor::start(move |mut visit| {
            if !visit.let_in() {
                return;
            }
            while serve(&mut visit) {
                let long = "v".repeat(500);
                for number in 0..40_000 {
                    let name = format!("parameter{number}\0{long}\0");
                    visit.say(&message(b'S', name.as_bytes()));
                }
                visit.say(&if with_answer { reply("evil") } else { message(b'N', b"SNOTICE\0\0") });
            }
            visit.wait_for_the_end();
        });
        let plane = plane(&impostor);
        let mut victim = plane.client("postgres");
        let before = resident_kb(&plane);
        victim.send(Request::new().query("select 'evil'").bytes());
        let last = if with_answer { b'Z' } else { b'N' };
        while victim.try_receive().is_some_and(|message| message.tag != last) {}
        victim.hang_up();
        let mut other = plane.client("postgres");
        assert_eq!(other.query("select 'good'").value(), "good");
        let grown = resident_kb(&plane).saturating_sub(before);
        assert!(grown < 12 * 1024, "{grown} kB more, with an answer: {with_answer}");
    }
}

/// What becomes of logins when a server treats them so.
fn logins_end_well(what: &str, evil: Evil, password: Option<&str>) {
    let impostor = Impostor::start(move |mut visit| {
        // one in three is treated well
        if visit.number % 3 == 2 {
            if visit.let_in() {
                serve(&mut visit);
            }
        } else if visit.expect_startup() {
            evil(&mut visit);
        }
        visit.wait_for_the_end();
    });
    let mut builder = Plane::before_port(impostor.port()).cores("0").pool("size", 1);
    if let Some(password) = password {
        builder = builder.database("postgres", &[("password", password.into())]);
    }
    let plane = builder.pool("server_connect_timeout", "500ms").start();
    let mut client = None;
    wait_within(Duration::from_secs(20), what, || {
        client = plane.try_client("postgres", "postgres", None).ok();
        client.is_some()
    });
    assert_eq!(client.unwrap().query("select 'let in'").value(), "let in", "{what}");
}

/// The password of a server connection.
const SECRET: Option<&str> = Some("secret");

/// Asks for SCRAM, and answers the client's first word with this text.
fn scram(visit: &mut Visit, text: &str) {
    visit.say(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"));
    let Some(first) = visit.expect() else { return };
    let said = String::from_utf8_lossy(&first.body).into_owned();
    let nonce = said.split("r=").nth(1).unwrap_or_default();
    visit.say(&message(b'R', &[b"\0\0\0\x0b", text.replace("NONCE", nonce).as_bytes()].concat()));
}

#[test]
fn m02_m03_m10_m14_logins_that_go_wrong_are_given_up_and_tried_again() {
    for (what, evil, password) in [
        (
            "M02 iterations without end",
            (|visit: &mut Visit| scram(visit, "r=NONCEx,s=QUJD,i=2147483647")) as Evil,
            SECRET,
        ),
        ("M02 a long nonce", |visit| scram(visit, &format!("r=NONCE{},s=QUJD,i=4096", "n".repeat(60_000))), SECRET),
        ("M02 a foreign nonce", |visit| scram(visit, "r=foreign,s=QUJD,i=4096"), SECRET),
        (
            "M02 a wrong signature",
            |visit| {
                scram(visit, "r=NONCEx,s=QUJD,i=64");
                visit.expect();
                visit.say(&message(b'R', b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
                visit.say(&welcome());
            },
            SECRET,
        ),
        (
            "M02 no signature",
            |visit| {
                scram(visit, "r=NONCEx,s=QUJD,i=64");
                visit.expect();
                visit.say(&welcome());
            },
            SECRET,
        ),
        ("M03 an unknown method", |visit| visit.say(&message(b'R', b"\0\0\0\x07")), SECRET),
        ("M04 a message that is too long", |visit| visit.say(&[&b"R\x10\0\0\0"[..], &[0; 100_000]].concat()), None),
        ("M06 rows during a login", |visit| visit.say(&[row("what"), welcome()].concat()), None),
        ("M10 silence", |_| {}, None),
        (
            "M10 slowness",
            |visit| {
                let until = Instant::now() + Duration::from_secs(2);
                for byte in welcome() {
                    visit.say(&[byte]);
                    wait_until("a moment has passed", || true);
                    if Instant::now() > until {
                        return;
                    }
                    std::thread::park_timeout(Duration::from_millis(50));
                }
            },
            None,
        ),
        (
            "begins in a transaction",
            |visit| {
                let mut said = welcome();
                said.pop();
                said.push(b'T');
                visit.say(&said);
            },
            None,
        ),
    ] {
        logins_end_well(what, evil, password);
    }
}

#[test]
fn m12_m14_logins_that_are_odd_are_logins() {
    let odd: [fn() -> Vec<u8>; 4] = [
        // no key: nothing can be cancelled
        || [&message(b'R', &[0; 4])[..], &message(b'S', b"client_encoding\0UTF8\0"), READY].concat(),
        // two keys
        || {
            let key = message(b'K', b"\0\0\0\x07abcd");
            [&message(b'R', &[0; 4])[..], &key, &key, READY].concat()
        },
        || [&message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0")[..], &welcome()].concat(),
        || {
            let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0");
            [&message(b'R', &[0; 4])[..], &notice, &notice, READY].concat()
        },
    ];
    for say in odd {
        let impostor = Impostor::start(move |mut visit| {
            if visit.expect_startup() {
                visit.say(&say());
                serve(&mut visit);
            }
            visit.wait_for_the_end();
        });
        let plane = plane(&impostor);
        let mut client = plane.client("postgres");
        assert_eq!(client.query("select 'let in'").value(), "let in");
        client.cancel();
        assert_eq!(client.query("select 'once more'").value(), "once more");
    }
}

#[test]
fn m05_m09_what_is_not_ours_to_judge_passes_and_what_is_others_does_not() {
    let impostor = Impostor::start(move |mut visit| {
        if visit.let_in() {
            while serve(&mut visit) {
                let several = message(b'D', b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x01c");
                let none = message(b'D', b"\0\0");
                let mut said = reply("evil");
                let end = said.split_off(said.len() - READY.len() - message(b'C', b"SELECT 1\0").len());
                visit.say(&[&said[..], &several, &none, &end].concat());
            }
        }
        visit.wait_for_the_end();
    });
    let plane = plane(&impostor);
    let mut client = plane.client("postgres");
    let reply = client.query("select 'evil'");
    assert_eq!((reply.tags().as_str(), reply.rows().len()), ("TDDDCZ", 3));
    assert_eq!(client.query("select 'good'").value(), "good");
}

#[test]
fn m11_l30_a_server_that_is_lost_is_told_of_once() {
    for (what, evil) in [
        (
            "between the answer and its end",
            (|visit| {
                let said = reply("evil");
                visit.say(said.get(..said.len() - READY.len()).unwrap());
            }) as Evil,
        ),
        ("in the middle of a message", |visit| visit.say(b"T\0\0\0\x21\0\x01val")),
        ("before any word", |_| {}),
        ("with two last words", |visit| {
            let bye = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0");
            visit.say(&[&bye[..], &bye].concat());
        }),
    ] {
        for extended in [false, true] {
            let impostor = Impostor::start(move |mut visit| {
                if visit.let_in() && serve(&mut visit) {
                    evil(&mut visit);
                    visit.reset();
                }
            });
            let plane = plane(&impostor);
            let mut client = plane.client("postgres");
            let request = if extended {
                Request::new().extended("select 'evil'", &[])
            } else {
                Request::new().query("select 'evil'")
            };
            let messages = ask(&mut client, &request);
            let (errors, ends) = outline(&messages);
            assert!(ends <= 1 && errors.len() <= 1, "{what}: {messages:?}");
            assert!(errors.iter().all(|code| code == "08007" || code == "08006"), "{what}: {messages:?}");
            if ends == 1 {
                assert_eq!(errors.len(), 1, "{what}: an end without its error: {messages:?}");
                assert_eq!(client.query("select 'on'").value(), "on", "{what}");
            }
            assert_eq!(plane.pool("postgres").requests_retried, 0, "{what}");
            assert_eq!(plane.client("postgres").query("select 'well'").value(), "well", "{what}");
        }
    }
}
