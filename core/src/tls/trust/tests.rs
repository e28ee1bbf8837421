use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// A certificate for these names, by itself or by an authority.
fn certificate(common_name: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Params {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    change(&mut params);
    Params(params)
}

struct Params(CertificateParams);

impl Params {
    fn by_itself(&self) -> CertificateDer<'static> {
        self.0.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn authority(self) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let der = self.0.self_signed(&key).unwrap().der().clone();
        (der, Issuer::new(self.0, key))
    }

    fn by(&self, issuer: &Issuer<'static, KeyPair>) -> CertificateDer<'static> {
        self.0.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }
}

fn is_authority(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}

fn authorities(certificates: Vec<CertificateDer<'static>>) -> Authorities {
    Authorities::new(certificates, &rustls::crypto::ring::default_provider()).unwrap()
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn verify(demand: Demand, der: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    verify_by(demand, Vec::new(), der, now)
}

fn verify_by(
    demand: Demand,
    lists: Vec<CertificateRevocationListDer<'static>>,
    der: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    let judge = ServerJudge::new(demand, lists, Arc::new(rustls::crypto::ring::default_provider()))?;
    let nobody = ServerName::try_from("unused.example").unwrap();
    judge.verify_server_cert(der, &[], &nobody, &[], now).map(|_| ())
}

#[test]
fn names_are_compared_as_libpq_compares_them() {
    for (name, host, same) in [
        ("db.example", "db.example", true),
        ("DB.Example", "db.eXample", true),
        ("db.example", "db.example.org", false),
        ("*.example", "db.example", true),
        ("*.example", "a.db.example", false),
        ("*.example", ".example", false),
        ("*.example", "example", false),
        ("*.", "db.", false),
        ("*", "db", false),
        ("d*.example", "db.example", false),
        ("db.*", "db.example", false),
        ("db.example\0.evil", "db.example", false),
        ("", "db.example", false),
    ] {
        assert_eq!(matches(name.as_bytes(), host), same, "{name} {host}");
    }
}

#[test]
fn alternative_names_of_the_hosts_kind_make_the_common_name_void() {
    let judged = |common_name: &str, names: &[&str], host: &str| {
        judge_name(&certificate(common_name, names, |_| {}).by_itself(), host).is_ok()
    };
    assert!(judged("db.example", &[], "db.example"));
    assert!(!judged("db.example", &["other.example"], "db.example"));
    assert!(judged("db.example", &["10.0.0.1"], "db.example"));
    assert!(judged("x", &["other.example", "db.example"], "db.example"));
    assert!(judged("10.0.0.1", &["other.example"], "10.0.0.1"));
    assert!(!judged("10.0.0.1", &["10.0.0.2"], "10.0.0.1"));
    assert!(judged("x", &["10.0.0.2", "fd00::1"], "fd00::1"));
    assert!(judged("x", &["fd00::1"], "fd00:0::0001"));
    assert!(!judged("x", &[], "db.example"));
}

#[test]
fn a_name_that_does_not_fit_is_told_with_those_that_would() {
    let error = judge_name(&certificate("db", &["10.0.0.1"], |_| {}).by_itself(), "other").unwrap_err();
    let Error::InvalidCertificate(CertificateError::Other(why)) = error else { panic!("{error}") };
    assert_eq!(why.to_string(), "it is for 10.0.0.1, db, not for \"other\"");
}

#[test]
fn a_certificate_that_is_its_own_authority_is_believed_where_it_is_trusted_only() {
    let own = certificate("db.example", &[], is_authority).by_itself();
    let other = certificate("db.example", &[], is_authority).by_itself();
    let now = UnixTime::now();
    let known = |der: &CertificateDer<'static>| Demand::Known(authorities(vec![der.clone()]));
    assert_eq!(verify(known(&own), &own, now), Ok(()));
    assert_eq!(verify(known(&other), &own, now), Err(CertificateError::UnknownIssuer.into()));
    let named = |name: &str| Demand::Named(authorities(vec![own.clone()]), name.to_owned());
    assert_eq!(verify(named("db.example"), &own, now), Ok(()));
    assert!(verify(named("other.example"), &own, now).is_err());
    assert_eq!(verify(Demand::Anybody, &own, now), Ok(()));
}

#[test]
fn the_time_and_the_usage_of_what_is_judged_here_count_too() {
    let own = certificate("db", &[], |params| {
        is_authority(params);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    })
    .by_itself();
    let demand = || Demand::Known(authorities(vec![own.clone()]));
    assert_eq!(verify(demand(), &own, at(1_577_836_799)), Err(CertificateError::NotValidYet.into()));
    assert_eq!(verify(demand(), &own, at(1_577_836_800)), Ok(()));
    assert_eq!(verify(demand(), &own, at(1_609_459_200)), Ok(()));
    assert_eq!(verify(demand(), &own, at(1_609_459_201)), Err(CertificateError::Expired.into()));
    let clients = certificate("db", &[], |params| {
        is_authority(params);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    })
    .by_itself();
    let demand = Demand::Known(authorities(vec![clients.clone()]));
    assert_eq!(verify(demand, &clients, UnixTime::now()), Err(CertificateError::InvalidPurpose.into()));
}

#[test]
fn a_chain_of_the_usual_kind_is_left_to_rustls() {
    let (root, issuer) = certificate("root", &[], is_authority).authority();
    let leaf = certificate("db", &["db.example"], |_| {}).by(&issuer);
    let now = UnixTime::now();
    assert_eq!(verify(Demand::Known(authorities(vec![root.clone()])), &leaf, now), Ok(()));
    let stranger = certificate("root", &[], is_authority).by_itself();
    assert!(verify(Demand::Known(authorities(vec![stranger])), &leaf, now).is_err());
    // one that signs and is shown as a server's own: rustls refuses it, libpq does not
    let signing = certificate("db", &[], is_authority).by(&issuer);
    assert_eq!(verify(Demand::Known(authorities(vec![root])), &signing, now), Ok(()));
}

#[test]
fn a_leaf_that_was_signed_by_another_leaf_is_refused() {
    let (leaf, pretender) = certificate("leaf", &[], |_| {}).authority();
    for name in ["db", "leaf"] {
        let victim = certificate(name, &[], is_authority).by(&pretender);
        let demand = Demand::Known(authorities(vec![leaf.clone()]));
        assert_eq!(verify(demand, &victim, UnixTime::now()), Err(CertificateError::UnknownIssuer.into()), "{name}");
    }
}

fn list(issuer: &Issuer<'static, KeyPair>, serial: u64, until: i32) -> CertificateRevocationListDer<'static> {
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().into()
}

#[test]
fn revocation_lists_hold_for_certificates_of_every_kind() {
    let (root, issuer) = certificate("root", &[], is_authority).authority();
    let (_, stranger) = certificate("root", &[], is_authority).authority();
    let client = |serial: u64, odd: bool| {
        let leaf = certificate("client", &[], |params| {
            params.serial_number = Some(SerialNumber::from(serial));
            if odd {
                is_authority(params);
            }
        });
        leaf.by(&issuer)
    };
    let judged = |lists: Vec<CertificateRevocationListDer<'static>>, leaf: &CertificateDer<'_>| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let judge = ClientJudge::new(authorities(vec![root.clone()]), lists, provider).unwrap();
        judge.verify_client_cert(leaf, &[], UnixTime::now()).map(|_| ())
    };
    for odd in [false, true] {
        assert_eq!(judged(Vec::new(), &client(5, odd)), Ok(()), "{odd}");
        assert_eq!(judged(vec![list(&issuer, 5, 2090)], &client(6, odd)), Ok(()), "{odd}");
        let revoked = judged(vec![list(&issuer, 5, 2090)], &client(5, odd));
        assert_eq!(revoked, Err(CertificateError::Revoked.into()), "{odd}");
        // a list that is out of date, or another's, leaves it unknown
        assert!(judged(vec![list(&issuer, 6, 2025)], &client(5, odd)).is_err(), "{odd}");
        assert!(judged(vec![list(&stranger, 6, 2090)], &client(5, odd)).is_err(), "{odd}");
    }
    let server = |lists, leaf: &CertificateDer<'_>, name: Option<&str>| {
        let trusted = authorities(vec![root.clone()]);
        let demand = match name {
            None => Demand::Known(trusted),
            Some(name) => Demand::Named(trusted, name.to_owned()),
        };
        verify_by(demand, lists, leaf, UnixTime::now())
    };
    for odd in [false, true] {
        for name in [None, Some("client")] {
            assert_eq!(server(vec![list(&issuer, 5, 2090)], &client(6, odd), name), Ok(()), "{odd}");
            let revoked = server(vec![list(&issuer, 5, 2090)], &client(5, odd), name);
            assert_eq!(revoked, Err(CertificateError::Revoked.into()), "{odd}");
            assert!(server(vec![list(&issuer, 6, 2025)], &client(5, odd), name).is_err(), "{odd}");
            assert!(server(vec![list(&stranger, 6, 2090)], &client(5, odd), name).is_err(), "{odd}");
        }
        assert!(server(vec![list(&issuer, 5, 2090)], &client(6, odd), Some("other.example")).is_err(), "{odd}");
    }
}
