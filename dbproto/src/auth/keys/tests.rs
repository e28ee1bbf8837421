use bytes::BytesMut;

use super::*;
use crate::auth::client::{AuthError, ClientAuth, Step as ClientStep};
use crate::auth::server::{Challenge, Secret, ServerAuth, Step, build_md5, build_scram_verifier, check_password};
use crate::frame;
use crate::message::backend::Authentication;

const CHALLENGE: Challenge = Challenge { salt: [1, 2, 3, 4], nonce: [7; 18] };

/// Lets a client and a server of ours talk; gives how it ended and what the server has learned.
fn log_in(secret: &Secret, credentials: Credentials) -> (Result<Step, AuthError>, Credentials) {
    let mut client = ClientAuth::with(b"ann", credentials, [9; 18]);
    let mut asked = BytesMut::new();
    let (mut server, mut step) = ServerAuth::start(secret, b"ann", CHALLENGE, &mut asked);
    while step != Step::Failed {
        let mut said = BytesMut::new();
        let mut rest = &asked[..];
        while let Some((message, after)) = frame::split(rest).unwrap() {
            rest = after;
            match client.handle(Authentication::read(message.body).unwrap(), &mut said) {
                Ok(ClientStep::Continue | ClientStep::Done) => {}
                Err(error) => return (Err(error), Credentials::None),
            }
        }
        if step == Step::Done {
            break;
        }
        let (message, _) = frame::split(&said).unwrap().unwrap();
        asked.clear();
        step = server.handle_password(message.body, &mut asked);
    }
    (Ok(step), server.take_credentials())
}

fn password(text: &str) -> Credentials {
    Credentials::of_password(Some(text.as_bytes()))
}

#[test]
fn what_a_scram_login_shows_is_enough_for_the_next() {
    let secret = Secret::parse(&build_scram_verifier("secret", b"salty salt", 64)).unwrap();
    let (step, keys) = log_in(&secret, password("secret"));
    assert_eq!(step, Ok(Step::Done));
    assert!(matches!(keys, Credentials::Scram(_)));
    let (step, again) = log_in(&secret, keys.clone());
    assert_eq!((step, again == keys), (Ok(Step::Done), true));
    // another verifier of the same password has other keys
    let other = Secret::parse(&build_scram_verifier("secret", b"other salt", 64)).unwrap();
    assert_eq!(log_in(&other, keys.clone()), (Ok(Step::Failed), Credentials::None));
    let hash = Secret::parse(&build_md5("secret", "ann")).unwrap();
    assert_eq!(log_in(&hash, keys).0, Err(AuthError::WrongKind));
}

#[test]
fn what_an_md5_login_shows_is_enough_for_the_next() {
    let secret = Secret::parse(&build_md5("secret", "ann")).unwrap();
    let (step, hash) = log_in(&secret, password("secret"));
    assert_eq!((step, &hash), (Ok(Step::Done), &Credentials::of_md5(&build_md5("secret", "ann"))));
    assert_eq!(log_in(&secret, hash.clone()).0, Ok(Step::Done));
    let scram = Secret::parse(&build_scram_verifier("secret", b"salty salt", 64)).unwrap();
    assert_eq!(log_in(&scram, hash).0, Err(AuthError::WrongKind));
    assert_eq!(log_in(&secret, password("wrong")), (Ok(Step::Failed), Credentials::None));
}

#[test]
fn a_server_that_does_not_know_the_verifier_is_not_believed() {
    let keys = ScramKeys::new([1; 32], [2; 32]);
    for (first, fits) in [
        ("r=CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJx,s=eA==,i=4096", true),
        ("r=CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ,s=eA==,i=4096", false),
        ("r=other,s=eA==,i=4096", false),
        ("r=CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJx", false),
        ("", false),
    ] {
        let mut exchange = KeyExchange::new(keys.clone(), [9; 18]);
        exchange.nonce = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ".to_owned();
        let first = first.as_bytes();
        assert_eq!(exchange.answer(first).is_some(), fits);
        let signature = BASE64.encode([0; 32]);
        for last in [format!("v={signature}"), "v=".to_owned(), "e=other-error".to_owned(), String::new()] {
            assert!(!exchange.is_proven(last.as_bytes()));
        }
        assert!(exchange.answer(first).is_none());
    }
}

#[test]
fn a_password_in_clear_text_is_checked_against_whatever_is_known() {
    let scram = Secret::parse(&build_scram_verifier("pass", b"salty salt", 64)).unwrap();
    let hash = Secret::parse(&build_md5("pass", "ann")).unwrap();
    let mocks = [crate::auth::server::Method::Scram, crate::auth::server::Method::Md5];
    for secret in [&scram, &hash] {
        assert!(check_password(secret, b"ann", b"pass"));
        assert!(!check_password(secret, b"ann", b"Pass") && !check_password(secret, b"ann", b""));
    }
    assert!(!check_password(&hash, b"bob", b"pass"));
    for method in mocks {
        assert!(!check_password(&Secret::mock(method, &[3; 32], b"ann"), b"ann", b"pass"));
    }
}

#[test]
fn nothing_of_it_is_printed() {
    let keys = ScramKeys::new([65; 32], [66; 32]);
    let md5 = Credentials::of_md5(&build_md5("x", "y"));
    let all = [password("hidden"), md5, Credentials::Scram(keys), Credentials::None];
    assert_eq!(format!("{all:?}"), "[Password(..), Md5(..), Scram(..), None]");
}
