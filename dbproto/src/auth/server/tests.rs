use super::*;
use crate::auth::client::{self, ClientAuth};
use crate::message::backend::{Authentication, ErrorFields};

const CHALLENGE: Challenge = Challenge { salt: [1, 2, 3, 4], nonce: [7; 18] };

fn start(secret: &Secret) -> (ServerAuth, BytesMut) {
    let mut out = BytesMut::new();
    let (auth, step) = ServerAuth::start(secret, b"ann", CHALLENGE, &mut out);
    assert_eq!(step, Step::Continue);
    (auth, out)
}

fn initial(data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&b"SCRAM-SHA-256\0"[..], &len, data].concat()
}

/// Lets our two roles speak; the outcome, and what was last said to the client.
fn login(secret: &Secret, password: &str) -> (Step, Vec<u8>) {
    let client = ClientAuth::new(b"ann", Some(password.as_bytes()));
    let (outcome, said, _) = speak(start(secret), client);
    (outcome, said)
}

/// The same with these two; gives also what the client said first.
fn speak((mut server, mut to_client): (ServerAuth, BytesMut), mut client: ClientAuth) -> (Step, Vec<u8>, Vec<u8>) {
    let mut first = Vec::new();
    loop {
        let (frame, rest) = crate::frame::split(&to_client).unwrap().unwrap();
        assert!(rest.is_empty());
        let mut to_server = BytesMut::new();
        let request = Authentication::read(frame.body).unwrap();
        assert_eq!(client.handle(request, &mut to_server), Ok(client::Step::Continue));
        if to_server.is_empty() {
            return (Step::Done, to_client.to_vec(), first);
        }
        if first.is_empty() {
            first = to_server.to_vec();
        }
        let (frame, _) = crate::frame::split(&to_server).unwrap().unwrap();
        let mut reply = BytesMut::new();
        match server.handle_password(frame.body, &mut reply) {
            Step::Continue => to_client = reply,
            Step::Done if reply.is_empty() => return (Step::Done, Vec::new(), first),
            Step::Done => to_client = reply,
            Step::Failed => return (Step::Failed, reply.to_vec(), first),
        }
    }
}

fn scram(password: &str) -> Secret {
    Secret::parse(&build_scram_verifier(password, b"0123456789abcdef", SCRAM_ITERATIONS)).unwrap()
}

#[test]
fn the_right_password_is_let_in_by_every_method() {
    assert_eq!(login(&scram("sesame"), "sesame").0, Step::Done);
    assert_eq!(login(&scram("pä\u{a0}ss\u{ad}"), "pä ss").0, Step::Done);
    let md5 = Secret::parse(&build_md5("sesame", "ann")).unwrap();
    assert_eq!(login(&md5, "sesame").0, Step::Done);
    let mut out = BytesMut::new();
    assert_eq!(ServerAuth::start(&Secret::Trust, b"ann", CHALLENGE, &mut out).1, Step::Done);
    assert!(out.is_empty());
}

#[test]
fn p16_a_wrong_password_and_an_unknown_user_are_told_the_same() {
    let key = [9; 32];
    for (known, method) in
        [(scram("sesame"), Method::Scram), (Secret::parse(&build_md5("sesame", "ann")).unwrap(), Method::Md5)]
    {
        let wrong = login(&known, "open");
        let unknown = login(&Secret::mock(method, &key, b"ann"), "open");
        assert_eq!(wrong, unknown);
        assert_eq!(wrong.0, Step::Failed);
        let (frame, _) = crate::frame::split(&wrong.1).unwrap().unwrap();
        let fields = ErrorFields::new(frame.body);
        assert_eq!(fields.get(b'C'), Some(&b"28P01"[..]));
        assert_eq!(fields.get(b'S'), Some(&b"FATAL"[..]));
        assert_eq!(fields.get(b'M'), Some(&b"password authentication failed for user \"ann\""[..]));
    }
}

