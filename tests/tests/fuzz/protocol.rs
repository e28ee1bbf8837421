//! Frames, start-up packets, messages of both roles, and the queue of what is owed.

use bytes::BytesMut;
use dbproto::frame::{self, Frame, HEAD_LEN, LEN_MAX};
use dbproto::message::frontend::{self, Bind, Named, Parse, query_text};
use dbproto::message::{backend, write_frame};
use dbproto::pipeline::{Expect, Outcome, Owed, Pipeline};
use dbproto::startup::{self, Startup};

use crate::Target;

/// Frames and the messages of frontends.
pub(crate) const FRAMES: Target = Target {
    name: "frames",
    inputs: &[
        b"Q\0\0\0\x0dselect 1\0S\0\0\0\x04",
        b"P\0\0\0\x15name\0select $1\0\0\x01\0\0\0\x17B\0\0\0\x14p\0name\0\0\0\0\x01\0\0\0\x011\0\0",
        b"D\0\0\0\x0aSname\0C\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0",
        b"d\0\0\0\x061\nc\0\0\0\x04f\0\0\0\x08why\0X\0\0\0\x04",
        b"Q\xff\xff\xff\xff",
        b"Q\0\0\0\x03",
    ],
    words: &[b"\0\0\0\x04", b"P\0\0\0", b"B\0\0\0", b"\0\0", b"select 1\0"],
    check: check_frames,
};

fn check_frames(input: &[u8]) {
    let mut rest = input;
    let mut whole = Vec::new();
    while let Ok(Some((frame, after))) = frame::split(rest) {
        assert!(frame.bytes.len() >= HEAD_LEN && frame.bytes.len() + after.len() == rest.len());
        assert_eq!(frame::head(rest).unwrap().unwrap().len, frame.bytes.len());
        let mut again = BytesMut::new();
        write_frame(&mut again, frame.tag, |out| out.extend_from_slice(frame.body)).unwrap();
        assert_eq!(&again[..], frame.bytes, "a frame is written as it was read");
        check_message(frame);
        whole.push(frame.bytes.len());
        rest = after;
    }
    if let Ok(Some(head)) = frame::head(rest) {
        assert!(head.len > rest.len() && head.len <= LEN_MAX as usize + 1);
    }
    // a frame is found no sooner than it is there, and is the same however the bytes come
    if let Some(first) = whole.first() {
        for len in 0..*first {
            assert_eq!(frame::split(input.get(..len).unwrap()), Ok(None));
        }
    }
}

fn check_message(frame: Frame<'_>) {
    let mut again = BytesMut::new();
    if let Ok(parse) = Parse::read(frame.body) {
        frontend::write_parse(&mut again, parse.name, parse.query, parse.types).unwrap();
        assert_eq!(again.get(HEAD_LEN..), Some(frame.body));
        again.clear();
    }
    if let Ok(bind) = Bind::read(frame.body) {
        frontend::write_bind(&mut again, bind.portal, bind.statement, bind.rest).unwrap();
        assert_eq!(again.get(HEAD_LEN..), Some(frame.body));
        again.clear();
    }
    if let Ok(named) = Named::read(frame.body) {
        frontend::write_describe(&mut again, named.target, named.name).unwrap();
        assert_eq!(again.get(HEAD_LEN..), Some(frame.body));
        again.clear();
    }
    if let Ok(text) = query_text(frame.body) {
        assert!(!text.contains(&0), "a text ends at its first zero");
        frontend::write_query(&mut again, text).unwrap();
        assert_eq!(again.get(HEAD_LEN..), Some(frame.body));
    }
}

/// Start-up packets.
pub(crate) const STARTUP: Target = Target {
    name: "start-up",
    inputs: &[
        b"\0\0\0\x27\0\x03\0\0user\0alice\0database\0app\0\0more\0",
        b"\0\0\0\x1c\0\x03\0\x02user\0alice\0_pq_.x\0\0",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x08\x04\xd2\x16\x30",
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd",
        b"\0\0\0\x09\0\x03\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0",
    ],
    words: &[b"user\0", b"options\0", b"\0\0", b"_pq_.", b"\0\x03\0\0", b"\x04\xd2\x16\x2e"],
    check: check_startup,
};

fn check_startup(input: &[u8]) {
    let Ok(Some((packet, used))) = startup::parse(input) else { return };
    assert!((8..=startup::LEN_MAX as usize).contains(&used) && used <= input.len());
    for len in 0..used {
        assert_eq!(startup::parse(input.get(..len).unwrap()), Ok(None), "at {len} of {used} bytes");
    }
    match packet {
        Startup::Start(message) if message.major == 3 => {
            let parameters: Vec<_> = message.parameters().collect();
            let mut again = BytesMut::new();
            startup::write_startup(&mut again, &parameters);
            let Ok(Some((Startup::Start(copy), _))) = startup::parse(&again) else {
                panic!("what was read cannot be read again");
            };
            assert_eq!(copy.parameters().collect::<Vec<_>>(), parameters);
            for (name, _) in &parameters {
                let last = parameters.iter().rfind(|(other, _)| other == name).map(|(_, value)| *value);
                assert_eq!(message.parameter(name), last, "the last value counts");
            }
        }
        Startup::Cancel { process_id, secret } => {
            let mut again = BytesMut::new();
            startup::write_cancel(&mut again, process_id, secret);
            assert_eq!(Some(&again[..]), input.get(..used));
        }
        Startup::Ssl | Startup::GssEnc => assert_eq!(used, 8),
        Startup::Start(_) => {}
    }
}

