//! Requests message by message: through the data plane they are answered as PostgreSQL itself answers them.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use harness::{Cluster, ErrorReply, Message, Plane, RawClient, Reply, Request, params};

/// A data plane with a single server connection, so that every session gets the one that others had.
fn plane_of_one() -> Plane {
    Plane::before(Cluster::shared()).cores("0").pool("size", 1).start()
}

/// A session right at PostgreSQL.
fn direct() -> RawClient {
    let parameters = [("user", "postgres"), ("database", "postgres"), ("application_name", "test")];
    RawClient::connect(Cluster::shared().port(), &parameters, None).unwrap()
}

/// The messages of a reply, without where in PostgreSQL's source an error or notice was written.
fn words(reply: &Reply) -> Vec<Message> {
    let mut messages = reply.messages.clone();
    for message in messages.iter_mut().filter(|message| matches!(message.tag, b'E' | b'N')) {
        let fields = message.body.split(|byte| *byte == 0);
        let told = fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
        message.body = told.collect::<Vec<_>>().join(&0);
    }
    messages
}

/// Sends requests, each of which ends with one ReadyForQuery, to PostgreSQL and through a data plane. The replies must be the
/// same to the byte.
fn assert_same_in_one_session(requests: &[Request], mut between: impl FnMut(&Plane, &Reply)) -> Vec<Reply> {
    let plane = plane_of_one();
    let (mut straight, mut through) = (direct(), plane.client("postgres"));
    let mut replies = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let (expected, reply) = (straight.ask(request), through.ask(request));
        assert_eq!(words(&reply), words(&expected), "request {number}: {request:?}");
        between(&plane, &reply);
        replies.push(reply);
    }
    replies
}

/// The same, while another session uses the same server connection in between.
fn assert_same_as_postgres(requests: &[Request]) -> Vec<Reply> {
    let mut other = None;
    assert_same_in_one_session(requests, |plane, reply| {
        if reply.status() == 'I' {
            let other = other.get_or_insert_with(|| plane.client("postgres"));
            assert_eq!(other.query("select 'other'").value(), "other");
        }
    })
}

#[test]
fn many_requests_in_one_write_are_answered_in_order() {
    let plane = plane_of_one();
    let mut client = plane.client("postgres");
    let mut request = Request::new();
    for number in 0..500 {
        let value = number.to_string();
        request = match number % 3 {
            0 => request.query(&format!("select {number}")),
            1 => request.extended("select $1::int", &params(&[&value])),
            _ => request
                .parse("", "select $1")
                .describe_statement("")
                .bind("", "", &params(&[&value]))
                .execute("", 0)
                .sync(),
        };
    }
    client.send(request.bytes());
    for number in 0..500 {
        assert_eq!(client.reply().good().value(), number.to_string());
    }
}

#[test]
fn an_error_in_a_pipeline_passes_over_everything_up_to_the_sync() {
    let bad = Request::new()
        .extended("select 1", &[])
        .parse("", "select 1 / (n - n) from generate_series(1, 1) n")
        .bind("", "", &[])
        .execute("", 0)
        .parse("never", "select 2")
        .bind("", "never", &[])
        .execute("", 0)
        .sync()
        .extended("select 3", &[]);
    let plane = plane_of_one();
    for mut client in [direct(), plane.client("postgres")] {
        client.send(bad.bytes());
        assert_eq!(client.reply().value(), "1");
        let failed = client.reply();
        assert_eq!((failed.tags().as_str(), failed.code().as_str()), ("12EZ", "22012"));
        assert_eq!(client.reply().value(), "3");
        assert_eq!(client.ask(&Request::new().run("never", &[])).code(), "26000");
    }
}

#[test]
fn statements_of_one_sync_are_one_transaction() {
    let plane = plane_of_one();
    plane.sql("postgres", "create table together (a int)");
    let insert = |request: Request, text: &str| request.parse("", text).bind("", "", &[]).execute("", 0);
    let mut client = plane.client("postgres");
    let request = insert(insert(Request::new(), "insert into together values (1)"), "select 1/0").sync();
    assert_eq!(client.ask(&request).code(), "22012");
    assert_eq!(client.query("select count(*) from together").value(), "0");
    let request =
        insert(insert(Request::new(), "insert into together values (1)"), "insert into together values (2)").sync();
    assert_eq!(client.ask(&request).commands(), ["INSERT 0 1", "INSERT 0 1"]);
    assert_eq!(client.query("select count(*) from together").value(), "2");
}

