//! A data plane before a hot standby.

use harness::{Cluster, Plane, wait_until};

#[test]
fn a_standby_is_read_from_and_says_itself_that_it_cannot_be_written_to() {
    let primary = Cluster::shared();
    primary.sql("create table followed as select 1 as a");
    let replica = Cluster::replica_of(primary);
    let plane = Plane::before(&replica).start();
    let mut client = plane.client("postgres");
    assert_eq!(client.query("select pg_is_in_recovery()").value(), "t");
    primary.sql("insert into followed values (2)");
    wait_until("the standby follows", || client.query("select sum(a) from followed").good().value() == "3");
    assert_eq!(client.query("insert into followed values (3)").code(), "25006");
    assert_eq!(client.query("select count(*) from followed").good().value(), "2");
}
