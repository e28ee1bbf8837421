use super::token::fields;
use super::*;

fn rules(text: &str) -> Rules {
    let row = |line: &str| row::read("f:1".to_owned(), &fields(line).unwrap()).unwrap();
    Rules::new(text.lines().map(row).collect(), map::Maps::default()).unwrap()
}

fn judge(rules: &Rules, origin: Origin, user: &str, database: &str) -> &'static str {
    let visitor = Visitor { user, database, purpose: Purpose::Database, origin };
    rules.judge(&visitor).map_or("-", |row| row.method.name())
}

fn refused(line: &str) -> String {
    fields(line).and_then(|fields| row::read("f:1".to_owned(), &fields)).unwrap_err()
}

fn plain(ip: &str) -> Origin {
    Origin::Plain(ip.parse().unwrap())
}

#[test]
fn the_first_row_that_fits_decides() {
    let rules = rules(
        "local all all peer\n\
         host all mallory all reject\n\
         hostssl all all 10.0.0.0/8 cert\n\
         hostnossl app ann,bob 10.0.0.0/8 scram-sha-256\n\
         host sameuser all 192.168.0.0 255.255.0.0 md5\n\
         host \"all\" \"all\" ::1/128 password\n\
         host replication all all trust",
    );
    let tls = Origin::Tls("10.1.2.3".parse().unwrap());
    assert_eq!(judge(&rules, Origin::Local, "ann", "x"), "peer");
    assert_eq!(judge(&rules, plain("10.1.2.3"), "mallory", "app"), "reject");
    assert_eq!(judge(&rules, tls, "ann", "x"), "cert");
    assert_eq!(judge(&rules, plain("10.1.2.3"), "ann", "app"), "scram-sha-256");
    assert_eq!(judge(&rules, plain("::ffff:10.1.2.3"), "bob", "app"), "scram-sha-256");
    assert_eq!(judge(&rules, plain("10.1.2.3"), "bob", "other"), "-");
    assert_eq!(judge(&rules, plain("11.1.2.3"), "bob", "app"), "-");
    assert_eq!(judge(&rules, plain("192.168.3.4"), "eve", "eve"), "md5");
    assert_eq!(judge(&rules, plain("192.168.3.4"), "eve", "app"), "-");
    // in quotes the words have no meaning
    assert_eq!(judge(&rules, plain("::1"), "ann", "app"), "-");
    assert_eq!(judge(&rules, plain("::1"), "all", "all"), "password");
}

#[test]
fn names_may_be_regular_expressions() {
    let rules = rules("host /^app_[0-9]+$ /^svc \"127.0.0.1/32\" trust\nhost \"/a,b\" all 127.0.0.1/32 md5");
    assert_eq!(judge(&rules, plain("127.0.0.1"), "svc_1", "app_7"), "trust");
    assert_eq!(judge(&rules, plain("127.0.0.1"), "a_svc", "app_7"), "-");
    assert_eq!(judge(&rules, plain("127.0.0.1"), "svc", "app_7x"), "-");
    assert_eq!(judge(&rules, plain("127.0.0.1"), "svc", "xa,by"), "md5");
}

#[test]
fn masks_need_not_be_at_a_byte_nor_the_address_without_the_rest() {
    let rules = rules("host all all 10.1.17.9/20 trust\nhost all all fd00:1::/33 md5\nhost all all 0.0.0.0/0 reject");
    for (ip, method) in [
        ("10.1.16.0", "trust"),
        ("10.1.31.255", "trust"),
        ("10.1.32.0", "reject"),
        ("fd00:1:7fff::1", "md5"),
        ("fd00:1:8000::1", "-"),
    ] {
        assert_eq!(judge(&rules, plain(ip), "a", "b"), method, "{ip}");
    }
}

#[test]
fn this_machines_own_addresses_are_known() {
    let rules = rules("host all all samehost trust\nhost all all samenet md5");
    assert_eq!(judge(&rules, plain("127.0.0.1"), "a", "b"), "trust");
    assert_eq!(judge(&rules, plain("127.9.9.9"), "a", "b"), "md5");
    assert_eq!(judge(&rules, plain("203.0.113.7"), "a", "b"), "-");
}

