"""Nodes on one database are a ring of clusters to the client: it finds them and goes on by itself."""

import time

import pytest

from harness import calls, database, demo


@pytest.fixture
def nodes(start_server):
    """Three nodes that know of each other. The client tells members of a ring by their host names."""
    url = database.fresh()
    arguments = ("--store", url, "--lease-time", "3s", "--workers", "2")
    servers = [start_server(address=f"127.0.0.{n}", arguments=arguments) for n in (1, 2, 3)]
    everyone = {server.url for server in servers}
    for server in servers:
        with calls.connect(server.url, discovery=False) as db:

            def knows_all():
                told = db.show_system_properties(options={"properties": "conf.ha_ring_head_nodes_full"})
                ring = told.property_map.get("conf.ha_ring_head_nodes_full", "")
                return set(ring.split(";")) == everyone

            calls.until(knows_all, "a ring of three")
    return servers


@pytest.mark.parametrize("encoding", calls.ENCODINGS)
def test_a_client_that_was_given_one_node_goes_on_when_it_is_killed(nodes, encoding, record_property):
    given, *others = nodes
    with calls.connect(given.url, encoding) as db:
        assert {str(cluster.head_rank_url) for cluster in db.all_cluster_info} == {node.url for node in nodes}
        done = demo.echo("before", job_tag="before")
        submitted = calls.submit(db, done)
        calls.assert_done(calls.wait_end(db, submitted.job_id))
        ran = calls.submit(db, demo.sleep(600_000, job_tag="runs"))
        calls.wait_started(db, ran.job_id)
        given.kill()
        begin = time.monotonic()
        found = calls.get(db, tag="before")
        record_property("failover_seconds", time.monotonic() - begin)
        print(f"failover took {time.monotonic() - begin:.3f} s")
        calls.assert_done(found)
        assert db.get_url() in {node.url for node in others}
        # Under its tag it is the same job, and no new one.
        again = calls.submit(db, done)
        assert again.job_id == submitted.job_id
        # Where it ran is gone; the others find out when its lease ends.
        cut_off = calls.wait_end(db, tag="runs")
        assert cut_off.job_status == "ERROR"
        assert cut_off.status_map["error_message"].startswith("interrupted:")
        calls.assert_done(calls.wait_end(db, calls.submit(db, demo.echo("after", job_tag="after")).job_id))


def test_a_rolling_restart_loses_nothing(nodes):
    with calls.connect(nodes[0].url) as db:
        jobs = []
        for node in nodes[:2]:
            jobs += [calls.submit(db, demo.sleep(20)).job_id for _ in range(10)]
            node.terminate()
            jobs += [calls.submit(db, demo.sleep(20)).job_id for _ in range(10)]
            assert node.wait() == 0
        for job_id in jobs:
            calls.assert_done(calls.wait_end(db, job_id))
