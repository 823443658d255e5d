"""Crash and drain, as a client sees them."""

import gpudb
import pytest

from harness import calls, demo

LONG_MILLIS = 60_000


def test_a_finished_job_survives_a_kill(start_server, tmp_path):
    first = start_server(data_dir=tmp_path / "data")
    with calls.connect(first.url) as db:
        job_id = calls.submit(db, demo.echo("kept", job_tag="before-the-kill")).job_id
        calls.wait_end(db, job_id)
    first.kill()

    second = start_server(data_dir=tmp_path / "data")
    with calls.connect(second.url) as db:
        kept = calls.get(db, tag="before-the-kill")
        calls.assert_done(kept)
        assert demo.result(kept) == {"message": "kept"}
        # It is still the same job to one who submits it again, and new ids do not repeat old ones.
        again = calls.submit(db, demo.echo("kept", job_tag="before-the-kill"))
        assert (again.job_id, again.info["existing"]) == (job_id, "true")
        assert calls.submit(db, demo.echo("new")).job_id > job_id


def test_a_kill_interrupts_running_jobs_and_keeps_queued_ones(start_server, tmp_path):
    first = start_server(data_dir=tmp_path / "data", arguments=("--workers", "1"))
    with calls.connect(first.url) as db:
        running = calls.submit(db, demo.sleep(LONG_MILLIS)).job_id
        calls.wait_started(db, running)
        queued = calls.submit(db, demo.echo("its turn came")).job_id
    first.kill()

    second = start_server(data_dir=tmp_path / "data", arguments=("--workers", "1"))
    with calls.connect(second.url) as db:
        # Handlers start at most once, so nobody can know what the first one did.
        interrupted = calls.wait_end(db, running)
        assert interrupted.job_status == "ERROR"
        assert "interrupted" in interrupted.status_map["error_message"]
        calls.assert_no_result(interrupted)
        assert demo.result(calls.wait_end(db, queued)) == {"message": "its turn came"}


@pytest.fixture
def draining(start_server):
    """A server that drains: one job still runs. Yields it, the job's id and a connection."""
    server = start_server()
    # Direct: with discovery the client would not stay on a draining cluster to look at it.
    with calls.connect(server.url, discovery=False) as db:
        running = calls.submit(db, demo.sleep(LONG_MILLIS)).job_id
        calls.wait_started(db, running)
        server.terminate()
        calls.until(lambda: is_draining(db), "ha_status says draining")
        yield server, running, db
        assert calls.cancel(db, [running]) == [(running, "cancelling")]
        # With its last job over, the server ends, and it does so with success.
        assert server.wait() == 0


def is_draining(db):
    reply = db.show_system_status()
    assert reply.is_ok(), reply.get_error_msg()
    return '"draining"' in reply.status_map.get("ha_status", "")


def test_a_draining_server_sends_new_jobs_elsewhere(draining):
    _, running, db = draining

    with pytest.raises(gpudb.GPUdbException) as refused:
        db.create_job(**demo.echo().arguments())

    # With one cluster known there is nowhere to go; that the client looked is what counts.
    assert refused.value.had_connection_failure()
    # What is there can still be asked for.
    assert calls.get(db, running).running


def test_a_client_with_two_clusters_moves_on(draining, start_server):
    # A second cluster must differ by host name, as the client ignores ports (docs/protocol.md
    # section 8); all of 127.0.0.0/8 is loopback on Linux.
    leaving, running, _ = draining
    staying = start_server(address="127.0.0.2")
    sequential = gpudb.GPUdb.HAFailoverOrder.SEQUENTIAL

    with calls.connect([leaving.url, staying.url], ha_failover_order=sequential) as db:
        submitted = calls.submit(db, demo.echo("moved", job_tag="moved"))
        calls.wait_end(db, submitted.job_id)

    with calls.connect(staying.url) as db:
        assert demo.result(calls.get(db, tag="moved")) == {"message": "moved"}


def test_a_connected_client_moves_on_too(start_server):
    leaving = start_server()
    staying = start_server(address="127.0.0.2")
    sequential = gpudb.GPUdb.HAFailoverOrder.SEQUENTIAL
    with calls.connect([leaving.url, staying.url], ha_failover_order=sequential) as db, calls.connect(
        leaving.url, discovery=False
    ) as observer:
        running = calls.submit(db, demo.sleep(LONG_MILLIS)).job_id
        calls.wait_started(db, running)
        leaving.terminate()
        calls.until(lambda: is_draining(observer), "ha_status says draining")

        submitted = calls.submit(db, demo.echo("moved", job_tag="moved"))

        assert db.get_num_cluster_switches() == 1
        assert demo.result(calls.wait_end(db, tag="moved")) == {"message": "moved"}
        calls.cancel(observer, [running])
        assert leaving.wait() == 0
    with calls.connect(staying.url) as db:
        assert calls.get(db, tag="moved").job_status == "DONE"
        assert submitted.job_id > 0
