use super::*;

fn name(text: &str) -> Name {
    text.as_bytes().into()
}

fn relation(oid: u32, text: &str, kind: u8) -> RelationFact {
    RelationFact { oid, name: name(text), kind, reads: Harmless::Yes, writes: Harmless::Yes, view: None }
}

/// A small database that has one of everything.
pub(crate) fn sample() -> Facts {
    let judge = |harmless| if harmless { Harmless::Yes } else { Harmless::No };
    let function = |text: &str, all, builtin, row_call: bool| FunctionFact {
        name: name(text),
        all: judge(all),
        builtin,
        of_rows: judge(!row_call),
    };
    let view = |oid, text: &str, query: &str| RelationFact { view: Some(query.into()), ..relation(oid, text, b'v') };
    Facts {
        functions: vec![
            function("lower", true, true, false),
            function("count", true, true, false),
            function("now", true, true, false),
            function("random", false, true, false),
            function("nextval", false, true, false),
            function("pg_sleep", false, true, false),
            function("set_config", false, true, false),
            function("table_to_xml", true, true, false),
            function("sneaky", false, false, true),
            function("generate_series", true, true, false),
        ],
        relations: vec![
            relation(1, "account", b'r'),
            RelationFact { reads: Harmless::No, ..relation(2, "secret", b'r') },
            RelationFact { writes: Harmless::No, ..relation(3, "watched", b'r') },
            relation(4, "counted", b'r'),
            relation(5, "odd", b'r'),
            relation(6, "far", b'f'),
            relation(7, "parent", b'p'),
            view(8, "good_view", " SELECT account.id FROM account;"),
            view(9, "view_of_view", " SELECT good_view.id FROM good_view;"),
            view(10, "bad_view", " SELECT pg_sleep((1)::double precision) AS pg_sleep;"),
            relation(11, "twice", b'r'),
            view(12, "twice", "SELECT sneaky(1)"),
            relation(13, "owner", b'r'),
        ],
        expressions: vec![(4, "nextval('counted_id_seq'::regclass)".into()), (5, "sneaky((1)::bigint)".into())],
        reads_through: vec![(7, 6)],
        writes_through: vec![(7, 6), (13, 3)],
        types: vec![name("checked")],
        operators: vec![
            (name("="), Harmless::Yes),
            (name("<"), Harmless::Yes),
            (name("+"), Harmless::Yes),
            (name("*"), Harmless::Yes),
            (name("==="), Harmless::No),
            (name("-"), Harmless::Yes),
        ],
        hidden: Harmless::Yes,
        ..Facts::default()
    }
}

#[test]
fn a_relation_is_as_harmful_as_the_worst_of_its_name() {
    let catalog = Catalog::build(sample(), 0);
    for (harmless, names) in [
        (Harmless::Yes, &["account", "good_view", "view_of_view", "watched", "no_such_name"][..]),
        (Harmless::No, &["secret", "far", "parent", "bad_view", "twice", "checked", "sneaky"][..]),
    ] {
        for text in names {
            assert_eq!(catalog.name(text.as_bytes()), harmless, "{text}");
        }
    }
}

#[test]
fn writes_leave_what_their_expressions_triggers_and_cascades_leave() {
    let catalog = Catalog::build(sample(), 0);
    for (soil, names) in [
        (Soil::Clean, &["account"][..]),
        (Soil::Sequences, &["counted"][..]),
        (Soil::Unknown, &["odd", "watched", "secret", "parent", "owner", "good_view"][..]),
    ] {
        for text in names {
            assert_eq!(catalog.write(text.as_bytes()), soil, "{text}");
        }
    }
}
