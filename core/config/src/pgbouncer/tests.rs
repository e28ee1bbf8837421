use super::*;

/// A machine that has one file and one name.
fn surroundings() -> Surroundings {
    fn read(path: &Path) -> io::Result<String> {
        match path.to_str() {
            Some("more.ini") => Ok("default_pool_size = 7\n[databases]\nmore = host=10.0.0.9\n".to_owned()),
            Some("again.ini") => Ok("%include again.ini".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
        if name == "localhost" { Ok(vec![IpAddr::from([127, 0, 0, 1])]) } else { Err(io::Error::other("unheard of")) }
    }
    fn users(_: &Path) -> Vec<String> {
        vec!["ann".to_owned(), "bob".to_owned()]
    }
    Surroundings { read, addresses, users }
}

fn import(text: &str) -> Import {
    Import::of(text, "p.ini", &surroundings()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(text: &str) -> Vec<String> {
    let errors = match Import::of(text, "p.ini", &surroundings()) {
        Ok(import) => import.config().err().map(|errors| errors.0).unwrap_or_default(),
        Err(errors) => errors.0,
    };
    errors.iter().map(ToString::to_string).collect()
}

fn config(text: &str) -> Config {
    import(text).config().unwrap_or_else(|errors| panic!("{errors}"))
}

fn fate(text: &str, key: &str) -> Fate {
    let import = import(text);
    let found: Vec<&Item> = import.report.iter().filter(|item| item.key == key).collect();
    assert!(!found.is_empty(), "{key} is not in the report: {:?}", import.report);
    found.last().unwrap().fate
}

const LEAST: &str = "[databases]\napp = host=127.0.0.1\n[pgbouncer]\nlisten_addr = 127.0.0.1\n";

#[test]
fn what_is_not_said_is_as_pgbouncer_has_it() {
    let config = config("[databases]\napp =\n[pgbouncer]\n");
    assert_eq!(config.pool.mode, crate::PoolMode::Session);
    assert_eq!((config.limits.max_client_connections, config.limits.auth_timeout.as_secs()), (100, 60));
    assert_eq!((config.pool.size, config.pool.prepared_statements, config.listen.backlog), (20, 200, 128));
    assert_eq!(config.pool.server_connect_timeout.as_secs(), 15);
    assert_eq!(config.server.mode, crate::TlsMode::Prefer);
    assert!(config.listen.addresses.is_empty());
    assert_eq!(config.listen.unix_socket().unwrap().to_str(), Some("/tmp/.s.PGSQL.6432"));
    assert_eq!((config.databases[0].hosts[0].name.as_str(), config.databases[0].port), ("/tmp", 5432));
    let methods: Vec<_> =
        import(LEAST).toml.lines().filter(|line| line.starts_with("method")).map(str::to_owned).collect();
    assert_eq!(methods, ["method = \"md5\"", "method = \"md5\""]);
}

#[test]
fn every_key_of_the_tables_is_told_of() {
    let value = |kind: key::Kind| match kind {
        key::Kind::Int => "1",
        key::Kind::Time => "2.5",
        key::Kind::Text => "x",
        key::Kind::Word(words) => words[0],
    };
    for known in key::GLOBAL {
        let import = import(
            &format!("{LEAST}unix_socket_dir = /tmp\n{} = {}\n", known.name, value(known.kind))
                .replace("addr = x", "addr = ::1"),
        );
        assert!(import.report.iter().any(|item| item.key == known.name && item.place.is_some()), "{}", known.name);
    }
    for (section, of, keys) in [("databases", "a", key::OF_DATABASE), ("users", "a", key::OF_USER)] {
        for known in keys {
            let text = format!("[{section}]\na = {}={}\n[pgbouncer]\n", known.name, value(known.kind));
            let name = format!("{section}.{of}.{}", known.name);
            assert!(import(&text).report.iter().any(|item| item.key == name), "{name}");
        }
    }
}

#[test]
fn a_whole_file_is_as_it_would_be_in_our_own_words() {
    let text = "; comment\n[databases]\napp = host=db1 port=5433 dbname='it''s' user=u password='p w' pool_size=5 pool_mode=SESSION\n\
                * = host=/run/pg max_db_connections=9 connect_query='select 1' timezone=UTC client_encoding=UTF8\n\
                [users]\nann = pool_mode=statement max_user_connections=3 query_timeout=1.5\n\
                [peers]\n1 = host=/tmp/a\n\
                [pgbouncer]\nlisten_addr = localhost,::1\nlisten_port = 7000\npool_mode = transaction\nadmin_users = ann, eve\n\
                query_wait_timeout = 0\nserver_idle_timeout=0\nidle_transaction_timeout = 0.25\nverbose = 1\n\
                ignore_startup_parameters = extra_float_digits, client_encoding\nmin_pool_size = 50\nauth_type = scram-sha-256\n\
                unix_socket_dir =\nmax_user_client_connections = 4\nauth_file = nowhere\n";
    let import = import(text);
    let (toml, _) = import.toml.split_once("[auth]").unwrap();
    expect_test::expect![[r#"
        # Made from p.ini by optimacore --import.

        [listen]
        backlog = 128
        addresses = ["127.0.0.1:7000", "[::1]:7000"]

        [limits]
        auth_timeout = "60s"
        max_client_connections = 100

        [pool]
        idle_transaction_timeout = "250ms"
        prepared_statements = 200
        mode = "transaction"
        query_wait_timeout = "366d"
        server_connect_timeout = "15s"
        server_idle_timeout = "366d"
        min_pool_size = 20

        [server]
        tls = "prefer"

        [log]
        level = "debug"
        connections = "on"

        [admin]
        admin_users = ["ann"]

    "#]]
    .assert_eq(toml);
    let (_, rest) = import.toml.split_once("[[database]]").unwrap();
    expect_test::expect![[r#"

        name = "app"
        host = "db1"
        port = 5433
        dbname = "it's"
        user = "u"
        pool.size = 5
        pool.mode = "session"
        password = "p w"

        [[database]]
        name = "*"
        host = "/run/pg"
        max_connections = 9
        connect_query = "select 1"
        settings = { client_encoding = "UTF8", timezone = "UTC" }

        [[user]]
        name = "ann"
        pool.mode = "statement"
        max_server_connections = 3
        pool.query_timeout = "1500ms"
        max_client_connections = 4

        [[user]]
        name = "bob"
        max_client_connections = 4
    "#]]
    .assert_eq(rest);
    // but for the list, which is not there
    let told: Vec<String> = import.config().unwrap_err().iter().map(ToString::to_string).collect();
    assert!(told.iter().all(|error| error.contains("nowhere") || error.contains("admin_users")), "{told:?}");
}

#[test]
fn files_name_others_and_the_last_word_holds() {
    let text = format!("{LEAST}max_client_conn = 1\nmax_client_conn = 2\ndefault_pool_size = 5\n%include more.ini\n");
    let found = config(&text);
    assert_eq!((found.pool.size, found.limits.max_client_connections), (7, 2));
    assert_eq!(found.databases.len(), 2);
    // PgBouncer forgets what was said before
    let again = config(&format!("{text}[pgbouncer]\nmax_client_conn = 3\n"));
    assert_eq!((again.pool.size, again.limits.max_client_connections), (20, 3));
    assert!(again.listen.addresses.is_empty());
    assert_eq!(errors("[pgbouncer]\n%include again.ini\n").len(), 1);
    assert!(errors("%include nowhere.ini")[0].starts_with("p.ini:1:1: %include nowhere.ini:"));
}

#[test]
fn errors_are_told_at_their_lines_all_at_once() {
    let text =
        "[databases]\napp = host=a:b pool_size=0\nbad = nonsense=1\n[pgbouncer]\nlisten_adr = x\npool_mode = none\n";
    assert_eq!(
        errors(text),
        [
            "p.ini:5:1: unknown key \"listen_adr\" in [pgbouncer]; did you mean \"listen_addr\"?",
            "p.ini:6:1: pool_mode: \"none\" is none of session, transaction, statement",
        ]
    );
    assert_eq!(
        errors("[databases]\nbad = nonsense=1\n"),
        ["p.ini:2:1: databases.bad: unknown key \"nonsense\" in [databases]"]
    );
    let text = "[databases]\napp = host=a:b pool_size=0\n[pgbouncer]\n";
    assert_eq!(
        errors(text),
        [
            "p.ini:2:1: databases.app.host: host: \"b\" in \"a:b\" is no port",
            "p.ini:2:1: databases.app.pool_size: size: must be at least 1",
        ]
    );
    for (text, what) in [
        ("[pgbouncer\n", "must end with ]"),
        ("[nonsense]\na = 1\n", "unknown section [nonsense]"),
        ("a = 1\n", "stands before any section"),
        ("[pgbouncer]\npool_mode\n", "key = value"),
        ("[pgbouncer]\ndefault_pool_size = 5 ; five\n", "is no whole number"),
        ("[pgbouncer]\nserver_lifetime = 5s\n", "is no number of seconds"),
        ("[pgbouncer]\nserver_lifetime = -1\n", "is no number of seconds"),
        ("[databases]\na = host='x\n", "a quote is not closed"),
        ("[databases]\na = host=\n", "must not be empty"),
        ("[databases]\na b = host=x\n", "key = value"),
        ("[databases]\npgbouncer = host=x\n", "the name is the console's"),
        ("[databases]\noptimacore = host=x\n", "is the console's"),
        ("[peers]\nx = host=a\n", "must be a number from 1 to 65535"),
        ("[pgbouncer]\nlisten_addr = nonsense\n", "unheard of"),
        ("[pgbouncer]\nlisten_port = 0\n", "must be from 1 to 65535"),
    ] {
        let told = errors(text);
        assert!(told.iter().any(|error| error.contains(what)), "{text:?}: {told:?}");
    }
}

#[test]
fn no_error_and_no_report_repeats_a_password() {
    for text in [
        "[databases]\na = password=hidden user='x\n",
        "[databases]\na = host=x password='not hidden'hidden\n",
        "[databases]\na = host=x password=two hidden words\n",
        "[databases]\na = host=x password=two hidden=words\n",
        "[databases]\na = host=x user=u password=env:hidden\n",
        "[databases]\na = host=x password=hidden\n",
    ] {
        let told = errors(text).join("\n");
        assert!(!told.contains("hidden"), "{text}: {told}");
        if let Ok(import) = Import::of(text, "p.ini", &surroundings()) {
            assert!(!import.table().contains("hidden") && !import.json().contains("hidden"), "{text}");
        }
    }
}

#[test]
fn what_cannot_be_had_is_told_and_what_must_not_be_missed_blocks() {
    for (said, key, wanted) in [
        ("auth_type = any", "auth_type", Fate::Blocks),
        ("auth_type = pam", "auth_type", Fate::Blocks),
        ("auth_type = Trust", "auth_type", Fate::Renamed),
        ("disable_pqexec = 1", "disable_pqexec", Fate::Blocks),
        ("disable_pqexec = 0", "disable_pqexec", Fate::NotNeeded),
        ("unix_socket_mode = 0700", "unix_socket_mode", Fate::Blocks),
        ("unix_socket_mode = 0777", "unix_socket_mode", Fate::NotNeeded),
        ("client_tls_protocols = tlsv1.3", "client_tls_protocols", Fate::Blocks),
        ("client_tls_protocols = secure", "client_tls_protocols", Fate::NotNeeded),
        ("server_tls_ciphers = HIGH", "server_tls_ciphers", Fate::NotSupported),
        ("server_round_robin = 1", "server_round_robin", Fate::NotSupported),
        ("logfile = /var/log/x", "logfile", Fate::NotNeeded),
        ("server_reset_query =", "server_reset_query", Fate::Renamed),
        ("server_reset_query = DISCARD ALL", "server_reset_query", Fate::NotNeeded),
        ("max_client_conn = 5", "max_client_conn", Fate::Renamed),
        ("query_timeout = 5", "query_timeout", Fate::Kept),
        ("auth_query = select 1", "auth_query", Fate::NotNeeded),
    ] {
        let text = format!("{LEAST}{said}\n");
        assert_eq!(fate(&text, key), wanted, "{said}");
        let blocked = errors(&text).iter().any(|error| error.contains("is not supported"));
        assert_eq!(blocked, wanted == Fate::Blocks, "{said}");
        assert_eq!(import(&text).is_whole(), !matches!(wanted, Fate::Blocks | Fate::NotSupported), "{said}");
    }
    assert_eq!(fate("[databases]\na = host=a,b\n", "databases.a.host"), Fate::NotSupported);
    let in_order = "[databases]\na = host=a,b load_balance_hosts=disable target_session_attrs=primary\n[pgbouncer]\ndns_max_ttl = 0\n";
    assert_eq!(fate(in_order, "databases.a.host"), Fate::Kept);
    assert!(config(in_order).databases.len() == 1);
    let two = "[databases]\na = host=x auth_user=u\nb = host=x auth_user=v\n";
    assert_eq!(fate(two, "databases.b.auth_user"), Fate::Blocks);
    assert_eq!(fate("[databases]\na = host=x auth_user=u\nb = host=x\n", "databases.a.auth_user"), Fate::NotSupported);
    assert_eq!(fate("[databases]\na = host=x auth_user=u\n", "databases.a.auth_user"), Fate::Kept);
}

#[test]
fn a_file_is_told_from_our_own_by_its_name_or_its_sections() {
    assert!(is_ini(Path::new("/etc/pgbouncer/pgbouncer.ini"), ""));
    assert!(is_ini(Path::new("conf"), "; hello\n [databases]\n"));
    assert!(!is_ini(Path::new("optimacore.toml"), "[[database]]\nname = \"[databases]\"\n"));
}

#[test]
fn the_report_is_sound_json() {
    let text = format!("{LEAST}logfile = \"x\\y\"\n");
    let json = import(&text).json();
    // a list of objects of texts, numbers and null is a TOML array with other signs
    let toml = json.replace("\": ", "\" = ").replace("= null", "= \"\"");
    let table: toml::Table = format!("items = {toml}").parse().unwrap();
    assert!(table["items"].as_array().unwrap().len() > 5);
}

/// A row of the page's tables: a key and what becomes of it.
fn row(known: &key::Known) -> String {
    use key::How;
    let table = known.table.trim_matches(['[', ']']);
    let what = match known.how {
        How::Number(own, _) | How::Duration(own, _) | How::Word(own) | How::Text(own) | How::File(own) => {
            format!("`{table}.{own}`")
        }
        How::Own(what) => what.to_owned(),
        How::NotNeeded(why) => format!("not needed: {why}"),
        How::Only(fine, fate, why) => {
            let fine: Vec<String> =
                fine.iter().filter(|fine| !fine.is_empty()).map(|fine| format!("`{fine}`")).collect();
            let unless = if fine.is_empty() { String::new() } else { format!(" unless {}", fine.join(", ")) };
            format!("{}{unless}: {why}", fate.name())
        }
    };
    let default = known.unsaid.map_or_else(String::new, |default| format!(" (`{default}` where it is not said)"));
    format!("| `{}` | {what}{default} |\n", known.name)
}

#[test]
fn the_page_for_who_moves_tells_of_every_key() {
    let page = include_str!("../../../../docs/moving.md");
    for (title, keys) in [
        ("### `[pgbouncer]`", key::GLOBAL),
        ("### `[databases]`", key::OF_DATABASE),
        ("### `[users]`", key::OF_USER),
        ("### `[peers]`", key::OF_PEER),
    ] {
        let rows: String = keys.iter().map(row).collect();
        let (_, section) = page.split_once(title).unwrap();
        assert!(section.contains(&rows), "docs/moving.md, {title} must have these rows:\n{rows}");
    }
}
