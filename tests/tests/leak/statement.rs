//! Prepared statements: whose they are, what they mean after others have changed the world, what errors leave behind.

use harness::{Cluster, RawClient, Reply, Request, params};

use crate::{Leaving, Trial, ask};

/// All of it.
pub(crate) fn run(trial: &Trial) {
    l14_names_are_each_session_s_own(trial);
    l23_a_refused_set_is_told_once(trial);
    l24_a_refused_parse_is_told_once(trial);
    l25_more_statements_than_there_is_room_for(trial);
    l27_discarded_statements(trial);
    l28_discard_all_in_a_pipeline(trial);
    if trial.leaving == Leaving::Stays {
        l26_a_table_that_changes(trial);
        l40_plans_of_one_role_are_not_another_s(trial);
    }
}

fn direct(trial: &Trial) -> RawClient {
    let parameters = [("user", "postgres"), ("database", trial.database.as_str())];
    RawClient::connect(Cluster::shared().port(), &parameters, None).unwrap()
}

fn l14_names_are_each_session_s_own(trial: &Trial) {
    let mut client = trial.client();
    client.ask(&Request::new().parse("told", "select 'A secret'").sync()).good();
    assert_eq!(client.ask(&Request::new().run("told", &[])).value(), "A secret");
    let mut other = trial.client();
    let foreign = other.ask(&Request::new().run("told", &[]));
    assert_eq!((foreign.code().as_str(), foreign.tags().as_str()), ("26000", "EZ"), "L14");
    other.ask(&Request::new().parse("told", "select 'B'").sync()).good();
    assert_eq!(other.ask(&Request::new().run("told", &[])).value(), "B", "L14");
    if trial.leaving == Leaving::Stays {
        assert_eq!(client.ask(&Request::new().run("told", &[])).value(), "A secret", "L14");
        let again = client.ask(&Request::new().parse("told", "select 'again'").sync());
        assert_eq!(again.code(), "42P05", "L14");
    }
    trial.leave(client);
    assert_eq!(other.ask(&Request::new().run("told", &[])).value(), "B", "L14");
}

fn l23_a_refused_set_is_told_once(trial: &Trial) {
    let mut client = trial.client();
    let refused = trial.ask(&mut client, "set lock_timeout to sdf");
    assert_eq!((refused.code().as_str(), refused.status()), ("22023", 'I'), "L23: {refused:?}");
    let mut other = trial.client();
    for (who, name) in [(&mut client, "own"), (&mut other, "other")] {
        let reply = trial.ask(who, &format!("select '{name}'"));
        assert_eq!(reply.good().value(), name, "L23");
    }
}

fn l24_a_refused_parse_is_told_once(trial: &Trial) {
    let mut client = trial.client();
    let request = Request::new().parse("good", "select 'good'").parse("bad", "selec").parse("never", "select 1").sync();
    let refused = client.ask(&request);
    assert_eq!((refused.tags().as_str(), refused.code().as_str()), ("1EZ", "42601"), "L24: {refused:?}");
    // what is behind its Sync has nothing to do with it
    let bad = Request::new().parse("bad", "selec").sync();
    let behind = Request::new().parse("behind", "select 'behind'").sync();
    client.send(bad.raw(behind.bytes()).run("behind", &[]).bytes());
    let replies = [client.reply(), client.reply(), client.reply()];
    assert_eq!(replies.each_ref().map(Reply::tags), ["EZ", "1Z", "2DCZ"], "L24: {replies:?}");
    let mut other = trial.client();
    assert_eq!(trial.ask(&mut other, "select 'other'").good().value(), "other", "L24");
    assert_eq!(client.ask(&Request::new().run("behind", &[])).good().value(), "behind", "L24");
    assert_eq!(client.ask(&Request::new().run("good", &[])).good().value(), "good", "L24");
    for name in ["bad", "never"] {
        assert_eq!(client.ask(&Request::new().run(name, &[])).code(), "26000", "L24: {name}");
    }
}

