//! What differs from PostgreSQL asked directly, and why.

/// A difference that is known.
pub(crate) struct Known {
    pub(crate) test: &'static str,
    /// The lines that are missing and those that stand there instead, as diff shows them.
    pub(crate) differs: &'static str,
    pub(crate) occurs: Occurs,
    pub(crate) why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occurs {
    Always,
    /// It depends on which connection a session gets, or on how busy the machine is.
    ByTiming,
}

/// The backend had temporary objects before, of somebody who has left: its temporary schema is there already, and is not made
/// by looking for it. PostgreSQL does the same for anybody who has dropped temporary tables before.
const TEMP: Known = Known {
    test: "temp",
    differs: "-ERROR:  cannot PREPARE a transaction that has operated on temporary objects\n",
    occurs: Occurs::Always,
    why: "a connection that was used before has its temporary schema",
};

/// The test counts that each of its sessions was one to PostgreSQL.
const STATS: Known = Known {
    test: "stats",
    differs: "- t\n+ f\n",
    occurs: Occurs::Always,
    why: "clients are not connections: that is what the data plane is for",
};

/// What plpgsql reserves is reserved from the first use of plpgsql in a backend on.
const GUC: Known = Known {
    test: "guc",
    differs: "+ERROR:  invalid configuration parameter name \"plpgsql.extra_foo_warnings\"\n\
        +DETAIL:  \"plpgsql\" is a reserved prefix.\n\
        -WARNING:  invalid configuration parameter name \"plpgsql.extra_foo_warnings\", removing it\n\
        -DETAIL:  \"plpgsql\" is now a reserved prefix.\n",
    occurs: Occurs::ByTiming,
    why: "a connection that was used before has loaded plpgsql",
};

/// What a reading of the catalog that runs beside VACUUM does to a plan: rows that are new to the reader are not marked as
/// visible to all, as beside any other transaction.
const CREATE_INDEX: Known = Known {
    test: "create_index",
    differs: "-                      QUERY PLAN                       \n\
        - Index Only Scan using tenk1_unique1 on tenk1\n\
        -   Index Cond: (unique1 = ANY ('{1,42,7}'::integer[]))\n\
        -(2 rows)\n\
        +                            QUERY PLAN                             \n\
        + Sort\n\
        +   Sort Key: unique1\n\
        +   ->  Bitmap Heap Scan on tenk1\n\
        +         Recheck Cond: (unique1 = ANY ('{1,42,7}'::integer[]))\n\
        +         ->  Bitmap Index Scan on tenk1_unique1\n\
        +               Index Cond: (unique1 = ANY ('{1,42,7}'::integer[]))\n\
        +(6 rows)\n\
        -                      QUERY PLAN                       \n\
        - Index Only Scan using tenk1_thous_tenthous on tenk1\n\
        -   Index Cond: (thousand < 2)\n\
        -   Filter: (tenthous = ANY ('{1001,3000}'::integer[]))\n\
        -(3 rows)\n\
        +                                      QUERY PLAN                                      \n\
        + Sort\n\
        +   Sort Key: thousand\n\
        +   ->  Index Only Scan using tenk1_thous_tenthous on tenk1\n\
        +         Index Cond: ((thousand < 2) AND (tenthous = ANY ('{1001,3000}'::integer[])))\n\
        +(4 rows)\n",
    occurs: Occurs::ByTiming,
    why: "VACUUM ran while the catalog was read",
};

pub(crate) const TRANSACTION: [Known; 4] = [TEMP, STATS, GUC, CREATE_INDEX];

pub(crate) const SESSION: [Known; 4] = [TEMP, STATS, GUC, CREATE_INDEX];

pub(crate) const ISOLATION: [Known; 0] = [];
