"""What the client learns when it connects."""

from harness import calls


def test_the_client_knows_the_server(db, kind):
    server, *_ = kind
    assert db.get_url() == server.url
    assert db.server_version is not None
    # The client compares the first two parts with its own and would warn.
    assert str(db.server_version).split(".")[:2] == ["7", "2"]
    calls.assert_usable(db)


def test_discovery_finds_one_running_cluster(shared_server):
    with calls.connect(shared_server.url, discovery=True) as db:
        assert len(db.all_cluster_info) == 1
        assert str(db.all_cluster_info[0].head_rank_url) == shared_server.url
