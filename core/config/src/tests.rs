use super::*;
use expect_test::expect;

const DATABASE: &str = "[[database]]\nname = \"*\"\nhost = \"127.0.0.1\"\n";
const MD5: &str = "md53175bce1d3201d16594cebf9d7eb3f9d";

fn errors(text: &str) -> String {
    Config::parse(text, "x.toml").unwrap_err().to_string()
}

#[test]
fn a_small_file_is_enough() {
    let config = Config::parse(DATABASE, "f").unwrap();
    assert_eq!(config.pool, Pool::default());
    assert_eq!(config.listen, Listen::default());
    assert_eq!(
        config.database("any").unwrap().hosts[0].upstream(5432),
        Upstream::Tcp("127.0.0.1:5432".parse().unwrap())
    );
}

#[test]
fn all_errors_are_told_at_once_with_their_place_and_the_nearest_key() {
    let text = r#"pools = 1
[listen]
adresses = ["127.0.0.1:6432"]
addresses = ["127.0.0.1:6432", "localhost:1", 3]
unix_socket_dir = "run"
size = 3
[runtime]
cores = "3-1"
[limits]
max_client_connections = -1
auth_timeout = 10
[pool]
mode = "statements"
size = 0
share_depth = 99999999999
query_wait_timeout = "2 days"
[log]
level = true
[[database]]
name = "a"
host = "db:5432"
[database.pool]
mode = "session"
share = true
[[database]]
name = "a"
port = 70000
xyzzy = 1
[[user]]
name = "ann"
password = "sesame"
trust = ["10.0.0.0/33", "lokal"]
[[user]]
name = "ann"
"#;
    expect![[r#"
        x.toml:1:1: unknown key "pools"; did you mean [pool]?
        x.toml:3:1: unknown key "adresses" in [listen]; did you mean "addresses"?
        x.toml:4:32: addresses: "localhost:1" is no IP address and port such as 127.0.0.1:6432 or [::1]:6432
        x.toml:4:47: addresses: must be an address such as 127.0.0.1:6432 in quotes, not a number
        x.toml:5:19: unix_socket_dir: must be an absolute path
        x.toml:6:1: unknown key "size" in [listen]; it belongs in [pool]
        x.toml:8:9: cores: "3-1" is no list of cores such as 0-3,8
        x.toml:10:26: max_client_connections: must be at least 1
        x.toml:11:16: auth_timeout: must be a duration such as 500ms, 30s, 10min or 1h in quotes, not a number
        x.toml:13:8: mode: must be one of "transaction", "session", "statement", not "statements"
        x.toml:14:8: size: must be at least 1
        x.toml:15:15: share_depth: must be at most 4294967295
        x.toml:16:22: query_wait_timeout: "2 days" is no duration such as 500ms, 30s, 10min or 1h
        x.toml:18:9: level: must be one of "error", "warn", "info", "debug", "trace", not true or false
        x.toml:24:9: share = "on" has no meaning with mode = "session"
        x.toml:25:1: [[database]] needs the key host
        x.toml:26:8: database "a" stands in line 20 already
        x.toml:27:8: port: must be at most 65535
        x.toml:28:1: unknown key "xyzzy" in [[database]]; there are name, host, port, target_session_attrs, dbname, user, password, password_file, max_connections, max_client_connections, connect_query, settings, tls, tls_ca, tls_crl, tls_certificate, tls_key, require_auth, pool
        x.toml:31:12: password: must be a SCRAM-SHA-256 verifier or an MD5 hash, not the password itself; make a verifier with ctl password-verifier
        x.toml:32:10: trust: "10.0.0.0/33" is no address range such as 10.0.0.0/8, nor "local"
        x.toml:32:25: trust: "lokal" is no address range such as 10.0.0.0/8, nor "local"
        x.toml:33:1: a user needs password or trust, else it can never log in
        x.toml:34:8: user "ann" stands in line 30 already"#]]
        .assert_eq(&errors(text));
    assert!(!errors(text).contains("sesame"));
}

#[test]
fn errors_of_syntax_are_told_at_once_too() {
    expect![[r#"
            x.toml:2:8: extra `=`, expected nothing
            x.toml:2:10: unexpected key or value, expected newline, `#`
            x.toml:3:8: invalid boolean, expected `true`
            x.toml:4:11: unclosed array table, expected `]]`"#]]
    .assert_eq(&errors("[pool]\nsize = = 3\nmode = transaction\n[[database\n"));
}

#[test]
fn a_file_cut_off_or_garbled_anywhere_never_panics() {
    let pool = "[database.pool]\nsize = 3\n";
    let text = format!("{DATABASE}{pool}[[user]]\nname = \"ä\"\ntrust = [\"::1/64\", \"local\"]\n");
    for (at, found) in text.char_indices() {
        let (head, tail) = text.split_at(at);
        drop(Config::parse(head, "x"));
        drop(Config::parse(tail, "x"));
        for put in ["\0", "\"", "'''", "[", "]]", "{", "=", "\n", "é", "9"] {
            drop(Config::parse(&format!("{head}{put}{tail}"), "x"));
            drop(Config::parse(&format!("{head}{put}{}", tail.strip_prefix(found).unwrap()), "x"));
        }
    }
}

#[test]
fn tables_must_be_tables_and_there_must_be_a_database() {
    expect![[r#"
            x.toml: there is no [[database]]
            x.toml:1:8: pool must be a table
            x.toml:2:1: must be written with two brackets: [[user]]"#]]
    .assert_eq(&errors("pool = 3\n[user]\nname = \"a\"\n"));
    let empty = "[listen]\naddresses = []\n";
    assert_eq!(
        errors(&format!("{empty}{DATABASE}")),
        "x.toml:2:13: addresses is empty and there is no unix_socket_dir"
    );
    let listen = Config::parse(&format!("{empty}unix_socket_dir = \"/run/oc\"\n{DATABASE}"), "x").unwrap().listen;
    assert_eq!(listen.unix_socket(), Some(PathBuf::from("/run/oc/.s.PGSQL.6432")));
}

#[test]
fn a_file_that_is_not_there_is_an_error_without_line() {
    let error = Config::load(Path::new("no/such/file")).unwrap_err();
    assert!(error.iter().all(|error| error.place.is_none()));
    assert!(error.to_string().starts_with("no/such/file: No such file"), "{error}");
}

#[test]
fn a_users_pool_goes_before_a_databases_and_that_before_the_common_one() {
    let text = format!(
        "[pool]\nsize = 1\nshare_depth = 2\nprepared_statements = 3\n{DATABASE}\
             [database.pool]\nsize = 10\nshare_depth = 20\n\
             [[user]]\nname = \"ann\"\npassword = \"{MD5}\"\npool = {{ size = 100, share = \"off\" }}\n"
    );
    let config = Config::parse(&text, "x").unwrap();
    let sizes = |user| {
        let pool = config.pool_for(config.database("db").unwrap(), user);
        (pool.size, pool.share_depth, pool.prepared_statements, pool.share)
    };
    assert_eq!(sizes("ann"), (100, 20, 3, Share::Off));
    assert_eq!(sizes("bob"), (10, 20, 3, Share::On));
    assert_eq!(config.user("ann").unwrap().password.as_ref().map(Secret::as_str), Some(MD5));
}

#[test]
fn secrets_are_not_in_what_is_printed() {
    let text = format!(
        "{DATABASE}password = \"hidden1\"\n[[user]]\nname = \"a\"\npassword = \"{MD5}\"\nserver_password = \"hidden2\"\n"
    );
    let config = Config::parse(&text, "x").unwrap();
    let printed = format!("{config:?} {:?}", config.users[0].password);
    assert!(!printed.contains("hidden") && !printed.contains(MD5), "{printed}");
    assert_eq!(config.users[0].server_password.as_ref().map(Password::as_str), Some("hidden2"));
}

#[test]
fn ranges_contain_what_their_prefix_says() {
    let text = format!("{DATABASE}[[user]]\nname = \"a\"\ntrust = [\"10.1.0.0/20\", \"::1\", \"local\"]\n");
    let config = Config::parse(&text, "x").unwrap();
    assert!(config.trusts("a", "10.1.15.9".parse().unwrap()));
    assert!(config.trusts("a", "::ffff:10.1.15.9".parse().unwrap()));
    assert!(!config.trusts("a", "10.1.16.1".parse().unwrap()));
    assert!(config.trusts("a", "::1".parse().unwrap()));
    assert!(!config.trusts("b", "::1".parse().unwrap()));
    assert!(config.trusts_local("a") && !config.trusts_local("b"));
}

#[test]
fn host_names_are_looked_up_when_asked() {
    let config = Config::parse(&DATABASE.replace("127.0.0.1", "localhost"), "x").unwrap();
    let database = config.database("a").unwrap();
    assert_eq!(database.hosts[0].upstream(database.port), Upstream::Named("localhost".to_owned(), 5432));
    assert!(look_up("localhost").unwrap().iter().all(IpAddr::is_loopback));
}

#[test]
fn a_databases_tls_is_its_own_keys_over_those_of_the_server_table() {
    let text = r#"
[server]
tls = "verify-ca"
tls_ca = "/ca"
[[database]]
name = "a"
host = "::1"
tls = "verify-full"
tls_certificate = "/c"
tls_key = "/k"
[[database]]
name = "b"
host = "::1"
tls = "prefer"
"#;
    let config = Config::parse(text, "f").unwrap();
    let tls = |name: &str| &config.database(name).unwrap().tls;
    assert_eq!(tls("a").mode, TlsMode::VerifyFull);
    assert_eq!(tls("a").ca.as_deref(), Some(Path::new("/ca")));
    assert_eq!(tls("a").identity, Some(("/c".into(), "/k".into())));
    assert_eq!((tls("b").mode, &tls("b").identity), (TlsMode::Prefer, &None));
}

#[test]
fn keys_of_tls_that_lack_each_other_are_told() {
    let text = r#"
[listen.tls]
mode = "verify-full"
client_crl = "/crl"
[server]
tls = "require"
tls_ca = "/ca"
[[database]]
name = "a"
host = "::1"
tls_key = "/k"
[[database]]
name = "b"
host = "::1"
tls = "on"
[tls]
"#;
    expect![[r#"
        x.toml:2:1: mode = "verify-full" needs the key certificate
        x.toml:2:1: mode = "verify-full" needs the key client_ca
        x.toml:2:1: mode = "verify-full" needs the key key
        x.toml:4:14: client_crl has no meaning without client_ca
        x.toml:7:10: tls_ca has no meaning with tls = "require"; tls = "verify-full" judges certificates
        x.toml:11:11: tls_key needs the key tls_certificate
        x.toml:15:7: tls: must be one of "disable", "allow", "prefer", "require", "verify-ca", "verify-full", not "on"
        x.toml:16:2: unknown key "tls"; it belongs in [listen]"#]]
    .assert_eq(&errors(text));
}

#[test]
fn rules_are_rows_of_a_table_or_of_a_file() {
    let text = format!(
        "{DATABASE}[[hba]]\ntype = \"local\"\nmethod = \"peer\"\n\
         [[hba]]\ntype = \"host\"\ndatabase = [\"app\", \"other\"]\nuser = \"ann, \\\"all\\\"\"\n\
         address = \"10.0.0.0 255.0.0.0\"\nmethod = \"scram-sha-256\"\n[[user]]\nname = \"ann\"\n"
    );
    let rules = Config::parse(&text, "x.toml").unwrap().auth.rules.unwrap();
    let origin = hba::Origin::Plain("10.1.1.1".parse().unwrap());
    let judge = |user, database| {
        let row = rules.judge(&hba::Visitor { user, database, origin });
        row.map(|row| (row.place.clone(), row.method.name()))
    };
    let row = Some(("x.toml:7".to_owned(), "scram-sha-256"));
    assert_eq!([judge("ann", "app"), judge("all", "other")], [row.clone(), row]);
    assert_eq!([judge("bob", "app"), judge("ann", "third")], [None, None]);
    let text = format!(
        "{DATABASE}[auth]\nhba_file = \"nowhere.conf\"\nauth_query = \"select 1\"\nauth_file = \"/nowhere/list\"\n\
         [[hba]]\ntype = \"host\"\nmethod = \"trust\"\n[[hba]]\ntype = \"local\"\nmethod = 3\n"
    );
    expect![[r#"
        /nowhere/list: No such file or directory (os error 2)
        nowhere.conf: No such file or directory (os error 2)
        x.toml:5:12: there are [[hba]] too; rules stand in one place only
        x.toml:6:14: auth_query has no meaning without auth_user
        x.toml:8:1: "trust" is no IP address, all, samehost or samenet (host names are not looked up)
        x.toml:13:10: method: must be text in quotes, or a list of such"#]]
    .assert_eq(&errors(&text));
}

#[test]
fn a_secret_stands_in_one_place_and_is_not_told() {
    let text = format!("{DATABASE}password = \"hidden\"\npassword_file = \"/nowhere/at/all\"\n");
    let told = errors(&text);
    assert!(told.contains("password is there too") && told.contains("/nowhere/at/all: No such file"), "{told}");
    assert!(!told.contains("hidden"), "{told}");
    let told = errors(&format!("{DATABASE}password = \"env:NO_SUCH_VARIABLE_HERE\"\n"));
    assert!(told.contains("x.toml:4:12: password: there is no variable NO_SUCH_VARIABLE_HERE"), "{told}");
}

#[test]
fn the_console_has_its_names_and_its_users() {
    let user = "[[user]]\nname = \"ann\"\ntrust = [\"local\"]\n";
    let text = format!(
        "[admin]\nadmin_users = [\"ann\"]\nstats_users = [\"eve\"]\n[[database]]\nname = \"pgbouncer\"\nhost = \"::1\"\n{user}"
    );
    let told: Vec<String> = Config::parse(&text, "f").unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "f:3:16: stats_users: there is no [[user]] \"eve\", and no such user in auth_file",
            "f:5:8: name: \"pgbouncer\" is the console's"
        ]
    );
    let text = format!("[admin]\nadmin_users = [\"ann\"]\n[[database]]\nname = \"a\"\nhost = \"::1\"\n{user}");
    assert_eq!(Config::parse(&text, "f").unwrap().admin.admin_users, ["ann"]);
}