/// Messages of backends.
pub(crate) const BACKEND: Target = Target {
    name: "messages of backends",
    inputs: &[
        b"SERROR\0VERROR\0C42P01\0Mrelation does not exist\0\0",
        b"client_encoding\0UTF8\0",
        b"\0\0\0\x07abcd",
        b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0",
        b"\0\0\0\x0aSCRAM-SHA-256\0\0",
        b"\0\0\0\x05abcd",
    ],
    words: &[b"\0", b"M", b"C", b"\xff\xff\xff\xff", b"\0\0\0\x0b"],
    check: check_backend,
};

fn check_backend(body: &[u8]) {
    let fields = backend::ErrorFields::new(body);
    let all: Vec<_> = fields.iter().collect();
    assert!(all.iter().map(|(_, text)| text.len() + 2).sum::<usize>() <= body.len());
    for (code, _) in &all {
        assert_eq!(fields.get(*code), all.iter().find(|(other, _)| other == code).map(|(_, text)| *text));
    }
    if let Ok((name, value)) = backend::parameter_status(body) {
        let mut again = BytesMut::new();
        backend::write_parameter_status(&mut again, name, value);
        assert_eq!(again.get(HEAD_LEN..), Some(body));
    }
    if let Ok((process_id, secret)) = backend::backend_key_data(body) {
        let mut again = BytesMut::new();
        backend::write_backend_key_data(&mut again, process_id, secret);
        assert_eq!(again.get(HEAD_LEN..), Some(body));
    }
    let mut total: usize = 0;
    for column in backend::columns(body) {
        match column {
            Ok(value) => total += 4 + value.map_or(0, <[u8]>::len),
            Err(_) => break,
        }
    }
    assert!(total <= body.len(), "columns are not larger than their row");
    // what it means is judged elsewhere; reading it never fails badly
    let _read: Result<backend::Authentication<'_>, _> = backend::Authentication::read(body);
}

/// The queue of what is owed; an input is a list of pushes and messages.
pub(crate) const PIPELINE: Target = Target {
    name: "what is owed",
    inputs: &[
        b"pbdxsP1P2PTPDPCPZI",
        b"qPTPDPCPZIqPEPZI",
        b"pbxspbxsP1P2PEPZIP1P2PCPZI",
        b"xsPGdecPCPZI",
        b"ysP1PZI",
        b"qPGcPCPZI",
    ],
    words: &[b"PZI", b"PE", b"pbxs", b"PG", b"PC"],
    check: check_pipeline,
};

fn check_pipeline(input: &[u8]) {
    let mut pipeline = Pipeline::new();
    let (mut pushed, mut back): (u32, Vec<u32>) = (0, Vec::new());
    let mut bytes = input.iter().copied();
    while let Some(byte) = bytes.next() {
        let expect = match byte {
            b'p' => Expect::Parse,
            b'b' => Expect::Bind,
            b'd' => Expect::DescribeStatement,
            b'e' => Expect::DescribePortal,
            b'x' => Expect::Execute,
            b'l' => Expect::Close,
            b's' => Expect::Sync,
            b'q' => Expect::Query,
            b'f' => Expect::FunctionCall,
            b'c' => Expect::CopyEnd,
            b'D' => Expect::CopyData,
            b'y' => Expect::Synthetic,
            b'P' => {
                let (Some(tag), status) = (bytes.next(), bytes.clone().next()) else { break };
                if tag == b'Z' {
                    bytes.next();
                }
                match pipeline.handle_backend(tag, status) {
                    // the connection would be closed
                    Err(_) => return,
                    Ok(Outcome::Complete(owed) | Outcome::Error(owed) | Outcome::Ready(owed, _)) => {
                        // an error of a Query is followed by the end that it still owes
                        if tag != b'E' || !owed.expect.is_terminal() {
                            back.push(owed.mark);
                        }
                    }
                    Ok(Outcome::Farewell) => assert!(pipeline.is_empty()),
                    Ok(Outcome::Part(_) | Outcome::Asynchronous | Outcome::Copy(..)) => {}
                }
                while let Some(owed) = pipeline.poll_synthetic() {
                    back.push(owed.mark);
                }
                back.extend(pipeline.drain_dropped().map(|owed| owed.mark));
                check_counts(&pipeline, pushed);
                continue;
            }
            _ => continue,
        };
        pushed += 1;
        let owed = if byte % 2 == 0 { Owed::client(expect) } else { Owed::nobody(expect) };
        pipeline.push(owed.marked(pushed));
        back.extend(pipeline.drain_dropped().map(|owed| owed.mark));
        check_counts(&pipeline, pushed);
    }
    let count = back.len();
    back.sort_unstable();
    back.dedup();
    assert_eq!(count, back.len(), "an item came back twice");
    assert!(back.iter().all(|mark| (1..=pushed).contains(mark)), "what came back was never pushed");
}

fn check_counts(pipeline: &Pipeline, pushed: u32) {
    assert!(pipeline.client_ready_count() <= pipeline.ready_count());
    assert!(pipeline.ready_count() <= pipeline.len());
    assert!(pipeline.len() <= pushed as usize);
}