#[test]
fn flush_gives_answers_before_the_sync() {
    let plane = plane_of_one();
    for mut client in [direct(), plane.client("postgres")] {
        client.send(Request::new().parse("f", "select $1::int + 1").describe_statement("f").flush().bytes());
        let tags: Vec<u8> = client.receive_until(b'T').iter().map(|message| message.tag).collect();
        assert_eq!(tags, b"1tT");
        client.send(Request::new().bind("", "f", &params(&["41"])).execute("", 0).flush().bytes());
        let messages = client.receive_until(b'C');
        assert_eq!(Reply { messages }.value(), "42");
        client.send(Request::new().bind("", "f", &params(&["not a number"])).flush().bytes());
        let error = client.receive_until(b'E');
        assert_eq!(ErrorReply::read(&error.last().unwrap().body).code, "22P02");
        client.send(Request::new().execute("", 0).sync().bytes());
        assert_eq!(client.reply().tags(), "Z");
    }
}

#[test]
fn two_sessions_use_one_name_for_different_statements_on_one_connection() {
    let plane = plane_of_one();
    let (mut one, mut two) = (plane.client("postgres"), plane.client("postgres"));
    one.ask(&Request::new().parse("s", "select 'one ' || $1").sync()).good();
    two.ask(&Request::new().parse("s", "select 'two ' || $1 || '!'").sync()).good();
    for round in 0..20 {
        let value = round.to_string();
        assert_eq!(one.ask(&Request::new().run("s", &params(&[&value]))).value(), format!("one {round}"));
        assert_eq!(two.ask(&Request::new().run("s", &params(&[&value]))).value(), format!("two {round}!"));
    }
    one.ask(&Request::new().close_statement("s").sync()).good();
    assert_eq!(one.ask(&Request::new().run("s", &params(&["x"]))).code(), "26000");
    assert_eq!(two.ask(&Request::new().run("s", &params(&["x"]))).value(), "two x!");
    one.ask(&Request::new().parse("s", "select 'new ' || $1").sync()).good();
    assert_eq!(one.ask(&Request::new().run("s", &params(&["x"]))).value(), "new x");
    assert_eq!(two.ask(&Request::new().run("s", &params(&["x"]))).value(), "two x!");
}

#[test]
fn unnamed_statements_of_two_sessions_do_not_mix() {
    let plane = plane_of_one();
    let (mut one, mut two) = (plane.client("postgres"), plane.client("postgres"));
    one.ask(&Request::new().parse("", "select 'one'").sync()).good();
    two.ask(&Request::new().parse("", "select 'two'").sync()).good();
    for _ in 0..5 {
        assert_eq!(one.ask(&Request::new().run("", &[])).value(), "one");
        assert_eq!(two.ask(&Request::new().run("", &[])).value(), "two");
    }
    // a simple Query takes the unnamed statement away
    one.query("select 1").good();
    assert_eq!(one.ask(&Request::new().run("", &[])).code(), "26000");
    assert_eq!(two.ask(&Request::new().run("", &[])).value(), "two");
}

#[test]
fn names_that_are_taken_or_missing_are_told_as_postgres_tells_them() {
    let replies = assert_same_as_postgres(&[
        Request::new().parse("s", "select 1").sync(),
        Request::new().parse("s", "select 2").sync(),
        Request::new().run("s", &[]),
        Request::new().run("missing", &[]),
        Request::new().describe_statement("missing").sync(),
        Request::new().close_statement("missing").sync(),
        Request::new().close_statement("s").sync(),
        Request::new().run("s", &[]),
        Request::new().parse("s", "select 3").sync(),
        Request::new().run("s", &[]),
        Request::new().parse("t", "select 4").close_statement("t").bind("", "t", &[]).execute("", 0).sync(),
        Request::new().close_statement("s").parse("s", "select 5").bind("", "s", &[]).execute("", 0).sync(),
        Request::new().run("s", &[]),
    ]);
    assert_eq!(replies.get(1).unwrap().code(), "42P05");
    assert_eq!(replies.get(3).unwrap().code(), "26000");
}

#[test]
fn a_parse_that_fails_leaves_no_statement() {
    assert_same_as_postgres(&[
        Request::new().parse("s", "selec 1").sync(),
        Request::new().run("s", &[]),
        Request::new().parse("s", "select a from nowhere").bind("", "s", &[]).execute("", 0).sync(),
        Request::new().parse("s", "select 1").sync(),
        Request::new().run("s", &[]),
        Request::new().parse("u", "select 1/0").bind("", "u", &[]).execute("", 0).sync(),
        Request::new().run("u", &[]),
        Request::new().query("begin"),
        Request::new().parse("v", "select 6").sync(),
        Request::new().query("rollback"),
        Request::new().run("v", &[]),
        Request::new().query("begin"),
        Request::new().query("select 1/0"),
        Request::new().parse("w", "select 7").sync(),
        Request::new().run("s", &[]),
        Request::new().query("rollback"),
        Request::new().run("w", &[]),
        Request::new().run("s", &[]),
    ]);
}

