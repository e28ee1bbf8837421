//! What happens when connections are lost, and where nobody can listen.

use harness::{Cluster, ErrorReply, Plane, RawClient, wait_until};

use crate::{alone, hear_payload, notify, wait_until_moved};

const LINE: &str = "application_name = 'optimacore listener'";

/// Waits until the client is warned; what it hears before that is passed over.
fn warned(client: &mut RawClient) -> ErrorReply {
    loop {
        let message = client.receive();
        if message.tag == b'N' {
            return ErrorReply::read(&message.body);
        }
        assert_eq!(message.tag, b'A', "{message:?}");
    }
}

#[test]
fn who_may_have_missed_something_is_told_so_and_hears_again() {
    let (plane, database) = alone();
    let mut clients: Vec<RawClient> = (0..3).map(|_| plane.client(&database)).collect();
    for client in &mut clients {
        client.query("listen news").good();
    }
    wait_until_moved(&plane, &database, 3);
    for _ in 0..2 {
        let end = format!(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{database}' and {LINE}"
        );
        assert_eq!(Cluster::shared().sql(&end), "t");
        for client in &mut clients {
            let warning = warned(client);
            assert_eq!((warning.severity.as_str(), warning.code.as_str()), ("WARNING", "01000"));
            assert_eq!(warning.message, "notifications may have been lost");
        }
        notify(&database, "news", "again");
        for client in &mut clients {
            assert_eq!(hear_payload(client), "again");
        }
    }
    // and each is still a session like others
    for client in &mut clients {
        client.query("begin; listen more; commit").good();
        assert_eq!(client.query("select count(*) from pg_listening_channels()").good().value(), "2");
    }
}

#[test]
fn sessions_that_listen_survive_a_restart_of_postgres() {
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).start();
    let mut client = plane.client("postgres");
    client.query("listen news").good();
    wait_until_moved(&plane, "postgres", 1);
    cluster.restart();
    assert_eq!(warned(&mut client).message, "notifications may have been lost");
    cluster.sql("notify news, 'after the restart'");
    assert_eq!(hear_payload(&mut client), "after the restart");
}

#[test]
fn a_session_that_has_lost_the_connection_it_listened_on_is_ended() {
    let (plane, database) = alone();
    let mut client = plane.client(&database);
    client.query("begin; listen news").good();
    let backend = client.query("select pg_backend_pid()").good().value();
    assert_eq!(Cluster::shared().sql(&format!("select pg_terminate_backend({backend}, 10000)")), "t");
    assert!(matches!(client.farewell().code.as_str(), "08006" | "08007" | "57P01"));
    let mut next = plane.client(&database);
    assert_eq!(next.query("select count(*) from pg_listening_channels()").good().value(), "0");
}

#[test]
fn a_standby_refuses_as_it_does_directly() {
    let replica = Cluster::replica_of(Cluster::shared());
    let plane = Plane::before(&replica).start();
    let mut direct =
        RawClient::connect(replica.port(), &[("user", "postgres"), ("database", "postgres")], None).unwrap();
    let mut client = plane.client("postgres");
    for text in
        ["listen news", "notify news", "unlisten news", "unlisten *", "do $$ begin execute 'listen news'; end $$"]
    {
        let (ours, theirs) = (client.query(text), direct.query(text));
        assert_eq!((ours.error(), ours.tags()), (theirs.error(), theirs.tags()), "{text}");
    }
}

#[test]
fn a_pause_closes_the_line_and_a_resume_makes_it_again() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).console("admin_users", &["postgres"]).start();
    let mut client = plane.client(&database);
    client.query("listen news").good();
    wait_until_moved(&plane, &database, 1);
    let mut console = plane.client("optimacore");
    console.query("PAUSE").good();
    let count = format!("select count(*) from pg_stat_activity where datname = '{database}'");
    wait_until("nobody is connected", || Cluster::shared().sql(&count) == "0");
    console.query("RESUME").good();
    assert_eq!(warned(&mut client).message, "notifications may have been lost");
    notify(&database, "news", "resumed");
    assert_eq!(hear_payload(&mut client), "resumed");
}
