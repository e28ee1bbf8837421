//! The kinds of state that a session can leave behind, each with the question that would bring it to light.

/// One way to leave something behind.
pub(crate) struct Case {
    /// Its number in the list, and which way it is.
    pub(crate) id: &'static str,
    /// What the first session does.
    pub(crate) deeds: &'static [&'static str],
    /// What everybody is asked then.
    pub(crate) look: &'static str,
    /// What takes away what PostgreSQL itself keeps.
    pub(crate) after: &'static str,
    /// Where the question may be asked and mean the same.
    pub(crate) asked: Asked,
    /// When what was left is gone.
    pub(crate) gone: Gone,
}

/// Where a question may be asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Also in a transaction block.
    Anywhere,
    /// Outside of one only.
    Alone,
}

/// When nobody sees any more what was left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Nobody ever does.
    AtOnce,
    /// Some time after its session has ended, as when a backend ends.
    Soon,
}

const fn case(id: &'static str, deeds: &'static [&'static str], look: &'static str) -> Case {
    Case { id, deeds, look, after: "select 1", asked: Asked::Anywhere, gone: Gone::AtOnce }
}

/// Of a case whose traces are seen by everybody until its session has ended.
const fn lasting(case: Case) -> Case {
    Case { gone: Gone::Soon, ..case }
}

/// Of a case whose question must stand outside a block.
const fn alone(case: Case) -> Case {
    Case { asked: Asked::Alone, ..case }
}

const LOCKS: &str = "select count(*) filter (where pid = pg_backend_pid()), count(*) from pg_locks \
                     where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())";
const TENANT: &str = "select coalesce(current_setting('app.tenant', true), '')";
const SEEDED: &str = "select random() = v from seeded";
const CHANNELS: &str = "select * from pg_listening_channels()";
const TEMPORARY: &str = "select * from of_mine";
const WORK: &str = "show work_mem";
const ROLES: &str = "select current_user, session_user";
const STATEMENTS: &str = "select name from pg_prepared_statements where not name ~ '^_optimacore'";

/// What the cases need in their database.
pub(crate) const SCHEMA: &str = "
    do $$ begin
        if not exists (select from pg_roles where rolname = 'leak_other') then create role leak_other; end if;
        if not exists (select from pg_roles where rolname = 'leak_third') then create role leak_third; end if;
    end $$;
    create schema evil;
    create table which as select 'public' as v;
    create table evil.which as select 'evil' as v;
    create table sink (a int);
    create sequence counter;
    create table numbered (id serial, a int);
    create table secrets as select 'leak_other' as who, 'of other' as what union all select 'leak_third', 'of third';
    alter table secrets enable row level security;
    create policy own_rows on secrets using (who = current_user);
    grant usage, create on schema public to leak_other, leak_third;
    grant usage on schema evil to leak_other, leak_third;
    grant all on all tables in schema public to leak_other, leak_third;
    grant all on all sequences in schema public to leak_other, leak_third;
    select setseed(0.5);
    create table seeded as select random() as v;
    create function set_inside(text) returns void language plpgsql as
        $$ begin perform set_config('app.tenant', $1, false); end $$;
    create function role_inside() returns void language plpgsql as
        $$ begin perform set_config('role', 'leak_other', false); end $$;
    create function lock_inside() returns void language plpgsql as $$ begin perform pg_advisory_lock(7); end $$;
    create function temp_inside() returns void language plpgsql as
        $$ begin execute 'create temp table of_mine as select 42 as v'; end $$;
    create function seed_inside() returns void language plpgsql as $$ begin perform setseed(0.5); end $$;
    create function listen_inside() returns void language plpgsql as $$ begin execute 'listen news'; end $$;
    create function prepare_inside() returns void language plpgsql as
        $$ begin execute 'prepare told as select ''A secret'''; end $$;
";

/// The list.
pub(crate) const CASES: &[Case] = &[
    case("L01 set", &["set work_mem = '123MB'"], WORK),
    case("L01 set session", &["set session work_mem to 12345"], WORK),
    case("L01 update of pg_settings", &["update pg_settings set setting = '5555' where name = 'work_mem'"], WORK),
    case("L01 custom", &["set app.tenant = 'A'"], TENANT),
    case("L01 set and default", &["set work_mem = '123MB'", "set work_mem to default"], WORK),
    case("L01 comment", &["/* a */ set work_mem = '123MB' -- b"], WORK),
    case("L02 search_path", &["set search_path = evil"], "select v from which"),
    case("L02 schema", &["set schema 'evil'"], "select v from which"),
    case("L03 set role", &["set role leak_other"], ROLES),
    case("L03 session authorization", &["set session authorization leak_other"], ROLES),
    case("L03 set_config", &["select set_config('role', 'leak_other', false)"], ROLES),
    case("L03 role inside a function", &["select role_inside()"], ROLES),
    case("L03 role and back", &["set role leak_other", "reset role"], ROLES),
    case("L04 statement_timeout", &["set statement_timeout = '1ms'"], "select 1 from pg_sleep(0.02)"),
    case("L05 set_config", &["select set_config('app.tenant', 'A', false)"], TENANT),
    case("L05 set_config inside a function", &["select set_inside('A')"], TENANT),
    case(
        "L05 set_config inside a block",
        &["do $$ begin perform set_config('app.tenant', 'A', false); end $$"],
        TENANT,
    ),
    case("L05 set inside a block", &["do $$ begin set app.tenant = 'A'; end $$"], TENANT),
    case("L05 set_config spelt otherwise", &["select pg_catalog.\"set_config\"('app.tenant', 'A', false)"], TENANT),
    alone(case(
        "L06 read only",
        &["set session characteristics as transaction read only"],
        "insert into sink values (1)",
    )),
    alone(case(
        "L06 default_transaction_read_only",
        &["set default_transaction_read_only = on"],
        "insert into sink values (1)",
    )),
    alone(case(
        "L06 isolation",
        &["set session characteristics as transaction isolation level serializable"],
        "show transaction_isolation",
    )),
    case("L07 temporary table", &["create temp table of_mine as select 42 as v"], TEMPORARY),
    case("L07 select into", &["select 42 as v into temporary of_mine"], TEMPORARY),
    case("L07 in its schema", &["create table pg_temp.of_mine as select 42 as v"], TEMPORARY),
    case("L07 in front of another", &["create temp table which as select 'temporary' as v"], "select v from which"),
    case("L07 inside a function", &["select temp_inside()"], TEMPORARY),
    case("L07 view", &["create temp view of_mine as select 42 as v"], TEMPORARY),
    case("L07 search_path", &["set search_path = pg_temp", "create table of_mine as select 42 as v"], TEMPORARY),
    lasting(case("L08 advisory lock", &["select pg_advisory_lock(7)"], LOCKS)),
    lasting(case("L08 shared", &["select pg_advisory_lock_shared(7)"], LOCKS)),
    lasting(case("L08 tried", &["select pg_try_advisory_lock(7, 8)"], LOCKS)),
    case("L08 locked and unlocked", &["select pg_advisory_lock(7)", "select pg_advisory_unlock(7)"], LOCKS),
    case("L08 of a transaction", &["select pg_advisory_xact_lock(7)"], LOCKS),
    case("L09 prepare", &["prepare told as select 'A secret'"], "execute told"),
    case("L09 its name", &["prepare told as select 'A secret'"], STATEMENTS),
    case("L09 inside a function", &["select prepare_inside()"], "execute told"),
    case("L09 deallocated", &["prepare told as select 'A secret'", "deallocate told"], "execute told"),
    case("L10 held cursor", &["declare told cursor with hold for select 'secret'"], "fetch all from told"),
    case(
        "L10 held cursor of a block",
        &["begin", "declare told cursor with hold for select 'secret'", "commit"],
        "fetch all from told",
    ),
    case("L11 listen", &["listen news"], CHANNELS),
    case("L11 inside a function", &["select listen_inside()"], CHANNELS),
    case("L11 and no more", &["listen news", "unlisten news"], CHANNELS),
    case("L12 setseed", &["select setseed(0.5)"], SEEDED),
    case("L12 seed", &["set seed = 0.5"], SEEDED),
    case("L12 inside a function", &["select seed_inside()"], SEEDED),
    case("L13 currval", &["select setval('counter', 77)", "select 1"], "select currval('counter')"),
    case("L13 lastval", &["select setval('counter', 76)", "select nextval('counter')"], "select lastval()"),
    case("L13 serial", &["insert into numbered (id, a) values (default, 1)"], "select lastval() > 0"),
    case("L15 client_encoding", &["set client_encoding = latin1"], "show client_encoding"),
    case("L15 names", &["set names 'latin1'"], "show client_encoding"),
    case("L15 DateStyle", &["set datestyle = 'German'"], "select date '2001-02-03'"),
    case("L15 TimeZone", &["set time zone 'Asia/Tokyo'"], "show timezone"),
    case("L15 standard_conforming_strings", &["set standard_conforming_strings = off"], "select 'a\\\\b'"),
    case("L15 rolled back", &["begin", "set work_mem = '123MB'", "rollback"], WORK),
    case("L15 committed", &["begin", "set work_mem = '123MB'", "commit"], WORK),
    case("L15 time zone rolled back", &["begin", "set timezone = 'Asia/Tokyo'", "rollback"], "show timezone"),
    case("L16 open transaction", &["begin", "insert into sink values (16)"], "select count(*) from sink where a = 16"),
    case(
        "L16 failed transaction",
        &["begin", "insert into sink values (16)", "select 1/0"],
        "select count(*) from sink where a = 16",
    ),
    case("L27 discard all", &["set work_mem = '123MB'", "discard all"], WORK),
    case("L27 discard all of a role", &["set role leak_other", "discard all"], ROLES),
    case("L27 reset all", &["set work_mem = '123MB'", "reset all"], WORK),
    case("L27 reset all keeps the role", &["set role leak_other", "reset all"], ROLES),
    case("L27 deallocate all", &["prepare told as select 'A secret'", "deallocate all"], STATEMENTS),
    case(
        "L27 session authorization default",
        &["set session authorization leak_other", "set session authorization default"],
        ROLES,
    ),
    case("L27 discard temp", &["create temp table of_mine as select 42 as v", "discard temp"], TEMPORARY),
    case("L27 discard sequences", &["select setval('counter', 77)", "discard sequences"], "select currval('counter')"),
    case("L31 set local", &["begin", "set local work_mem = '123MB'", "commit"], WORK),
    case(
        "L31 set local is over set",
        &["begin", "set work_mem = '99MB'", "set local work_mem = '123MB'", "commit"],
        WORK,
    ),
    case("L31 savepoint", &["begin", "savepoint a", "set work_mem = '123MB'", "rollback to a", "commit"], WORK),
    case(
        "L31 savepoint before",
        &["begin", "set work_mem = '99MB'", "savepoint a", "set work_mem = '123MB'", "rollback to a", "commit"],
        WORK,
    ),
    case("L31 local outside a block", &["set local work_mem = '123MB'"], WORK),
    alone(case("L32 begin", &["begin"], "savepoint inside")),
    lasting(case("L34 qualified", &["select pg_catalog.pg_advisory_lock(7)"], LOCKS)),
    lasting(case("L34 inside a function", &["select lock_inside()"], LOCKS)),
    lasting(case("L34 inside a block", &["do $$ begin perform pg_advisory_lock(7); end $$"], LOCKS)),
    lasting(case("L34 quoted", &["select \"pg_advisory_lock\"(7)"], LOCKS)),
    lasting(case(
        "L34 twice",
        &["select pg_advisory_lock(7)", "select pg_advisory_lock(7)", "select pg_advisory_unlock(7)"],
        LOCKS,
    )),
    Case {
        after: "rollback prepared '{database}'",
        asked: Asked::Alone,
        ..case(
            "L38 two phases",
            &["begin", "insert into sink values (38)", "prepare transaction '{database}'"],
            "select count(*), (select count(*) from sink where a = 38) from pg_prepared_xacts where database = current_database()",
        )
    },
    case("L39 large object", &["begin", "select lo_open(lo_create(0), 393216)"], "select loread(0, 10)"),
    case("L39 portal", &["begin", "declare told cursor for select 'secret'"], "fetch all from told"),
];
