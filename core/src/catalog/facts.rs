//! The queries that read [`Facts`] from PostgreSQL's system catalog, and their rows.
//!
//! Every query runs as simple protocol and gives text. Works from PostgreSQL 12 on.

use std::collections::HashMap;

use crate::catalog::{Facts, FunctionFact, Harmless, RelationFact};

/// A row: columns as text.
pub(crate) type Row = Vec<Option<Vec<u8>>>;

/// A number that changes when anything that [`Facts`] are read from does. `xmin` is the transaction that wrote a row: sums of
/// it with counts show inserts, updates and deletes. PostgreSQL's own objects (below 16384) are taken to stay as they are.
pub(super) const CHANGE_MARK: &str = "SELECT pg_catalog.concat_ws('/', \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_proc WHERE oid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_class \
      WHERE relkind IN ('r','p','v','m','f','S') AND relpersistence <> 't' AND oid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_type WHERE typtype <> 'c' AND oid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_operator WHERE oid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_cast WHERE oid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_rewrite WHERE oid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_policy), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_inherits), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_trigger WHERE oid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_attrdef), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_constraint WHERE oid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_index WHERE indexrelid >= 16384), \
    (SELECT sum(xmin::text::int8) || '+' || count(*) FROM pg_catalog.pg_amproc WHERE oid >= 16384))";

/// Functions known to leave nothing behind: they read at most, and their code is PostgreSQL's own or an extension's in C.
/// Code in SQL or a procedural language of a user's could call anything.
macro_rules! harmless {
    () => {
        "WITH harmless AS MATERIALIZED (SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
         WHERE p.provolatile IN ('i','s') AND (p.oid < 16384 AND l.lanname IN ('internal','c','sql') \
         OR l.lanname = 'c' AND p.provolatile = 'i' AND EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass \
         AND d.objid = p.oid AND d.deptype = 'e'))) "
    };
}

const FUNCTIONS: &str = concat!(
    harmless!(),
    "SELECT proname, bool_and(h.oid IS NOT NULL), bool_and(p.oid < 16384), \
     bool_and(h.oid IS NOT NULL OR p.pronargs <> 1 OR t.typtype NOT IN ('c','p')) \
     FROM pg_catalog.pg_proc p LEFT JOIN harmless h ON h.oid = p.oid LEFT JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0] \
     GROUP BY proname"
);

const RELATIONS: &str = "SELECT c.oid, c.relname, c.relkind, NOT c.relrowsecurity, \
     NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN') \
     FROM pg_catalog.pg_class c WHERE c.relkind IN ('r','p','v','m','f','S')";

const EXPRESSIONS: &str = "SELECT adrelid, pg_catalog.pg_get_expr(adbin, adrelid) FROM pg_catalog.pg_attrdef \
     UNION ALL SELECT conrelid, pg_catalog.pg_get_expr(conbin, conrelid) FROM pg_catalog.pg_constraint WHERE conbin IS NOT NULL AND conrelid <> 0 \
     UNION ALL SELECT indrelid, pg_catalog.pg_get_expr(indexprs, indrelid) FROM pg_catalog.pg_index WHERE indexprs IS NOT NULL \
     UNION ALL SELECT indrelid, pg_catalog.pg_get_expr(indpred, indrelid) FROM pg_catalog.pg_index WHERE indpred IS NOT NULL \
     UNION ALL SELECT partrelid, pg_catalog.pg_get_expr(partexprs, partrelid) FROM pg_catalog.pg_partitioned_table WHERE partexprs IS NOT NULL";

const OPAQUE: &str = "SELECT DISTINCT a.attrelid FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
     WHERE t.typtype = 'd' AND a.attrelid >= 16384 UNION SELECT conrelid FROM pg_catalog.pg_constraint WHERE contype = 'x'";

const IDENTITIES: &str = "SELECT DISTINCT attrelid FROM pg_catalog.pg_attribute WHERE attidentity <> ''";

const INHERITS: &str = "SELECT inhparent, inhrelid FROM pg_catalog.pg_inherits";

const CASCADES: &str = "SELECT confrelid, conrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' \
     AND (confdeltype IN ('c','n','d') OR confupdtype IN ('c','n','d'))";

const TYPES: &str = concat!(
    harmless!(),
    "SELECT DISTINCT typname FROM pg_catalog.pg_type t WHERE typtype = 'd' OR typinput <> 0 AND typinput NOT IN (SELECT oid FROM harmless) \
     OR typmodin <> 0 AND typmodin NOT IN (SELECT oid FROM harmless)"
);