#[test]
fn deallocate_takes_statements_of_the_protocol_away() {
    assert_same_as_postgres(&[
        Request::new().parse("s", "select 1").sync(),
        Request::new().query("deallocate s"),
        Request::new().run("s", &[]),
        Request::new().parse("s", "select 2").sync(),
        Request::new().run("s", &[]),
        Request::new().query("DEALLOCATE PREPARE \"s\""),
        Request::new().run("s", &[]),
        Request::new().parse("s", "select 3").parse("t", "select 4").sync(),
        Request::new().query("deallocate all"),
        Request::new().run("s", &[]),
        Request::new().run("t", &[]),
        Request::new().query("deallocate s"),
        Request::new().parse("s", "select 6").sync(),
        Request::new().query("discard all"),
        Request::new().run("s", &[]),
    ]);
}

#[test]
fn statements_of_the_protocol_and_of_sql_share_their_names() {
    // a statement prepared in SQL keeps the server connection for its session
    let requests = [
        Request::new().query("prepare s as select 1"),
        Request::new().run("s", &[]),
        Request::new().parse("s", "select 2").sync(),
        Request::new().query("deallocate s"),
        Request::new().parse("t", "select 3").sync(),
        Request::new().query("execute t"),
        Request::new().query("prepare t as select 4"),
        Request::new().query("select name, statement from pg_prepared_statements where name = 't'"),
    ];
    assert_same_in_one_session(&requests, |_, _| ());
}

#[test]
fn describe_tells_of_parameters_and_columns() {
    assert_same_as_postgres(&[
        Request::new().parse("s", "select $1::int as a, $2::text as b").describe_statement("s").sync(),
        Request::new().describe_statement("s").sync(),
        Request::new().bind("p", "s", &params(&["1", "x"])).describe_portal("p").execute("p", 0).sync(),
        Request::new().describe_portal("p").sync(),
        Request::new().parse("n", "set work_mem to '5MB'").describe_statement("n").sync(),
        Request::new().describe_portal("").sync(),
    ]);
}

#[test]
fn errors_name_statements_as_the_client_does() {
    assert_same_as_postgres(&[
        Request::new().parse("s", "select $1::int as a, $2::text as b").sync(),
        Request::new().bind("", "s", &params(&["1"])).sync(),
    ]);
}

#[test]
fn deallocate_in_the_extended_protocol_takes_statements_of_the_protocol_away() {
    // SQL that names statements keeps the server connection for its session
    let requests = [
        Request::new().parse("s", "select 5").sync(),
        Request::new().extended("deallocate s", &[]),
        Request::new().run("s", &[]),
        Request::new().parse("s", "select 6").sync(),
        Request::new().extended("deallocate all", &[]),
        Request::new().run("s", &[]),
        Request::new().parse("s", "select 7").sync(),
        Request::new().extended("discard all", &[]),
        Request::new().run("s", &[]),
    ];
    assert_same_in_one_session(&requests, |_, _| ());
}

#[test]
fn deallocate_among_other_statements_of_a_query_takes_statements_of_the_protocol_away() {
    // SQL that names statements keeps the server connection for its session
    let requests = [
        Request::new().parse("s", "select 5").sync(),
        Request::new().query("select 1; deallocate s; select 2"),
        Request::new().run("s", &[]),
        Request::new().parse("s", "select 6").sync(),
        Request::new().query("begin; deallocate s"),
        Request::new().run("s", &[]),
        Request::new().query("rollback"),
        Request::new().run("s", &[]),
    ];
    assert_same_in_one_session(&requests, |_, _| ());
}

#[test]
fn portals_give_rows_in_portions() {
    assert_same_as_postgres(&[
        Request::new()
            .parse("g", "select generate_series(1, 5)")
            .bind("p", "g", &[])
            .execute("p", 2)
            .execute("p", 2)
            .execute("p", 2)
            .close_portal("p")
            .execute("p", 1)
            .sync(),
        Request::new().query("begin"),
        Request::new().bind("p", "g", &[]).execute("p", 3).sync(),
        Request::new().execute("p", 1).sync(),
        Request::new().execute("p", 0).sync(),
        Request::new().execute("p", 0).sync(),
        Request::new().bind("p", "g", &[]).sync(),
        Request::new().query("commit"),
        Request::new().execute("p", 0).sync(),
        Request::new().bind("p", "g", &[]).bind("p", "g", &[]).sync(),
    ]);
}

