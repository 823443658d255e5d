"""The job list, `/admin/show/jobs`."""

import json
import time

import pytest

from harness import calls, demo

COLUMNS = (
    "job_id",
    "status",
    "endpoint_name",
    "time_received",
    "auth_id",
    "source_ip",
    "query_text",
    "user_data",
    "flags",
)


@pytest.fixture(params=calls.ENCODINGS)
def db(request, start_server):
    """A connection to a server that has no other jobs than the test's."""
    with calls.connect(start_server().url, request.param) as connection:
        yield connection


def show(db, **options):
    """The list as one dict for each job, with its tag, by id."""
    reply = db.admin_show_jobs(options)
    assert reply.is_ok(), reply.get_error_msg()
    columns = [reply[name] for name in COLUMNS]
    assert {len(column) for column in columns} == {len(reply.job_id)}
    tags = json.loads(reply.info.get("job_tag", "{}"))
    rows = [dict(zip(COLUMNS, row)) for row in zip(*columns)]
    assert set(tags) == {str(row["job_id"]) for row in rows}
    return {row["job_id"]: {**row, "tag": tags[str(row["job_id"])]} for row in rows}


def test_an_empty_list(db):
    assert show(db) == {}
    assert show(db, show_async_jobs="true") == {}


def test_finished_jobs_are_listed_only_if_asked_for(db):
    done = calls.submit(db, demo.echo(job_tag="the-done-one")).job_id
    failed = calls.submit(db, demo.fail("on purpose")).job_id
    for job_id in (done, failed):
        calls.wait_end(db, job_id)
    running = calls.submit(db, demo.sleep(60_000, job_tag="the-long-one")).job_id
    try:
        live = show(db)
        everything = show(db, show_async_jobs="true")
        hidden = show(db, show_async_jobs="false")
    finally:
        calls.cancel(db, [running])

    assert set(live) == set(hidden) == {running}
    assert set(everything) == {done, failed, running}
    assert {job_id: row["status"] for job_id, row in everything.items()} == {
        done: "DONE",
        failed: "ERROR",
        running: "RUNNING",
    }
    assert everything[done]["endpoint_name"] == "/demo/echo"
    assert everything[running]["endpoint_name"] == "/demo/sleep"
    assert everything[done]["tag"] == "the-done-one"
    assert live[running]["tag"] == "the-long-one"
    assert everything[failed]["tag"]

    # After its cancel the long one is no longer live either.
    assert calls.wait_end(db, running).job_status == "CANCELLED"
    assert show(db) == {}
    assert show(db, show_async_jobs="true")[running]["status"] == "CANCELLED"


def test_a_row_tells_who_and_when(db):
    before = time.time() * 1000
    job_id = calls.submit(db, demo.echo(user_data="my note")).job_id
    after = time.time() * 1000
    calls.wait_end(db, job_id)

    row = show(db, show_async_jobs="true")[job_id]

    assert row["source_ip"] == "127.0.0.1"
    assert row["user_data"] == "my note"
    # Epoch milliseconds; both ends of the test read the same clock.
    assert int(before) <= row["time_received"] <= after
