use super::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedProtocolVersion};

/// Both ends, and nothing between them.
struct Pair {
    server: Tls,
    client: Tls,
    scratch: BytesMut,
}

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]).unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    server.alpn_protocols = vec![b"x".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"x".to_vec()];
    (Arc::new(server), Arc::new(client))
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let (server, client) = configs(version);
        let name = ServerName::try_from("a.example").unwrap();
        Self {
            server: Tls::new(TlsSide::Server(server), BytesMut::new(), &[]).unwrap(),
            client: Tls::new(TlsSide::Client(client, name), BytesMut::new(), &[]).unwrap(),
            scratch: BytesMut::new(),
        }
    }

    /// Passes bytes to and fro, in pieces of this length, until there are none; gives what each side was told.
    fn shake(&mut self, piece: usize) -> (Vec<Agreed>, Vec<Agreed>) {
        let (mut by_server, mut by_client) = (Vec::new(), Vec::new());
        let mut plain = Vec::new();
        by_client.extend(self.client.receive(&[], &mut plain, &mut self.scratch).agreed);
        loop {
            let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
            self.client.seal(&mut BytesMut::new(), &mut up).unwrap();
            for bytes in up.chunks(piece) {
                by_server.extend(self.server.receive(bytes, &mut plain, &mut self.scratch).agreed);
            }
            self.server.seal(&mut BytesMut::new(), &mut down).unwrap();
            for bytes in down.chunks(piece) {
                by_client.extend(self.client.receive(bytes, &mut plain, &mut self.scratch).agreed);
            }
            if up.is_empty() && down.is_empty() {
                assert!(plain.is_empty());
                return (by_server, by_client);
            }
        }
    }
}

#[test]
fn both_sides_agree_and_every_byte_comes_through_however_it_is_cut() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for piece in [1, 7, 1000, 100_000] {
            let mut pair = Pair::new(version);
            let (by_server, by_client) = pair.shake(piece);
            let agreed = Agreed { alpn: Some(b"x".to_vec()), certificate: None };
            assert_eq!(by_server.as_slice(), std::slice::from_ref(&agreed));
            assert_eq!((by_client.len(), by_client[0].alpn == agreed.alpn), (1, true));
            assert!(by_client[0].certificate.is_some());
            for len in [1, 16 * 1024, 16 * 1024 + 1, 300_000] {
                let sent: Vec<u8> = (0..len).map(|i: usize| u8::try_from(i * 31 % 251).unwrap()).collect();
                let (mut output, mut wire) = (BytesMut::from(&sent[..]), BytesMut::from(&b"before"[..]));
                pair.client.seal(&mut output, &mut wire).unwrap();
                assert!(output.is_empty() && wire.starts_with(b"before"));
                let mut plain = Vec::new();
                for bytes in wire[6..].chunks(piece.max(100)) {
                    assert!(pair.server.receive(bytes, &mut plain, &mut pair.scratch).end.is_none());
                }
                assert!(plain == sent);
                assert!(pair.server.incoming.capacity() == 0, "an idle connection owns no buffer");
            }
            let (mut wire, mut plain) = (BytesMut::new(), Vec::new());
            pair.server.seal_goodbye(&mut wire);
            let heard = pair.client.receive(&wire, &mut plain, &mut pair.scratch);
            assert!(matches!(heard.end, Some(End::PeerClosed)), "{heard:?}");
        }
    }
}

#[test]
fn what_is_put_out_before_the_handshake_is_complete_waits_for_it() {
    let (server, client) = configs(&rustls::version::TLS13);
    let name = ServerName::try_from("a.example").unwrap();
    let mut pair = Pair {
        server: Tls::new(TlsSide::Server(server), BytesMut::from(&b"S"[..]), &[]).unwrap(),
        client: Tls::new(TlsSide::Client(client, name), BytesMut::new(), &[]).unwrap(),
        scratch: BytesMut::new(),
    };
    let (mut output, mut wire) = (BytesMut::from(&b"secret"[..]), BytesMut::new());
    pair.server.seal(&mut output, &mut wire).unwrap();
    assert_eq!((&wire[..], &output[..]), (&b"S"[..], &b"secret"[..]));
    pair.shake(100_000);
    wire.clear();
    pair.server.seal(&mut output, &mut wire).unwrap();
    assert!(output.is_empty() && !wire.windows(6).any(|window| window == b"secret"));
    let mut plain = Vec::new();
    pair.client.receive(&wire, &mut plain, &mut pair.scratch);
    assert_eq!(plain, b"secret");
}

#[test]
fn any_bytes_in_place_of_the_peers_end_in_an_alert_or_wait_for_more() {
    let mut rng = fastrand::Rng::with_seed(3);
    for round in 0..4000 {
        let mut pair = Pair::new(if round % 2 == 0 { &rustls::version::TLS13 } else { &rustls::version::TLS12 });
        let mut plain = Vec::new();
        pair.client.receive(&[], &mut plain, &mut pair.scratch);
        let mut wire = BytesMut::new();
        pair.client.seal(&mut BytesMut::new(), &mut wire).unwrap();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..wire.len());
            wire[at] = rng.u8(..);
        }
        if round % 3 == 0 {
            wire.extend(std::iter::repeat_with(|| rng.u8(..)).take(200));
        }
        let mut output = BytesMut::from(&b"secret"[..]);
        for bytes in wire.chunks(rng.usize(1..400)) {
            let heard = pair.server.receive(bytes, &mut plain, &mut pair.scratch);
            let mut out = BytesMut::new();
            pair.server.seal(&mut output, &mut out).unwrap();
            assert!(heard.agreed.is_none() && plain.is_empty());
            assert!(!out.windows(6).any(|window| window == b"secret"));
            if heard.end.is_some() {
                assert!(out.first().is_none_or(|kind| (20..=23).contains(kind)), "{heard:?} {}", out.escape_ascii());
            }
        }
    }
}

#[test]
fn bytes_changed_on_their_way_are_noticed() {
    let mut pair = Pair::new(&rustls::version::TLS13);
    pair.shake(100_000);
    let mut wire = BytesMut::new();
    pair.client.seal(&mut BytesMut::from(&b"hello"[..]), &mut wire).unwrap();
    let last = wire.len() - 1;
    wire[last] ^= 1;
    let mut plain = Vec::new();
    let heard = pair.server.receive(&wire, &mut plain, &mut pair.scratch);
    assert!(matches!(heard.end, Some(End::Broken(Error::DecryptError))) && plain.is_empty());
    let mut alert = BytesMut::new();
    pair.server.seal(&mut BytesMut::from(&b"too late"[..]), &mut alert).unwrap();
    assert!(!alert.is_empty(), "the peer is told");
    assert!(pair.server.receive(&wire, &mut plain, &mut pair.scratch).end.is_none(), "nothing is heard after the end");
}
