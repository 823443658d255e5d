"""Cancelling through `/admin/alter/jobs`: what it does to a job, and the word for each id."""

import uuid

import pytest

from harness import calls, demo

LONG_MILLIS = 60_000
UNKNOWN_ID = 2**53 - 1


@pytest.fixture(params=calls.ENCODINGS)
def db(request, start_server):
    """A server with a single worker, so that a second job waits for as long as a first one runs."""
    server = start_server(arguments=("--workers", "1"))
    with calls.connect(server.url, request.param) as connection:
        yield connection


@pytest.fixture
def running(db):
    """The id of a job that occupies the only worker."""
    job_id = calls.submit(db, demo.sleep(LONG_MILLIS)).job_id
    calls.wait_started(db, job_id)
    yield job_id
    calls.cancel(db, [job_id])


def assert_cancelled(reply):
    assert (reply.job_status, reply.running) == ("CANCELLED", False)
    assert reply.status_map == {}
    calls.assert_no_result(reply)


def test_a_queued_job_is_cancelled_at_once(db, running):
    queued = calls.submit(db, demo.echo()).job_id
    before = calls.get(db, queued)
    assert (before.job_status, before.running, before.progress) == ("RUNNING", True, 0)

    assert calls.cancel(db, [queued]) == [(queued, "cancelled")]

    # At once: not after the worker has come to it.
    assert_cancelled(calls.get(db, queued))
    assert calls.get(db, running).running


def test_a_running_job_is_told_to_stop(db, running):
    assert calls.cancel(db, [running]) == [(running, "cancelling")]

    stopped = calls.wait_end(db, running)

    assert_cancelled(stopped)
    # It ended where it was, and its worker is free again.
    assert 0 < stopped.progress < 100
    after = calls.submit(db, demo.echo("free")).job_id
    assert demo.result(calls.wait_end(db, after)) == {"message": "free"}


def test_jobs_are_cancelled_by_tag(db):
    running_tag, queued_tag = f"{uuid.uuid4()}", f"{uuid.uuid4()}"
    running = calls.submit(db, demo.sleep(LONG_MILLIS, job_tag=running_tag)).job_id
    calls.wait_started(db, running)
    queued = calls.submit(db, demo.echo(job_tag=queued_tag)).job_id

    assert calls.cancel(db, tag=queued_tag) == [(queued, "cancelled")]
    assert calls.cancel(db, tag=running_tag) == [(running, "cancelling")]

    assert_cancelled(calls.wait_end(db, tag=running_tag))
    assert_cancelled(calls.wait_end(db, tag=queued_tag))


def test_each_id_gets_its_word_in_order(db):
    done = calls.submit(db, demo.echo()).job_id
    failed = calls.submit(db, demo.fail("on purpose")).job_id
    calls.wait_end(db, done)
    calls.wait_end(db, failed)
    running = calls.submit(db, demo.sleep(LONG_MILLIS)).job_id
    calls.wait_started(db, running)
    queued = calls.submit(db, demo.echo()).job_id

    assert calls.cancel(db, [queued, done, UNKNOWN_ID, running, failed]) == [
        (queued, "cancelled"),
        (done, "already DONE"),
        (UNKNOWN_ID, "not found"),
        (running, "cancelling"),
        (failed, "already ERROR"),
    ]
    calls.wait_end(db, running)
    assert calls.cancel(db, [running, queued]) == [
        (running, "already CANCELLED"),
        (queued, "already CANCELLED"),
    ]
    # What was over before stays as it was.
    calls.assert_done(calls.get(db, done))
    assert calls.get(db, failed).job_status == "ERROR"


def test_a_cancel_repeated_while_the_job_stops_is_no_error(db, running):
    calls.cancel(db, [running])

    # The job may have ended in between; then it says so.
    [(job_id, word)] = calls.cancel(db, [running])

    assert job_id == running
    assert word in ("cancelling", "already CANCELLED")
    assert_cancelled(calls.wait_end(db, running))
