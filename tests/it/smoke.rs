use crate::support::TestServer;

#[test]
fn a_node_reads_its_own_instance_id() {
    let server = TestServer::start();
    let node = server.node("n1");
    assert_eq!(node.get("/2012-03-01/meta-data/instance-id").brief(), (200, "n1".to_owned()));
    let server = server.restart();
    assert_eq!(server.credentials("n1").token_key, node.token_key);
}
