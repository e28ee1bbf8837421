use super::*;
use crate::catalog::tests::sample;

fn verdict(text: &str) -> Verdict {
    judge(text.as_bytes(), Backslash::Literal, &Catalog::build(sample(), 0))
}

/// `shared`, or what is left behind.
fn outcome(text: &str) -> String {
    let found = verdict(text);
    if found.sharing == Sharing::Possible { "shared".into() } else { format!("{:?}", found.soil) }
}

fn all(expected: &str, texts: &[&str]) {
    for text in texts {
        assert_eq!(outcome(text), expected, "{text}");
    }
}

#[test]
fn single_reads_of_harmless_names_are_shared() {
    all(
        "shared",
        &[
            "select 1",
            "SELECT abalance FROM account WHERE aid = 17;",
            "select lower(name), count(*) from public.account a join good_view g on a.id = g.id where a.x in (1, 2)",
            "select * from view_of_view -- ; drop table account",
            "select now(), random(), extract(year from created) from account",
            "values (1), (2)",
            "table account",
            "select x from (select id as x from account) s",
            "select coalesce(a, 'b;c') from generate_series(1, 10)",
            "select cast($1 as numeric(10,2)), $2::varchar(5)",
            "select account.id from account where id = any($1)",
        ],
    );
}

#[test]
fn what_could_leave_something_behind_is_not_known_to_be_clean() {
    all(
        "Unknown",
        &[
            "select set_config('a', 'b', false)",
            "select pg_catalog.set_config('a', 'b', false)",
            "select \"set_config\"('a', 'b', false)",
            "select SET_CONFIG ('a', 'b', false)",
            "select set_config/**/('a', 'b', false)",
            "select sneaky(1)",
            "select account.sneaky from account",
            "select (a).sneaky from account a",
            "select * from bad_view",
            "select * from twice",
            "select * from account, bad_view",
            "select * from secret",
            "select * from no_such_relation",
            "select * into copy_of from account",
            "select 1 === 2",
            "select 'x'::checked",
            "select table_to_xml('bad_view', true, true, '')",
            "select unknown_function(1)",
            "select x.coalesce(1)",
            "select \"coalesce\"(1)",
            "select * from account tablesample system (10)",
            "update watched set a = 1",
            "insert into odd values (1)",
            "insert into far values (1)",
            "delete from owner where id = 1",
            "set x = 1",
            "create table x()",
            "create temp table x as select 1",
            "prepare x as select 1",
            "lock table account",
            "explain select 1",
            "(select 1)",
            "select größe from account",
            "select 'a",
            "select 1; set x = 1",
            "begin; listen x; commit",
            "do $$ begin end $$",
            "call f()",
            "declare c cursor with hold for select 1",
        ],
    );
}

#[test]
fn writes_and_transactions_leave_what_the_catalog_says() {
    all(
        "Clean",
        &[
            "begin",
            "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "commit",
            "rollback to savepoint a",
            "show search_path",
            "insert into account (id, name) values (1, 'set_config(1)')",
            "insert into public.account (id) select id from account on conflict (id) do update set id = 1",
            "update account set balance = balance + $1 where id = $2 returning id",
            "delete from account where id = 3",
            "select * from account for update",
            "select 1; select 2",
            "",
        ],
    );
    all("Sequences", &["insert into counted values (1)", "select nextval('x')", "select nextval('x'); select 1"]);
}

#[test]
fn statements_that_differ_in_constants_are_one_kind() {
    assert_eq!(verdict("select 1 from account").kind, verdict("SELECT 'x'  FROM account").kind);
    assert_ne!(verdict("select 1 from account").kind, verdict("select 1, 2 from account").kind);
}

#[test]
fn hidden_code_makes_everything_unknown() {
    let facts = crate::catalog::Facts { hidden: Harmless::No, ..sample() };
    assert_eq!(judge(b"select 1", Backslash::Literal, &Catalog::build(facts, 0)), Verdict::UNKNOWN);
}

#[test]
fn the_list_of_words_is_sorted() {
    assert!(NEVER_CALLS.is_sorted());
}
