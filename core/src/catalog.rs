//! What a database's system catalog says about the names a statement uses: can running it leave anything behind?
//!
//! Text alone proves nothing: any name may be a view, an overload, an operator of somebody's own. So every name is looked
//! up in every schema it could resolve to, and the worst that is found there counts. What is not known counts as harmful.
//!
//! A pure value, built by [`Catalog::build`] from [`Facts`] that `keeper` reads in the background. Shards hold it by `Arc`.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use dbproto::sql::Backslash;

use crate::pipe::Soil;
use crate::verdict;

pub(crate) mod facts;
pub(crate) mod keeper;

type Name = Box<[u8]>;
type Names<T> = HashMap<Name, T, foldhash::fast::RandomState>;

/// One function name in one or more schemas, all overloads together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FunctionFact {
    pub(crate) name: Name,
    /// All are stable or immutable, and PostgreSQL's own or an extension's in C.
    pub(crate) all: Harmless,
    /// All are PostgreSQL's own.
    pub(crate) builtin: bool,
    /// Those that take a row, so that `row.name` calls them.
    pub(crate) of_rows: Harmless,
}

/// A relation that a statement can name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RelationFact {
    pub(crate) oid: u32,
    pub(crate) name: Name,
    /// `pg_class.relkind`.
    pub(crate) kind: u8,
    /// No row security is on.
    pub(crate) reads: Harmless,
    /// It has no triggers or rules of its own.
    pub(crate) writes: Harmless,
    /// A view's text.
    pub(crate) view: Option<Vec<u8>>,
}

/// What is read from the system catalog.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) functions: Vec<FunctionFact>,
    pub(crate) relations: Vec<RelationFact>,
    /// Expressions that a write of a relation evaluates: defaults, checks, index expressions.
    pub(crate) expressions: Vec<(u32, Vec<u8>)>,
    /// Relations whose writes cannot be judged by their expressions (columns of domain types).
    pub(crate) opaque: Vec<u32>,
    /// Relations with identity columns.
    pub(crate) identities: Vec<u32>,
    /// Pairs: what is done to the first is done to the second too (inheritance, cascading foreign keys).
    pub(crate) reads_through: Vec<(u32, u32)>,
    pub(crate) writes_through: Vec<(u32, u32)>,
    /// Types whose values are checked or read by code that is not known to be harmless.
    pub(crate) types: Vec<Name>,
    /// Operators, and whether all of that name are harmless.
    pub(crate) operators: Vec<(Name, Harmless)>,
    /// Settings of users' own that functions set.
    pub(crate) custom: Vec<Box<str>>,
    /// Code that no name in a statement shows (casts, support functions of index types) is harmless throughout.
    pub(crate) hidden: Harmless,
}

/// Whether something is known to leave nothing behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Harmless {
    Yes,
    #[default]
    No,
}

#[derive(Clone, Copy, Debug)]
struct Relation {
    read: Harmless,
    write: Soil,
}

/// See the module documentation.
pub(crate) struct Catalog {
    /// The state of [`keeper::Watch`] it was read in.
    pub(crate) version: u64,
    /// Tells catalogs apart, those of other databases too.
    pub(crate) serial: u64,
    /// Settings of users' own that functions set: Postgres does not list them, so their names must be known to ask for them.
    pub(crate) custom: Vec<Box<str>>,
    called: Names<Soil>,
    row_calls: HashSet<Name, foldhash::fast::RandomState>,
    relations: Names<Relation>,
    types: HashSet<Name, foldhash::fast::RandomState>,
    operators: Names<Harmless>,
    hidden: Harmless,
}

/// PostgreSQL's own volatile functions that leave nothing behind.
const VOLATILE_HARMLESS: [&[u8]; 6] =
    [b"random", b"clock_timestamp", b"timeofday", b"gen_random_uuid", b"statement_timestamp", b"transaction_timestamp"];
/// Those that leave nothing behind but what `currval` and `lastval` read.
const SEQUENCE_CALLS: [&[u8]; 2] = [b"nextval", b"setval"];

/// PostgreSQL's own stable functions that show or run more than their arguments say.
fn is_peculiar(name: &[u8]) -> bool {
    name.windows(7).any(|part| part == b"_to_xml")
        || matches!(
            name,
            b"pg_listening_channels"
                | b"pg_prepared_statement"
                | b"pg_cursor"
                | b"txid_current"
                | b"pg_current_xact_id"
        )
}