#[test]
fn rows_that_make_no_sense_are_refused_in_words() {
    for (line, words) in [
        ("hosts all all all trust", "\"hosts\" is no connection type"),
        ("local,host all all trust", "more than one value"),
        ("local", "ends before its databases"),
        ("local all", "ends before its users"),
        ("local all all", "must be a method"),
        ("local all all 10.0.0.0/8 trust", "\"10.0.0.0/8\" is no method"),
        ("host all all trust", "\"trust\" is no IP address"),
        ("host all all db.example.org md5", "host names are not looked up"),
        ("host all all 10.0.0.0/33 md5", "no valid CIDR mask"),
        ("host all all 10.0.0.0/+8 md5", "no valid CIDR mask"),
        ("host all all 10.0.0.0 md5", "\"md5\" is no mask"),
        ("host all all 10.0.0.0 ffff:: md5", "different kinds"),
        ("host all all all peer", "local only"),
        ("host all all all cert", "hostssl only"),
        ("host all all all ldap ldapserver=x", "\"ldap\" is not supported"),
        ("host all all all scram", "is no method; there are trust, reject, scram-sha-256"),
        ("host all +staff all md5", "member of a role"),
        ("host samerole all all md5", "member of a role"),
        ("host all /( all md5", "is no regular expression"),
        ("local all all md5 map=x", "map is for peer and cert; md5 has none"),
        ("hostssl all all all cert clientname=DN", "the option \"clientname\" is not supported"),
        ("local all all peer colour=x", "unknown option \"colour\""),
        ("local all all peer x", "no option of the form name=value"),
        ("local \"all all peer", "a quote is not closed"),
    ] {
        assert!(refused(line).contains(words), "{line}: {}", refused(line));
    }
    // a name in quotes is a name
    assert!(fields("host all \"+staff\" all md5").and_then(|f| row::read(String::new(), &f)).is_ok());
}

#[test]
fn somebody_without_a_row_is_named_as_postgres_does() {
    let purpose = Purpose::Database;
    let visitor = |origin| Visitor { user: "ann", database: "app", purpose, origin }.to_string();
    assert_eq!(visitor(Origin::Local), "host \"[local]\", user \"ann\", database \"app\", no encryption");
    assert_eq!(visitor(plain("::1")), "host \"::1\", user \"ann\", database \"app\", no encryption");
    let tls = Origin::Tls("10.0.0.1".parse().unwrap());
    assert_eq!(visitor(tls), "host \"10.0.0.1\", user \"ann\", database \"app\", SSL encryption");
    let replica = Visitor { user: "ann", database: "app", purpose: Purpose::Replication, origin: tls };
    let words = "replication connection from host \"10.0.0.1\", user \"ann\", SSL encryption";
    assert_eq!(replica.to_string(), words);
}

#[test]
fn physical_replication_is_of_no_database_and_logical_replication_is_of_its_own() {
    let rules = rules(
        "host all mallory 0.0.0.0/0 reject\n\
         host replication,app ann 10.0.0.0/8 trust\n\
         host \"replication\" all 0.0.0.0/0 md5\n\
         host /rep,sameuser all 0.0.0.0/0 password",
    );
    let judge = |user, database, purpose| {
        let visitor = Visitor { user, database, purpose, origin: plain("10.1.2.3") };
        rules.judge(&visitor).map_or("-", |row| row.method.name())
    };
    assert_eq!(judge("ann", "app", Purpose::Replication), "trust");
    assert_eq!(judge("ann", "app", Purpose::Database), "trust");
    assert_eq!(judge("ann", "replication", Purpose::Database), "md5");
    // neither all nor a pattern nor the user's name means it
    for (user, database) in [("mallory", "app"), ("eve", "replication"), ("eve", "eve")] {
        assert_eq!(judge(user, database, Purpose::Replication), "-", "{user}");
    }
}

#[test]
fn a_file_has_comments_long_rows_and_files_of_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pg_hba.conf");
    std::fs::write(dir.path().join("staff"), "ann, bob\n# not eve\n\"all\" @more\n").unwrap();
    std::fs::write(dir.path().join("more"), "joe\n").unwrap();
    std::fs::write(&path, "# first\n\nlocal all all peer\nhost all @staff \\\n  10.0.0.0/8 \\\n md5\n").unwrap();
    let rows = file::load(&path).unwrap();
    let place = format!("{}:4", path.display());
    assert_eq!(rows.iter().map(|row| row.place.as_str()).nth(1), Some(place.as_str()));
    let rules = Rules::new(rows, map::Maps::default()).unwrap();
    for (user, method) in [("ann", "md5"), ("bob", "md5"), ("all", "md5"), ("joe", "md5"), ("eve", "-")] {
        assert_eq!(judge(&rules, plain("10.0.0.1"), user, "x"), method, "{user}");
    }
    std::fs::write(&path, "local all all peer\nhost all @nowhere all md5\nhost x\nlocal all @self md5\n").unwrap();
    std::fs::write(dir.path().join("self"), "@self").unwrap();
    let errors: Vec<String> = file::load(&path).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].contains("pg_hba.conf:2:1: \"@nowhere\": ") && errors[2].contains("files within files"));
    std::fs::write(&path, "# nothing\n").unwrap();
    assert!(file::load(&path).is_err());
}

#[test]
fn rows_that_are_garbled_anywhere_never_panic() {
    let row = "hostssl \"a b\",/^x sameuser,@f,\"q\"\"\" 10.0.0.0 255.0.0.0 md5 # x";
    for (at, found) in row.char_indices() {
        let (head, tail) = row.split_at(at);
        let rest = tail.strip_prefix(found).unwrap();
        for put in ["\"", ",", " ", "#", "/", "@", "+", "\\", "\0", "é", "9", "::/129"] {
            for text in [format!("{head}{put}{tail}"), format!("{head}{put}{rest}"), format!("{head}{put}")] {
                drop(fields(&text).and_then(|fields| row::read("f:1".to_owned(), &fields)));
            }
        }
    }
}