#[test]
fn functions_can_be_called() {
    let call = |function: u32, argument: &[u8]| {
        let mut body = function.to_be_bytes().to_vec();
        body.extend([0, 1, 0, 1, 0, 1]);
        body.extend(u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend(argument);
        body.extend([0, 1]);
        Request::new().message(b'F', &body)
    };
    // int4abs
    let replies = assert_same_as_postgres(&[
        call(1397, &(-5_i32).to_be_bytes()),
        call(1397, b"x"),
        call(4_000_000, b""),
        Request::new().query("select 1"),
    ]);
    let answer = Message { tag: b'V', body: [4_i32.to_be_bytes(), 5_i32.to_be_bytes()].concat() };
    assert_eq!(replies.first().unwrap().messages.first(), Some(&answer));
}

#[test]
fn copies_fail_and_succeed_by_hand() {
    Cluster::shared().sql("create table if not exists copied (a int)");
    let data = |request: Request, text: &str| request.message(b'd', text.as_bytes());
    let copy = || Request::new().query("copy copied from stdin");
    let done = |request: Request| request.message(b'c', b"");
    let extended = Request::new().parse("", "copy copied from stdin").bind("", "", &[]).execute("", 0);
    assert_same_as_postgres(&[
        copy().message(b'f', b"changed my mind\0"),
        done(data(data(copy(), "1\n2"), "\n3\n")),
        // what comes after the error is passed over until the client has noticed
        done(data(data(copy(), "nonsense\n"), "4\n")),
        done(copy()),
        done(data(extended.clone(), "5\n")).sync(),
        data(extended, "6\n").message(b'f', b"no\0").sync(),
        // late messages of a COPY are ignored
        done(Request::new().message(b'd', b"7\n")).query("select count(*) from copied where a = 7"),
        Request::new().query("copy (select generate_series(1, 3)) to stdout"),
        Request::new().query("copy (select 1) to stdout; select 2; copy (select 3) to stdout"),
        Request::new().query("truncate copied"),
    ]);
}

#[test]
fn empty_queries_have_empty_answers() {
    assert_same_as_postgres(&[
        Request::new().query(""),
        Request::new().query(" ; ;"),
        Request::new().query("-- nothing"),
        Request::new().extended("", &[]),
        Request::new().sync(),
        Request::new().parse("e", "").describe_statement("e").sync(),
        Request::new().run("e", &[]),
        Request::new().query("select"),
        Request::new().query("; select 1; ;"),
    ]);
}

#[test]
fn transaction_status_follows_every_way_to_begin_and_end() {
    assert_same_as_postgres(&[
        Request::new().query("begin"),
        Request::new().query("begin"),
        Request::new().query("select 1/0"),
        Request::new().query("select 1"),
        Request::new().query("commit"),
        Request::new().query("commit"),
        Request::new().extended("begin", &[]),
        Request::new().extended("savepoint a", &[]),
        Request::new().extended("select 1/0", &[]),
        Request::new().extended("rollback to a", &[]),
        Request::new().extended("commit and chain", &[]),
        Request::new().query("rollback; begin; select 1; commit"),
        Request::new().query("select 1; begin"),
        Request::new().query("rollback"),
    ]);
}

#[test]
fn messages_that_break_the_protocol_end_their_session_only() {
    let plane = plane_of_one();
    let mut other = plane.client("postgres");
    let broken: [Request; 9] = [
        Request::new().message(b'Y', b""),
        Request::new().message(b'\0', b""),
        Request::new().raw(b"Q\0\0\0\x03"),
        Request::new().raw(b"Q\xff\xff\xff\xff"),
        Request::new().raw(b"P\0\0\0\0"),
        Request::new().message(b'Q', b"select 1"),
        Request::new().message(b'Q', b"select 1\0more\0").sync(),
        Request::new().message(b'P', b"no end").sync(),
        Request::new().message(b'B', b"no end").sync(),
    ];
    let mut wrong = Vec::new();
    for request in broken {
        for begun in [false, true] {
            let mut client = plane.client("postgres");
            if begun {
                client.query("begin").good();
            }
            client.send(request.bytes());
            let first = client.receive();
            assert_eq!(first.tag, b'E', "{request:?}: {first:?}");
            let error = ErrorReply::read(&first.body);
            if error.code != "08P01" {
                wrong.push((request.clone(), begun, error));
            }
            client.hang_up();
            assert_eq!(other.query("select 'unharmed'").value(), "unharmed", "{request:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn requests_that_come_byte_by_byte_are_answered() {
    let plane = plane_of_one();
    let mut client = plane.client("postgres");
    let request = Request::new()
        .query("select 'slow'")
        .parse("s", "select $1::int * 2")
        .describe_statement("s")
        .sync()
        .run("s", &params(&["21"]))
        .query("begin")
        .run("s", &params(&["4"]))
        .query("commit");
    for byte in request.bytes() {
        client.send(&[*byte]);
    }
    let replies: Vec<Reply> = (0..6).map(|_| client.reply().good()).collect();
    let values: Vec<String> = replies.iter().flat_map(Reply::values).collect();
    assert_eq!(values, ["slow", "42", "8"]);
    let tags: String = replies.iter().map(Reply::tags).collect();
    assert_eq!(tags, "TDCZ1tTZ2DCZCZ2DCZCZ");
}

#[test]
fn more_statements_than_are_kept_on_a_connection_still_work() {
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).pool("prepared_statements", 5).start();
    let (mut one, mut two) = (plane.client("postgres"), plane.client("postgres"));
    for number in 0..30 {
        one.ask(&Request::new().parse(&format!("s{number}"), &format!("select {number}")).sync()).good();
        two.ask(&Request::new().parse(&format!("s{number}"), &format!("select -{number}")).sync()).good();
    }
    for _ in 0..3 {
        for number in 0..30 {
            let run = Request::new().run(&format!("s{number}"), &[]);
            assert_eq!(one.ask(&run).value(), number.to_string());
            assert_eq!(two.ask(&run).value().parse::<i32>().unwrap(), -number);
        }
    }
    let kept = one.query("select count(*) from pg_prepared_statements").value().parse::<u32>().unwrap();
    assert!(kept <= 6, "{kept}");
    // all thirty in one go
    let all =
        (0..30).fold(Request::new(), |request, number| request.bind("", &format!("s{number}"), &[]).execute("", 0));
    let expected: Vec<String> = (0..30).map(|number: i32| number.to_string()).collect();
    assert_eq!(one.ask(&all.sync()).good().values(), expected);
    // those of a pipeline all had to be there at once; the next one makes room
    one.ask(&Request::new().parse("more", "select 'more'").sync()).good();
    let kept = one.query("select count(*) from pg_prepared_statements").value().parse::<u32>().unwrap();
    assert!(kept <= 6, "{kept}");
    assert!(plane.pool("postgres").prepared_evicted > 0);
}

#[test]
fn a_statement_whose_table_has_changed_is_told_so_as_by_postgres() {
    Cluster::shared().sql("create table changing (a int)");
    let plane = plane_of_one();
    let run = Request::new().run("s", &[]);
    for (column, mut client) in [("b", direct()), ("c", plane.client("postgres"))] {
        client.ask(&Request::new().parse("s", "select * from changing").sync()).good();
        client.ask(&run).good();
        Cluster::shared().sql(&format!("alter table changing add column {column} int"));
        let error = client.ask(&run).error().unwrap();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("0A000", "cached plan must not change result type"));
        client.ask(&Request::new().close_statement("s").parse("s", "select * from changing").sync()).good();
        client.ask(&run).good();
    }
}

#[test]
fn a_statement_prepared_again_sees_a_type_that_was_made_anew() {
    let plane = plane_of_one();
    let make = "drop type if exists mood; create type mood as enum ('sad', 'glad')";
    let ask = Request::new().extended("select $1::mood", &params(&["glad"]));
    for mut client in [direct(), plane.client("postgres")] {
        for _ in 0..2 {
            client.query(make).good();
            // each parses it anew
            assert_eq!(client.ask(&ask).good().value(), "glad");
            let named = Request::new().parse("m", "select $1::mood").bind("", "m", &params(&["sad"])).execute("", 0);
            assert_eq!(client.ask(&named.close_statement("m").sync()).good().value(), "sad");
        }
    }
}

#[test]
fn a_query_that_follows_a_long_one_that_failed_is_answered() {
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).pool("query_wait_timeout", "500ms").start();
    let (mut holder, mut waiter) = (plane.client("postgres"), plane.client("postgres"));
    holder.query("begin").good();
    let long = format!("select '{}'", "z".repeat(300_000));
    assert_eq!(waiter.query(&long).code(), "57014");
    holder.query("commit").good();
    assert_eq!(waiter.query("select 'answered'").good().value(), "answered");
}

#[test]
fn notices_come_with_their_request() {
    assert_same_as_postgres(&[
        Request::new().query("do $$ begin raise notice 'one'; raise warning 'two'; end $$"),
        Request::new().query("drop table if exists never_there"),
        Request::new().query("select 1"),
    ]);
}