#[test]
fn an_unknown_user_always_sees_the_same_salt_and_others_see_another() {
    let salt = |key: u8, user: &[u8]| match Secret::mock(Method::Scram, &[key; 32], user) {
        Secret::Scram(verifier) => (verifier.salt, verifier.iterations),
        Secret::Trust | Secret::Md5(_) => panic!("not SCRAM"),
    };
    assert_eq!(salt(1, b"a"), salt(1, b"a"));
    assert_ne!(salt(1, b"a"), salt(1, b"b"));
    assert_ne!(salt(1, b"a"), salt(2, b"a"));
    assert_eq!((salt(1, b"a").0.len(), salt(1, b"a").1), (16, 4096));
}

#[test]
fn a_mock_is_not_proven_even_by_the_right_proof() {
    let Secret::Scram(mut verifier) = scram("sesame") else { panic!("not SCRAM") };
    verifier.proves = 0;
    assert_eq!(login(&Secret::Scram(verifier), "sesame").0, Step::Failed);
    let Secret::Md5(mut hash) = Secret::parse(&build_md5("sesame", "ann")).unwrap() else { panic!("not MD5") };
    hash.proves = 0;
    assert_eq!(login(&Secret::Md5(hash), "sesame").0, Step::Failed);
}

/// RFC 7677 section 3, with its verifier made from password and salt, and its nonces put in place.
#[test]
fn the_example_of_rfc_7677_is_proven() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let Secret::Scram(verifier) = Secret::parse(&build_scram_verifier("pencil", &salt, 4096)).unwrap() else {
        panic!("not SCRAM")
    };
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let scram = ScramFinal {
        verifier,
        binding: "biws".to_owned(),
        nonce: nonce.to_owned(),
        transcript: format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
    };
    let mut out = BytesMut::new();
    let message = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    assert!(scram_final(&scram, message.as_bytes(), &mut out).is_some());
    assert!(out.ends_with(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
}

#[test]
fn verifiers_and_hashes_are_those_of_postgresql() {
    // rolpassword of pg_authid; the verifier is that of RFC 7677's example
    assert_eq!(build_md5("postgres", "postgres"), "md53175bce1d3201d16594cebf9d7eb3f9d");
    assert_eq!(
        build_scram_verifier("pencil", &BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096),
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
}

#[test]
fn what_is_no_secret_is_refused_and_said_why() {
    let good = build_scram_verifier("a", b"salt", 1);
    assert!(Secret::parse(&good).is_ok());
    for bad in [
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$0:c2FsdA==$a:b",
        &good.replacen("$1:", "$0:", 1),
        &good.replacen("$1:", "$-1:", 1),
        &good.replacen("$1:", "$4294967295:", 1),
        &good.replacen("c2FsdA==", "", 1),
        &good.replacen("c2FsdA==", "%", 1),
        good.get(..good.len() - 4).unwrap(),
    ] {
        assert_eq!(Secret::parse(bad).err(), Some(SecretError::BadVerifier), "{bad}");
    }
    let upper = format!("md5{}", "A".repeat(32));
    for bad in ["", "sesame", "md5", "md5sesame", upper.as_str(), "SCRAM-SHA-1$1:a$b:c"] {
        assert_eq!(Secret::parse(bad).err(), Some(SecretError::NotHashed), "{bad}");
    }
    assert_eq!(format!("{:?}", Secret::parse(&good).unwrap()), "Scram(..)");
}

#[test]
fn p01_to_p14_hostile_first_messages_are_refused() {
    let good = b"n,,n=,r=abc";
    let mut cases: Vec<Vec<u8>> = [
        &b""[..],
        b"n,,",
        b"n,,r=abc",
        b"n,,n=,r=",
        b"n,,n=\0,r=abc",
        b"n,,n=,r=a\0c",
        b"n,,n=,r=a c",
        b"n,,n=,r=abc,",
        b"n,,n=,r=abc,m=ext",
        b"n,,m=ext,n=,r=abc",
        b"n,a=bob,n=,r=abc",
        b"p=tls-server-end-point,,n=,r=abc",
        b"x,,n=,r=abc",
        b"n,,n=,r=\xff\xfe",
    ]
    .into_iter()
    .map(initial)
    .collect();
    cases.push(initial(&[b"n,,n=,r=".to_vec(), vec![b'x'; NONCE_LEN_MAX + 1]].concat()));
    cases.push(initial(&[b"n,,n=,r=abc,x=".to_vec(), vec![b'x'; MESSAGE_LEN_MAX]].concat()));
    cases.push([&b"SCRAM-SHA-1\0\0\0\0\x0b"[..], good].concat());
    cases.push([&b"SCRAM-SHA-256-PLUS\0\0\0\0\x0b"[..], good].concat());
    for len in [0_u32, 10, 12, 0x7fff_ffff, u32::MAX] {
        cases.push([&b"SCRAM-SHA-256\0"[..], &len.to_be_bytes(), good].concat());
    }
    cases.push(b"SCRAM-SHA-256\0".to_vec());
    cases.push(b"SCRAM-SHA-256".to_vec());
    cases.push(Vec::new());
    for case in cases {
        let (mut auth, _) = start(&scram("a"));
        let mut out = BytesMut::new();
        assert_eq!(auth.handle_password(&case, &mut out), Step::Failed, "{}", case.escape_ascii());
        assert_eq!(out.first(), Some(&b'E'));
    }
    for accepted in [&good[..], b"y,,n=ann,r=abc", b"n,,n=other,r=abc,x=ext"] {
        let (mut auth, _) = start(&scram("a"));
        assert_eq!(auth.handle_password(&initial(accepted), &mut BytesMut::new()), Step::Continue);
    }
}

#[test]
fn p15_hostile_final_messages_are_refused() {
    let nonce = format!("abc{}", BASE64.encode([7; 18]));
    let proof = BASE64.encode([0; 32]);
    for case in [
        String::new(),
        format!("c=biws,r={nonce}"),
        format!("c=biws,r={nonce},p="),
        format!("c=biws,r={nonce},p={proof}"),
        format!("c=biws,r={nonce},p={proof},x=1"),
        format!("c=biws,r={nonce},p={}", BASE64.encode([0; 33])),
        format!("c=eSws,r={nonce},p={proof}"),
        format!("c=biws,r=abc,p={proof}"),
        format!("c=biws,r={nonce}x,p={proof}"),
        format!("r={nonce},c=biws,p={proof}"),
        format!("c=biws,r={nonce},m=x,p={proof}"),
        format!("c=biws,r={nonce}\0,p={proof}"),
    ] {
        let (mut auth, _) = start(&scram("a"));
        assert_eq!(auth.handle_password(&initial(b"n,,n=,r=abc"), &mut BytesMut::new()), Step::Continue);
        assert_eq!(auth.handle_password(case.as_bytes(), &mut BytesMut::new()), Step::Failed, "{case}");
    }
}

#[test]
fn p15_a_second_first_message_and_anything_after_the_end_are_refused() {
    let (mut auth, _) = start(&scram("a"));
    let first = initial(b"n,,n=,r=abc");
    let mut out = BytesMut::new();
    assert_eq!(auth.handle_password(&first, &mut out), Step::Continue);
    assert_eq!(auth.handle_password(&first, &mut out), Step::Failed);
    assert_eq!(auth.handle_password(&first, &mut out), Step::Failed);
    let (mut auth, _) = ServerAuth::start(&Secret::Trust, b"ann", CHALLENGE, &mut out);
    assert_eq!(auth.handle_password(b"x\0", &mut out), Step::Failed);
}

#[test]
fn md5_answers_must_have_their_form() {
    let secret = Secret::parse(&build_md5("sesame", "ann")).unwrap();
    let good = postgres_protocol::authentication::md5_hash(b"ann", b"sesame", CHALLENGE.salt);
    for (answer, step) in [
        (format!("{good}\0"), Step::Done),
        (good.clone(), Step::Failed),
        (format!("{good}\0\0"), Step::Failed),
        (format!("{}\0", good.to_uppercase()), Step::Failed),
        ("md5\0".to_owned(), Step::Failed),
        ("\0".to_owned(), Step::Failed),
        ("sesame\0".to_owned(), Step::Failed),
    ] {
        let (mut auth, _) = start(&secret);
        assert_eq!(auth.handle_password(answer.as_bytes(), &mut BytesMut::new()), step, "{answer}");
    }
}

#[test]
fn random_bytes_never_log_in() {
    let mut rng = fastrand::Rng::with_seed(0x5c7a);
    for _ in 0..5000 {
        let method = if rng.bool() { Method::Md5 } else { Method::Scram };
        let (mut auth, _) = start(&Secret::mock(method, &[3; 32], b"ann"));
        let mut body = if rng.bool() { initial(b"n,,n=,r=abc") } else { b"c=biws,r=abc,p=AAAA".to_vec() };
        for _ in 0..rng.usize(..6) {
            let place = rng.usize(..body.len());
            body[place] = rng.u8(..);
        }
        let mut out = BytesMut::new();
        for _ in 0..3 {
            assert_ne!(auth.handle_password(&body, &mut out), Step::Done);
        }
    }
}

/// A login over TLS: what each side takes for the server's certificate, and whether the offer of binding comes through.
fn bound_login(ours: Option<&[u8]>, theirs: Option<&[u8]>, password: &str) -> (Step, String) {
    let mut out = BytesMut::new();
    let (server, _) = ServerAuth::start_bound(&scram("sesame"), b"ann", CHALLENGE, ours, &mut out);
    let mut client = ClientAuth::new(b"ann", Some(password.as_bytes()));
    if let Some(theirs) = theirs {
        client.bind(theirs.to_vec());
    }
    let (outcome, _, first) = speak((server, out), client);
    (outcome, first.escape_ascii().to_string())
}

#[test]
fn a_proof_that_is_bound_to_a_certificate_is_good_for_that_one_only() {
    let (outcome, first) = bound_login(Some(b"hash"), Some(b"hash"), "sesame");
    assert_eq!(outcome, Step::Done);
    assert!(first.contains("SCRAM-SHA-256-PLUS") && first.contains("p=tls-server-end-point,,"), "{first}");
    assert_eq!(bound_login(Some(b"hash"), Some(b"hash"), "open").0, Step::Failed);
    // somebody in between shows a certificate of their own
    assert_eq!(bound_login(Some(b"hash"), Some(b"other"), "sesame").0, Step::Failed);
    // who does not bind may come in all the same, as in PostgreSQL
    let (outcome, first) = bound_login(Some(b"hash"), None, "sesame");
    assert_eq!((outcome, first.contains("PLUS")), (Step::Done, false));
    let (outcome, first) = bound_login(None, Some(b"hash"), "sesame");
    assert_eq!((outcome, first.contains("y,,n=")), (Step::Done, true));
}

#[test]
fn p05_p06_binding_is_neither_feigned_nor_talked_away() {
    let answer = |channel: Option<&[u8]>, mechanism: &str, data: &str| {
        let mut out = BytesMut::new();
        let (mut auth, _) = ServerAuth::start_bound(&scram("sesame"), b"ann", CHALLENGE, channel, &mut out);
        let len = u32::try_from(data.len()).unwrap().to_be_bytes();
        let body = [mechanism.as_bytes(), b"\0", &len, data.as_bytes()].concat();
        auth.handle_password(&body, &mut BytesMut::new())
    };
    let tls = Some(&b"hash"[..]);
    assert_eq!(answer(tls, "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r=x"), Step::Continue);
    assert_eq!(answer(tls, "SCRAM-SHA-256", "n,,n=,r=x"), Step::Continue);
    // the client would bind, so it was not told that we can
    assert_eq!(answer(tls, "SCRAM-SHA-256", "y,,n=,r=x"), Step::Failed);
    assert_eq!(answer(tls, "SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=x"), Step::Failed);
    assert_eq!(answer(tls, "SCRAM-SHA-256-PLUS", "n,,n=,r=x"), Step::Failed);
    assert_eq!(answer(tls, "SCRAM-SHA-256-PLUS", "p=tls-unique,,n=,r=x"), Step::Failed);
    assert_eq!(answer(None, "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r=x"), Step::Failed);
    assert_eq!(answer(None, "SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=x"), Step::Failed);
    assert_eq!(answer(None, "SCRAM-SHA-256", "y,,n=,r=x"), Step::Continue);
}