const OPERATORS: &str = concat!(
    harmless!(),
    "SELECT oprname, bool_and(h.oid IS NOT NULL) FROM pg_catalog.pg_operator o LEFT JOIN harmless h ON h.oid = o.oprcode GROUP BY oprname"
);

/// Names of settings of users' own in the code of functions.
pub(crate) const CUSTOM: &str = "SELECT DISTINCT pg_catalog.lower(found[1]) AS name FROM pg_catalog.pg_proc, \
     pg_catalog.regexp_matches(prosrc, '(?:set_config\\s*\\(\\s*''|\\mset\\s+(?:session\\s+)?)([a-z_][a-z0-9_$]*(?:\\.[a-z_][a-z0-9_$]*)+)', 'gi') found \
     WHERE oid OPERATOR(pg_catalog.>=) 16384 AND prosrc OPERATOR(pg_catalog.~*) '\\mset' LIMIT 64";

/// Code that runs without being named: implicit casts, comparison and hash support, output of types.
const HIDDEN: &str = concat!(
    harmless!(),
    "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_cast WHERE castfunc <> 0 AND castfunc NOT IN (SELECT oid FROM harmless)) \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_amproc WHERE amproc <> 0 AND amproc NOT IN (SELECT oid FROM harmless)) \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_type WHERE typoutput <> 0 AND typoutput NOT IN (SELECT oid FROM harmless)) \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_range WHERE rngcanonical <> 0 AND rngcanonical::oid NOT IN (SELECT oid FROM harmless))"
);

/// Views of users' own. Their texts are asked for one by one: to write one, PostgreSQL locks what the view reads until the
/// transaction ends, and whoever wants to alter that would have to wait for us, or fail.
pub(super) const VIEWS: &str = "SELECT oid FROM pg_catalog.pg_class WHERE relkind = 'v' AND oid >= 16384";

/// The question for one.
pub(super) fn view(oid: &[u8]) -> String {
    format!("SELECT pg_catalog.pg_get_viewdef({}::pg_catalog.oid)", String::from_utf8_lossy(oid))
}

/// Reads all other facts; `query` runs one query and gives its rows.
pub(super) fn read<E>(
    mut views: HashMap<u32, Vec<u8>>,
    mut query: impl FnMut(&str) -> Result<Vec<Row>, E>,
) -> Result<Facts, E> {
    let mut facts = Facts::default();
    for row in query(FUNCTIONS)? {
        facts.functions.push(FunctionFact {
            name: text(&row, 0),
            all: harmless(&row, 1),
            builtin: truth(&row, 2),
            of_rows: harmless(&row, 3),
        });
    }
    for row in query(RELATIONS)? {
        let oid = number(&row, 0);
        facts.relations.push(RelationFact {
            oid,
            name: text(&row, 1),
            kind: text(&row, 2).first().copied().unwrap_or(0),
            reads: harmless(&row, 3),
            writes: harmless(&row, 4),
            view: views.remove(&oid),
        });
    }
    facts.expressions = query(EXPRESSIONS)?.iter().map(|row| (number(row, 0), text(row, 1).into())).collect();
    facts.opaque = query(OPAQUE)?.iter().map(|row| number(row, 0)).collect();
    facts.identities = query(IDENTITIES)?.iter().map(|row| number(row, 0)).collect();
    facts.reads_through = query(INHERITS)?.iter().map(|row| (number(row, 0), number(row, 1))).collect();
    facts.writes_through = query(CASCADES)?.iter().map(|row| (number(row, 0), number(row, 1))).collect();
    facts.writes_through.extend(facts.reads_through.iter().copied());
    facts.types = query(TYPES)?.iter().map(|row| text(row, 0)).collect();
    facts.operators = query(OPERATORS)?.iter().map(|row| (text(row, 0), harmless(row, 1))).collect();
    facts.custom =
        query(CUSTOM)?.iter().map(|row| String::from_utf8_lossy(&text(row, 0)).into_owned().into()).collect();
    facts.hidden = query(HIDDEN)?.first().map_or(Harmless::No, |row| harmless(row, 0));
    Ok(facts)
}

pub(super) fn text(row: &Row, column: usize) -> Box<[u8]> {
    row.get(column).cloned().flatten().unwrap_or_default().into()
}

pub(super) fn number(row: &Row, column: usize) -> u32 {
    std::str::from_utf8(&text(row, column)).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn truth(row: &Row, column: usize) -> bool {
    *text(row, column) == *b"t"
}

fn harmless(row: &Row, column: usize) -> Harmless {
    if truth(row, column) { Harmless::Yes } else { Harmless::No }
}