fn l25_more_statements_than_there_is_room_for(trial: &Trial) {
    let (mut one, mut two) = (trial.client(), trial.client());
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    let parses = |owner: &str| {
        names
            .iter()
            .fold(Request::new(), |request, name| request.parse(name, &format!("select '{owner} {name} ' || $1")))
    };
    let runs =
        names.iter().fold(Request::new(), |request, name| request.bind("", name, &params(&["x"])).execute("", 0));
    let values = |reply: Reply| reply.good().values();
    let wanted = |owner: &str| names.iter().map(|name| format!("{owner} {name} x")).collect::<Vec<_>>();
    // prepared and run in one go, then run again when the other has had the connections
    one.send(parses("one").raw(runs.bytes()).sync().bytes());
    assert_eq!(values(one.reply()), wanted("one"), "L25");
    two.send(parses("two").raw(runs.bytes()).sync().bytes());
    assert_eq!(values(two.reply()), wanted("two"), "L25");
    for _ in 0..2 {
        assert_eq!(values(one.ask(&runs.clone().sync())), wanted("one"), "L25");
        assert_eq!(values(two.ask(&runs.clone().sync())), wanted("two"), "L25");
    }
}

fn l26_a_table_that_changes(trial: &Trial) {
    let (mut client, mut other) = (trial.client(), trial.client());
    client.query("drop table if exists shape; create table shape as select 1 as a").good();
    client.ask(&Request::new().parse("told", "select * from shape").sync()).good();
    assert_eq!(client.ask(&Request::new().run("told", &[])).good().rows().len(), 1, "L26");
    other.query("alter table shape add b int default 2").good();
    let reply = client.ask(&Request::new().run("told", &[]));
    // healed, or told as PostgreSQL tells it
    let healed = reply.rows() == [[Some("1".to_owned()), Some("2".to_owned())]];
    assert!(healed || reply.code() == "0A000", "L26: {reply:?}");
    for who in [&mut other, &mut client] {
        who.ask(&Request::new().parse("anew", "select * from shape").sync()).good();
        let reply = who.ask(&Request::new().run("anew", &[])).good();
        assert_eq!(reply.rows(), [[Some("1".to_owned()), Some("2".to_owned())]], "L26");
    }
    client.query("drop table shape").good();
}

fn l27_discarded_statements(trial: &Trial) {
    for ending in ["discard all", "deallocate all", "deallocate told"] {
        let mut client = trial.client();
        client.ask(&Request::new().parse("told", "select 'A'").sync()).good();
        trial.ask(&mut client, ending).good();
        assert_eq!(client.ask(&Request::new().run("told", &[])).code(), "26000", "L27: {ending}");
        client.ask(&Request::new().parse("told", "select 'B'").sync()).good();
        assert_eq!(client.ask(&Request::new().run("told", &[])).good().value(), "B", "L27: {ending}");
        trial.leave(client);
    }
}

fn l28_discard_all_in_a_pipeline(trial: &Trial) {
    let step = |request: Request, text| request.parse("", text).bind("", "", &[]).execute("", 0);
    let request = step(step(step(Request::new(), "select 1"), "discard all"), "select 2").sync();
    let (wanted, found) = (direct(trial).ask(&request), trial.client().ask(&request));
    assert_eq!((found.tags(), found.code()), (wanted.tags(), wanted.code()), "L28");
    let mut next = trial.client();
    assert_eq!(trial.ask(&mut next, "select 'next'").good().value(), "next", "L28");
}

fn l40_plans_of_one_role_are_not_another_s(trial: &Trial) {
    let who = ["leak_other", "leak_third"];
    let mut clients = Vec::new();
    for role in who {
        let mut client = trial.client();
        client.query(&format!("set role {role}")).good();
        client.ask(&Request::new().parse("told", "select what from secrets").sync()).good();
        for _ in 0..7 {
            let reply = client.ask(&Request::new().run("told", &[]));
            assert_eq!(reply.good().values(), [role.replace("leak_", "of ")], "L40");
        }
        if trial.size == 1 {
            // it keeps the only connection
            trial.leave(client);
        } else {
            clients.push(client);
        }
    }
    // and whoever comes next is itself again
    clients.into_iter().for_each(|client| trial.leave(client));
    let mut heir = trial.client();
    assert_eq!(ask(&mut heir, trial.protocol, "select count(*) from secrets").value(), "2", "L40");
}
