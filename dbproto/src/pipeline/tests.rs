use super::*;

/// Runs a script: capitals push what a frontend sends, `<tags` are backend messages; gives what happened.
fn run(script: &str) -> String {
    let mut machine = Pipeline::new();
    let mut out = Vec::new();
    for (index, word) in script.split_whitespace().enumerate() {
        if let Some(reply) = word.strip_prefix('<') {
            let bytes = reply.as_bytes();
            match machine.handle_backend(bytes[0], bytes.get(1).copied()) {
                Ok(Outcome::Part(_)) => out.push(format!("{reply}:part")),
                Ok(Outcome::Complete(o)) => out.push(format!("{reply}:{:?}#{}", o.expect, o.mark)),
                Ok(Outcome::Error(o)) => out.push(format!("{reply}:error#{}", o.mark)),
                Ok(Outcome::Ready(o, s)) => out.push(format!("{reply}:ready#{}{:?}", o.mark, s)),
                Ok(Outcome::Asynchronous) => out.push(format!("{reply}:async")),
                Ok(Outcome::Copy(_, d)) => out.push(format!("{reply}:{d:?}")),
                Ok(Outcome::Farewell) => out.push(format!("{reply}:farewell")),
                Err(e) => out.push(format!("{reply}:{e}")),
            }
        } else {
            let expect = match word {
                "Parse" => Expect::Parse,
                "Bind" => Expect::Bind,
                "DescS" => Expect::DescribeStatement,
                "DescP" => Expect::DescribePortal,
                "Exec" => Expect::Execute,
                "Close" => Expect::Close,
                "Sync" => Expect::Sync,
                "Query" => Expect::Query,
                "Func" => Expect::FunctionCall,
                "CopyEnd" => Expect::CopyEnd,
                "Data" => Expect::CopyData,
                "Own" => Expect::Synthetic,
                other => panic!("unknown word {other}"),
            };
            machine.push(Owed::client(expect).marked(u32::try_from(index).unwrap() + 1));
        }
        while let Some(owed) = machine.poll_synthetic() {
            out.push(format!("own#{}", owed.mark));
        }
    }
    let dropped: Vec<_> = machine.drain_dropped().map(|o| o.mark.to_string()).collect();
    if !dropped.is_empty() {
        out.push(format!("dropped {}", dropped.join(",")));
    }
    if !machine.is_empty() {
        out.push(format!("owes {}", machine.len()));
    }
    assert_eq!(machine.ready_count(), machine.queue.iter().filter(|o| o.expect.is_terminal()).count());
    out.join(" ")
}

#[test]
fn an_extended_group_completes_in_order() {
    assert_eq!(
        run("Parse Bind DescP Exec Sync <1 <2 <T <D <D <C <ZI"),
        "1:Parse#1 2:Bind#2 T:DescribePortal#3 D:part D:part C:Execute#4 ZI:ready#5Idle"
    );
}

#[test]
fn a_group_is_open_until_its_sync_whether_or_not_its_answers_are_in() {
    let mut machine = Pipeline::new();
    machine.push(Owed::client(Expect::Parse));
    assert!(machine.is_open());
    assert!(machine.handle_backend(b'1', None).is_ok());
    assert!(machine.is_empty() && machine.is_open(), "the Sync is still to come");
    machine.push(Owed::client(Expect::Sync));
    assert!(!machine.is_open());
    assert!(machine.handle_backend(b'Z', Some(b'I')).is_ok());
    assert!(machine.is_empty() && !machine.is_open());
    // a COPY swallows the first Sync; the second one ends the group
    for expect in [Expect::Execute, Expect::Sync] {
        machine.push(Owed::client(expect));
    }
    assert!(machine.handle_backend(b'G', None).is_ok());
    machine.push(Owed::client(Expect::CopyEnd));
    assert!(machine.handle_backend(b'C', None).is_ok());
    assert!(machine.is_empty() && machine.is_open());
    machine.push(Owed::client(Expect::Sync));
    assert!(!machine.is_open());
}

#[test]
fn an_error_skips_to_the_next_sync_and_not_beyond() {
    assert_eq!(
        run("Parse Bind Exec Sync Bind Exec Sync <1 <E <ZI <2 <C <ZI"),
        "1:Parse#1 E:error#2 ZI:ready#4Idle 2:Bind#5 C:Execute#6 ZI:ready#7Idle dropped 3"
    );
}

#[test]
fn what_is_sent_after_an_error_and_before_its_sync_is_owed_nothing() {
    assert_eq!(run("Parse <E Bind Exec Query Sync <ZI"), "E:error#1 ZI:ready#6Idle dropped 3,4,5");
}

#[test]
fn a_simple_query_ends_at_its_ready_only() {
    assert_eq!(
        run("Query Query <T <C <E <ZT <C <ZI"),
        "T:part C:part E:error#1 ZT:ready#1Active C:part ZI:ready#2Idle"
    );
}

