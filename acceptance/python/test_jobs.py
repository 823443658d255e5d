"""A job from its submit to its result, over every connection the client can make."""

import uuid

import pytest

from harness import calls, demo


def new_tag():
    return f"acceptance-{uuid.uuid4()}"


@pytest.mark.parametrize("payload_encoding", demo.PAYLOAD_ENCODINGS)
def test_a_job_runs_to_its_result(db, payload_encoding):
    reply = calls.submit(db, demo.echo("grüße, 世界 🙂", payload_encoding))
    # The server names each job, asked or not, and gives a trace id for it.
    assert reply.info["job_tag"]
    assert len(bytes.fromhex(reply.info["query_id"])) == 16

    done = calls.wait_end(db, reply.job_id)

    calls.assert_done(done)
    assert done.endpoint == "/demo/echo"
    # A JSON payload gives a JSON result; binary and snappy give a binary one.
    assert done.response_encoding == ("json" if payload_encoding == "json" else "binary")
    assert demo.result(done) == {"message": "grüße, 世界 🙂"}


def test_a_job_is_found_by_its_tag_alone(db):
    tag = new_tag()
    submitted = calls.submit(db, demo.echo("by tag", job_tag=tag))
    assert submitted.info["job_tag"] == tag

    assert demo.result(calls.wait_end(db, tag=tag)) == {"message": "by tag"}


def test_a_generated_tag_finds_its_job_too(db):
    submitted = calls.submit(db, demo.echo("generated"))

    assert demo.result(calls.wait_end(db, tag=submitted.info["job_tag"])) == {"message": "generated"}


def test_the_tag_wins_over_the_id(db):
    tag = new_tag()
    other = calls.submit(db, demo.echo("not this one"))
    calls.submit(db, demo.echo("this one", job_tag=tag))
    calls.wait_end(db, tag=tag)

    assert demo.result(calls.get(db, other.job_id, tag)) == {"message": "this one"}


def test_the_same_submit_twice_is_one_job(db):
    tag = new_tag()
    first = calls.submit(db, demo.echo("once", job_tag=tag))
    second = calls.submit(db, demo.echo("once", job_tag=tag))
    calls.wait_end(db, first.job_id)
    third = calls.submit(db, demo.echo("once", job_tag=tag))

    assert first.info.get("existing") != "true"
    assert second.job_id == third.job_id == first.job_id
    assert second.info["existing"] == third.info["existing"] == "true"


@pytest.mark.parametrize("payload_encoding", demo.PAYLOAD_ENCODINGS)
def test_a_mebibyte_comes_back_whole(db, payload_encoding):
    # Not one repeated letter, so that a lost or doubled block would show.
    message = "".join(f"{i:07x} é" for i in range(2**20 // 10))
    assert len(message.encode()) >= 2**20 - 10
    submitted = calls.submit(db, demo.echo(message, payload_encoding))

    done = calls.wait_end(db, submitted.job_id)

    calls.assert_done(done)
    assert demo.result(done)["message"] == message


def test_real_work_gives_the_right_answer(db):
    submitted = calls.submit(db, demo.primes(1_000_000))

    done = calls.wait_end(db, submitted.job_id)

    calls.assert_done(done)
    assert demo.result(done) == {"count": 78498, "largest": 999983}


def test_progress_rises_to_100_and_never_falls(db):
    submitted = calls.submit(db, demo.sleep(1_000))
    seen = []

    def ended():
        reply = calls.get(db, submitted.job_id)
        seen.append(reply.progress)
        if reply.running:
            assert reply.job_status == "RUNNING"
            assert 0 <= reply.progress <= 99
            calls.assert_no_result(reply)
            assert reply.status_map == {}
            return None
        return reply

    done = calls.until(ended, "the end of the sleep")

    calls.assert_done(done)
    assert demo.result(done) == {"slept_millis": 1_000}
    assert seen == sorted(seen)
    assert len({progress for progress in seen if 0 < progress < 100}) >= 2, seen


def test_a_failed_job_carries_its_message(db):
    # The text is the job's own, so it travels unchanged, also where it holds a phrase that would
    # make the client fail over in the wrapper (docs/protocol.md section 7).
    message = "out of paper: Connection refused"
    submitted = calls.submit(db, demo.fail(message))

    failed = calls.wait_end(db, submitted.job_id)

    assert (failed.job_status, failed.running) == ("ERROR", False)
    assert 0 <= failed.progress <= 99
    calls.assert_no_result(failed)
    assert message in failed.status_map["error_message"]
    calls.assert_usable(db)


def test_wait_ms_answers_when_the_job_ends(db):
    submitted = calls.submit(db, demo.sleep(700))

    # One call, no polling: without the option it would find the job running.
    assert calls.get(db, submitted.job_id).running
    done = calls.get(db, submitted.job_id, wait_ms="60000")

    calls.assert_done(done)
    assert demo.result(done) == {"slept_millis": 700}


def test_wait_ms_answers_when_the_time_is_up(db):
    submitted = calls.submit(db, demo.sleep(600_000))
    try:
        still = calls.get(db, submitted.job_id, wait_ms="200")
        assert (still.job_status, still.running) == ("RUNNING", True)
    finally:
        calls.cancel(db, [submitted.job_id])
    assert calls.wait_end(db, submitted.job_id).job_status == "CANCELLED"