impl Catalog {
    /// Draws the conclusions.
    pub(crate) fn build(facts: Facts, version: u64) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let mut out = Self {
            version,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            called: Names::default(),
            row_calls: HashSet::default(),
            relations: Names::default(),
            types: facts.types.into_iter().collect(),
            operators: facts.operators.into_iter().collect(),
            custom: facts.custom,
            hidden: facts.hidden,
        };
        for function in facts.functions {
            let soil = match function.all {
                Harmless::Yes if !is_peculiar(&function.name) => Soil::Clean,
                _ if function.builtin && VOLATILE_HARMLESS.contains(&&*function.name) => Soil::Clean,
                _ if function.builtin && SEQUENCE_CALLS.contains(&&*function.name) => Soil::Sequences,
                Harmless::Yes | Harmless::No => Soil::Unknown,
            };
            if function.of_rows == Harmless::No {
                out.row_calls.insert(function.name.clone());
            }
            out.called.insert(function.name, soil);
        }
        let mut by_oid: HashMap<u32, Relation> = HashMap::new();
        for relation in &facts.relations {
            let plain = matches!(relation.kind, b'r' | b'p' | b'm' | b'S');
            let read = if plain { relation.reads } else { Harmless::No };
            let write =
                if read == Harmless::Yes && relation.writes == Harmless::Yes { Soil::Clean } else { Soil::Unknown };
            by_oid.insert(relation.oid, Relation { read, write });
        }
        pass_on(&mut by_oid, &facts.reads_through, |from, to| {
            if from.read == Harmless::No {
                to.read = Harmless::No;
            }
        });
        out.relations = named(&facts.relations, &by_oid);
        out.judge_views(&facts.relations, &mut by_oid);
        for (oid, text) in &facts.expressions {
            let soil = verdict::judge_expression(text, &out);
            worsen(&mut by_oid, *oid, soil);
        }
        for oid in &facts.opaque {
            worsen(&mut by_oid, *oid, Soil::Unknown);
        }
        for oid in &facts.identities {
            worsen(&mut by_oid, *oid, Soil::Sequences);
        }
        pass_on(&mut by_oid, &facts.writes_through, |from, to| to.write = to.write.max(from.write));
        out.relations = named(&facts.relations, &by_oid);
        out
    }

    /// A view is harmless when its text is; views stand on views, so this goes on until nothing changes.
    fn judge_views(&mut self, facts: &[RelationFact], by_oid: &mut HashMap<u32, Relation>) {
        loop {
            let mut changed = false;
            for fact in facts {
                let Some(text) = &fact.view else { continue };
                let Some(relation) = by_oid.get_mut(&fact.oid) else { continue };
                if relation.read == Harmless::No && verdict::judge(text, Backslash::Literal, self).is_pure_read() {
                    relation.read = Harmless::Yes;
                    changed = true;
                }
            }
            if !changed {
                return;
            }
            self.relations = named(facts, by_oid);
        }
    }

    /// What calling a function of this name leaves behind.
    pub(crate) fn call(&self, name: &[u8]) -> Soil {
        self.called.get(name).copied().unwrap_or(Soil::Unknown)
    }

    /// The same for a word that seldom is a function's: if there is none, nothing is called.
    pub(crate) fn call_if_any(&self, name: &[u8]) -> Soil {
        self.called.get(name).copied().unwrap_or(Soil::Clean)
    }

    /// Whether a name that may be a relation, a column, a type or a label can be read without harm.
    pub(crate) fn name(&self, name: &[u8]) -> Harmless {
        let relation = self.relations.get(name).is_none_or(|relation| relation.read == Harmless::Yes);
        if relation && !self.types.contains(name) && !self.row_calls.contains(name) {
            Harmless::Yes
        } else {
            Harmless::No
        }
    }

    /// Whether there is a relation of this name.
    pub(crate) fn is_relation(&self, name: &[u8]) -> bool {
        self.relations.contains_key(name)
    }

    /// What writing to a relation of this name leaves behind.
    pub(crate) fn write(&self, name: &[u8]) -> Soil {
        self.relations.get(name).map_or(Soil::Clean, |relation| relation.write)
    }

    pub(crate) fn operator(&self, name: &[u8]) -> Harmless {
        self.operators.get(name).copied().unwrap_or(Harmless::No)
    }

    /// Whether code that no name shows is harmless.
    pub(crate) const fn hidden(&self) -> Harmless {
        self.hidden
    }
}

fn worsen(by_oid: &mut HashMap<u32, Relation>, oid: u32, soil: Soil) {
    if let Some(relation) = by_oid.get_mut(&oid) {
        relation.write = relation.write.max(soil);
    }
}

/// Applies `spread` from the second of each pair to the first, until nothing changes.
fn pass_on(by_oid: &mut HashMap<u32, Relation>, pairs: &[(u32, u32)], spread: impl Fn(Relation, &mut Relation)) {
    loop {
        let mut changed = false;
        for (to, from) in pairs {
            let unknown = Relation { read: Harmless::No, write: Soil::Unknown };
            let from = by_oid.get(from).copied().unwrap_or(unknown);
            let Some(to) = by_oid.get_mut(to) else { continue };
            let before = (to.read, to.write);
            spread(from, to);
            changed |= before != (to.read, to.write);
        }
        if !changed {
            return;
        }
    }
}

/// The worst under each name.
fn named(facts: &[RelationFact], by_oid: &HashMap<u32, Relation>) -> Names<Relation> {
    let mut out: Names<Relation> = Names::default();
    for fact in facts {
        let Some(found) = by_oid.get(&fact.oid).copied() else { continue };
        let worst = out.entry(fact.name.clone()).or_insert(found);
        worst.write = worst.write.max(found.write);
        if found.read == Harmless::No {
            worst.read = Harmless::No;
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests;
