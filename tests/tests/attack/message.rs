//! After somebody is let in: frames (F), the extended protocol and COPY (E).

use crate::wire::Step::{Await, Send};
use crate::wire::{Case, Door, Step, start};
use harness::{Request, params};

const fn open(id: &'static str, steps: fn() -> Vec<Step>) -> Case {
    Case { id, door: Door::Open, steps }
}

fn send(request: &Request) -> Vec<Step> {
    vec![Send(request.bytes().to_vec())]
}

fn raw(bytes: &[u8]) -> Vec<Step> {
    vec![Send(bytes.to_vec())]
}

fn new() -> Request {
    Request::new()
}

/// A Bind of the unnamed ones whose rest is this.
fn bind(rest: &[u8]) -> Request {
    new()
        .parse("", "select $1::text")
        .message(b'B', &[b"\0\0", rest].concat())
        .execute("", 0)
        .sync()
        .query("select 'on'")
}

/// COPY that has begun.
fn copying(then: &Request) -> Vec<Step> {
    let begin = new().query("create temp table if not exists copied (a int)").query("copy copied from stdin");
    vec![Send(begin.bytes().to_vec()), Await(b'G'), Send(then.bytes().to_vec())]
}

/// The list.
pub(crate) const CASES: &[Case] = &[
    open("F01", || send(&new().message(0, b""))),
    open("F02", || send(&new().message(b'm', b"").query("select 2"))),
    open("F02 password", || send(&new().message(b'p', b"secret\0").query("select 2"))),
    open("F03", || raw(b"Q\0\0\0\x03")),
    open("F04", || raw(b"Q\0\0\0\0")),
    open("F05", || raw(b"Q\xff\xff\xff\xff")),
    open("F06", || raw(b"Q\x80\0\0\0")),
    open("F07", || raw(b"Q\x7f\xff\xff\xff")),
    open("F08", || send(&new().message(b'Q', b"select 8").query("select 'on'"))),
    open("F09", || send(&new().message(b'Q', b"select 9\0select 99\0").query("select 'on'"))),
    open("F10", || send(&new().message(b'Q', b"").query("select 'on'"))),
    open("F11", || send(&new().message(b'S', b"more").query("select 'on'"))),
    open("F12", || raw(b"S\0\0\0\x03")),
    open("F13", || send(&new().message(b'X', b"more").query("select 13"))),
    open("F13 behind a query", || send(&new().query("select 13").terminate())),
    open("F13 behind several", || {
        send(&new().query("select 13").extended("select 14", &[]).terminate().query("select 15"))
    }),
    open("F13 in a block", || send(&new().query("begin").query("select 13").terminate())),
    open("F14", || {
        let inner = new().query("select 'second'");
        send(&new().message(b'Q', b"select 'fir").raw(inner.bytes()))
    }),
    open("F15", || raw(&start(&[("user", "scrammed"), ("database", "postgres")]))),
    open("F16", || send(&new().message(b'd', b"1\n").query("select 16"))),
    open("F17", || send(&new().message(b'c', b"").query("select 17"))),
    open("F18", || send(&new().message(b'f', b"why\0").query("select 18"))),
    open("F16 in a request", || {
        send(&new().parse("", "select 16").message(b'd', b"1\n").bind("", "", &[]).execute("", 0).sync())
    }),
    open("F19", || send(&new().message(b'D', b"\0\0\0").sync().query("select 'on'"))),
    open("F20", || send(&new().message(b'Z', b"I").query("select 20"))),
    open("F21", || send(&new().message(b'F', b"\0\0").query("select 'on'"))),
    open("E01", || send(&bind(b"\xff\xff\0\x01\0\0\0\x01x\0\0"))),
    open("E02", || send(&bind(b"\0\0\x7f\xff"))),
    open("E03", || send(&bind(b"\0\0\0\x01\x7f\xff\xff\xff"))),
    open("E04", || send(&bind(b"\0\0\0\x01\xff\xff\xff\xfe\0\0"))),
    open("E05", || send(&bind(b"\0\0\0\x01\0\0\0\x01x\0\0more"))),
    open("E06", || {
        send(&new().message(b'P', &[b"\0select 6\0\xff\xff", &[0; 262_140][..]].concat()).sync().query("select 'on'"))
    }),
    open("E06 fewer", || send(&new().message(b'P', b"\0select 6\0\0\x07\0\0").sync().query("select 'on'"))),
    open("E07", || send(&new().message(b'P', b"no end").sync().query("select 'on'"))),
    open("E07 bind", || send(&new().message(b'B', b"no end").sync().query("select 'on'"))),
    open("E07 nothing", || send(&new().message(b'B', b"").sync().query("select 'on'"))),
    open("E07 execute", || send(&new().message(b'E', b"\0").sync().query("select 'on'"))),
    open("E07 execute and more", || {
        send(&new().parse("", "select 7").bind("", "", &[]).message(b'E', b"\0\0\0\0\0more").sync())
    }),
    open("E07 flush", || send(&new().message(b'H', b"more").query("select 'on'"))),
    open("E08", || send(&new().message(b'D', b"Xname\0").sync().query("select 'on'"))),
    open("E09", || send(&new().message(b'C', b"Qname\0").sync().query("select 'on'"))),
    open("E10", || send(&new().close_statement("never").sync())),
    open("E10 portal", || send(&new().close_portal("never").sync())),
    open("E11", || send(&new().execute("never", 0).sync().query("select 'on'"))),
    open("E11 describe", || send(&new().describe_portal("never").sync().query("select 'on'"))),
    open("E12", || {
        send(&new().parse("", "select generate_series(1, 3)").bind("", "", &[]).execute("", u32::MAX).sync())
    }),
    open("E13", || send(&new().run("never", &[]).extended("select $1", &params(&["good"])).extended("select 1", &[]))),
    open("E14", || {
        let name = "n".repeat(65_536);
        send(&new().parse(&name, "select 14").sync().run(&name, &[]).close_statement(&name).sync())
    }),
    open("E15", || {
        let many = (0..1_000).fold(new().parse("", "selec"), |request, number| match number % 3 {
            0 => request.bind("", "", &[]),
            1 => request.execute("", 0),
            _ => request.describe_statement(""),
        });
        send(&many.sync().query("select 'on'"))
    }),
    open("E16", || send(&new().parse("s", "select 16").bind("s", "s", &[]).close_portal("s").sync().run("s", &[]))),
    open("E17", || send(&new().parse("s", "select 17").sync().parse("s", "select 18").sync().run("s", &[]))),
    open("E18", || {
        let first = new().parse("", "select 18").bind("", "", &[]).execute("", 0).flush();
        vec![Send(first.bytes().to_vec()), Await(b'C'), Send(new().query("select 19").bytes().to_vec())]
    }),
    open("E19", || {
        send(&new().query("begin").extended("select 1/0", &[]).extended("select 19", &[]).query("rollback"))
    }),
    open("E20", || send(&new().query("select 1; begin; select 2; commit; select 3"))),
    open("E20 fails", || send(&new().query("select 1; begin; select 1/0; commit; select 3").query("rollback"))),
    open("E21", || copying(&new().query("select 21"))),
    open("E22", || copying(&new().message(b'f', b"changed my mind\0").query("select 22"))),
    open("E23", || {
        copying(
            &new().flush().sync().message(b'd', b"1\n").sync().message(b'c', b"").query("select count(*) from copied"),
        )
    }),
    open("E23 parse", || copying(&new().parse("", "select 23"))),
    open("E23 nonsense", || copying(&new().message(b'd', b"nonsense\n").message(b'c', b"").query("select 'on'"))),
    open("E26", || {
        send(&new().parse("s", "select 1").close_statement("s").parse("s", "select 26").sync().run("s", &[]))
    }),
    open("E26 and its old one", || {
        send(&new().parse("s", "select 1").bind("p", "s", &[]).close_statement("s").execute("p", 0).sync())
    }),
    open("E28", || send(&new().query(&format!("select {}1{}", "(".repeat(20_000), ")".repeat(20_000))))),
    open("E28 less", || send(&new().query(&format!("select {}1{}", "(".repeat(500), ")".repeat(500))))),
    open("E28 long", || send(&new().query(&format!("select length('{}')", "x".repeat(3 << 20))))),
    open("E28 unended", || send(&new().query(&format!("select '{}", "x".repeat(100_000))))),
    open("E29 comment", || send(&new().query("select /* ; set work_mem = 1; /* */ */ 29 -- ; begin"))),
    open("E29 unended comment", || send(&new().query("select 29 /* ").query("select 'on'"))),
    open("E29 dollars", || send(&new().query("select $a$;'; begin; $b$ $a$, $$ ; $$"))),
    open("E29 escapes", || send(&new().query("select E'\\'; begin; --', 'a\\', ';'"))),
    open("E29 off", || {
        send(&new().query("set standard_conforming_strings = off").query("select '\\'; begin; --'").query("reset all"))
    }),
    open("E29 sjis", || {
        let text = b"select '\x83\x5c'; begin; --'\0";
        send(&new().query("set client_encoding = sjis").message(b'Q', text).query("rollback").query("reset all"))
    }),
    open("E29 not utf8", || send(&new().message(b'Q', b"select '\xff\xfe'\0").query("select 'on'"))),
    open("E29 identifiers", || send(&new().query("select 1 as \"a;\"\"b\", 2 as u&\"\\0061\""))),
    open("E29 semicolons", || send(&new().query(";;;select 29;;"))),
    open("E29 blank", || send(&new().query(" \n\t -- nothing").query(""))),
];