#[test]
fn synthetic_replies_keep_their_place_in_the_order() {
    assert_eq!(run("Bind Own Exec Sync <2 <C <ZI"), "2:Bind#1 own#2 C:Execute#3 ZI:ready#4Idle");
    assert_eq!(run("Own Sync <ZI"), "own#1 ZI:ready#2Idle");
    assert_eq!(run("Bind Own Sync <E <ZI"), "E:error#1 ZI:ready#3Idle dropped 2");
}

#[test]
fn a_sync_inside_copy_in_is_swallowed() {
    // libpq: Execute, Sync, then after CopyInResponse data, CopyDone and a second Sync.
    assert_eq!(
        run("Parse Bind Exec Sync <1 <2 <G CopyEnd Sync <C <ZI"),
        "1:Parse#1 2:Bind#2 G:In C:Execute#3 ZI:ready#9Idle"
    );
    // everything sent ahead
    assert_eq!(run("Exec CopyEnd Sync <G <C <ZI"), "G:In C:Execute#1 ZI:ready#3Idle");
    // the COPY never began: both Syncs count
    assert_eq!(run("Exec Sync CopyEnd Sync <E <ZI <ZI"), "E:error#1 ZI:ready#2Idle ZI:ready#4Idle");
}

#[test]
fn a_copy_that_fails_behind_a_sync_among_its_data_leaves_nobody_guessing() {
    let undecided = "ZI:a COPY failed, and it may have swallowed a Sync that was sent among its data";
    // answered, the second ReadyForQuery would be taken for that of the Query
    let found = run("Query <G Data Sync CopyEnd Query <E <ZI");
    assert_eq!(found, format!("G:In E:error#1 {undecided} owes 2"));
    let found = run("Query Data Sync CopyEnd Query <G <E <ZI");
    assert_eq!(found, format!("G:In E:error#1 {undecided} owes 2"));
    let found = run("Exec <G Data Sync <E Sync <ZI");
    assert_eq!(found, format!("G:In E:error#1 {undecided} owes 1"));
    // one that succeeds has swallowed it
    assert_eq!(
        run("Query Data Sync Data CopyEnd Query <G <C <ZI <C <ZI"),
        "G:In C:part ZI:ready#1Idle C:part ZI:ready#6Idle"
    );
    assert_eq!(
        run("Query <G Data Sync CopyEnd <C <G Data CopyEnd <E <ZI"),
        "G:In C:part G:In E:error#1 ZI:ready#1Idle"
    );
    // one that never began has not
    assert_eq!(run("Query Data Sync CopyEnd <E <ZI <ZI"), "E:error#1 ZI:ready#1Idle ZI:ready#3Idle");
    // libpq's order: the data come behind the Sync
    assert_eq!(run("Exec Sync <G Data CopyEnd Sync <E <ZI"), "G:In E:error#1 ZI:ready#6Idle");
}

#[test]
fn a_simple_copy_in_ends_with_its_query() {
    assert_eq!(run("Query <G CopyEnd <C <ZI"), "G:In C:part ZI:ready#1Idle");
    assert_eq!(run("Query <G <E <ZI Sync <ZI"), "G:In E:error#1 ZI:ready#1Idle ZI:ready#5Idle");
}

#[test]
fn late_copy_messages_outside_copy_are_owed_nothing() {
    assert_eq!(run("CopyEnd Query <C <ZI"), "C:part ZI:ready#2Idle");
}

#[test]
fn messages_that_fit_nothing_are_refused() {
    assert_eq!(run("<ZI"), "ZI:message 'Z' arrived where nothing was owed");
    assert_eq!(run("Bind Sync <ZI"), "ZI:message 'Z' arrived where Bind was owed owes 2");
    assert_eq!(run("Sync <Zx"), "Zx:ReadyForQuery has the unknown status 'x' owes 1");
    assert_eq!(run("Bind Sync <D"), "D:message 'D' arrived where Bind was owed owes 2");
    assert_eq!(run("<E"), "E:farewell");
}

#[test]
fn asynchronous_messages_disturb_nothing() {
    assert_eq!(run("Query <N <S <A <C <ZI"), "N:async S:async A:async C:part ZI:ready#1Idle");
    assert_eq!(run("<S"), "S:async");
}

#[test]
fn what_the_backend_is_not_asked_decides_nothing_about_its_group() {
    let mut pipeline = Pipeline::new();
    pipeline.push(Owed::client(Expect::Parse));
    assert!(pipeline.is_group_undecided());
    pipeline.handle_backend(b'1', None).unwrap();
    assert!(!pipeline.is_group_undecided());
    pipeline.push(Owed::client(Expect::Synthetic));
    assert!(!pipeline.is_group_undecided(), "its answer is ours");
    pipeline.push(Owed::client(Expect::Bind));
    assert!(pipeline.is_group_undecided());
}
