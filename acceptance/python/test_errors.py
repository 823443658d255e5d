"""Errors that are the caller's: each is returned, none raises, and the connection goes on.

To the client an error is either plain or a reason to leave the cluster (docs/protocol.md sections 6
and 7). All of these must be plain.
"""

import uuid

import pytest

from harness import calls, demo

UNKNOWN_ID = 2**53 - 1

ECHO_AVRO = demo.echo("hello").data


def create(db, endpoint="/demo/echo", encoding="binary", data=b"", data_str="", **options):
    return db.create_job(endpoint, encoding, data, data_str, options)


@pytest.fixture(autouse=True)
def the_connection_survives(db):
    yield
    calls.assert_usable(db)


def test_unknown_job_id(db):
    calls.assert_plain_error(db.get_job(UNKNOWN_ID), str(UNKNOWN_ID))


@pytest.mark.parametrize("job_id", [0, -1, -(2**63), 2**63 - 1])
def test_a_job_id_that_none_can_have(db, job_id):
    calls.assert_plain_error(db.get_job(job_id))


def test_unknown_tag(db):
    calls.assert_plain_error(db.get_job(0, {"job_tag": "nobody-has-this"}), "nobody-has-this")


def test_a_cancel_by_an_unknown_tag(db):
    reply = db.admin_alter_jobs([], "cancel", {"job_tag": "nobody-has-this"})
    calls.assert_plain_error(reply, "nobody-has-this")


def test_a_known_id_does_not_help_an_unknown_tag(db):
    submitted = calls.submit(db, demo.echo())
    calls.assert_plain_error(db.get_job(submitted.job_id, {"job_tag": "nobody-has-this"}))


@pytest.mark.parametrize("tag", ["two words", "a/b", "a.b", "größe", "x" * 256], ids=lambda tag: tag[:10])
def test_a_tag_outside_the_alphabet_or_too_long(db, tag):
    calls.assert_plain_error(create(db, data=ECHO_AVRO, job_tag=tag), "job_tag")


def test_the_longest_tag_is_accepted(db):
    tag = f"{uuid.uuid4()}".ljust(255, "x")
    calls.submit(db, demo.echo(job_tag=tag))
    assert demo.result(calls.wait_end(db, tag=tag)) == {"message": "hello"}


@pytest.mark.parametrize("endpoint", ["/no/such/endpoint", "no-slash", ""])
def test_an_endpoint_that_runs_no_jobs(db, endpoint):
    calls.assert_plain_error(create(db, endpoint, data=ECHO_AVRO), endpoint)


@pytest.mark.parametrize("word", ["avro", "xml", "Binary"])
def test_an_unknown_payload_encoding(db, word):
    calls.assert_plain_error(create(db, encoding=word, data=ECHO_AVRO), "request_encoding")


@pytest.mark.parametrize(
    "payload",
    [
        {"encoding": "binary", "data": b""},
        {"encoding": "binary", "data": ECHO_AVRO[:-1]},
        {"encoding": "binary", "data": ECHO_AVRO + b"\0"},
        {"encoding": "binary", "data": b"\x04\xff\xfe\x00"},
        # A string that claims 2^62 bytes.
        {"encoding": "binary", "data": b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"},
        {"encoding": "snappy", "data": b"not snappy at all"},
        # Good Avro that was never compressed.
        {"encoding": "snappy", "data": ECHO_AVRO},
        {"encoding": "json", "data_str": ""},
        {"encoding": "json", "data_str": '{"message": "hello"'},
        {"encoding": "json", "data_str": '{"message": 7, "options": {}}'},
        {"encoding": "json", "data_str": "[]"},
    ],
    ids=[
        "empty",
        "cut-short",
        "trailing-byte",
        "not-utf8",
        "huge-length",
        "not-snappy",
        "uncompressed",
        "no-json",
        "cut-json",
        "wrong-type",
        "not-a-record",
    ],
)
def test_a_payload_that_is_not_the_endpoints_record(db, payload):
    calls.assert_plain_error(create(db, **payload))


def test_the_same_tag_with_other_content(db):
    tag = f"{uuid.uuid4()}"
    first = calls.submit(db, demo.echo("one", job_tag=tag))

    calls.assert_plain_error(db.create_job(**demo.echo("two", job_tag=tag).arguments()), tag)
    # Another encoding is other content too, though it says the same.
    calls.assert_plain_error(db.create_job(**demo.echo("one", "json", job_tag=tag).arguments()), tag)
    calls.assert_plain_error(db.create_job(**demo.fail("one", job_tag=tag).arguments()), tag)

    # What the refused ones asked for has not touched the job.
    assert demo.result(calls.wait_end(db, first.job_id)) == {"message": "one"}


def test_a_mistyped_option_is_refused_by_name(db):
    # Taken for nothing, it would lose the idempotency that its writer counts on.
    calls.assert_plain_error(create(db, data=ECHO_AVRO, job_tga="mine"), "job_tga", "job_tag")


def test_options_of_other_versions_are_ignored(db):
    # docs/protocol.md section 5: clients of other versions send options of their own.
    calls.submit(db, demo.echo(some_option_of_another_version="1"))


@pytest.mark.parametrize("value", ["soon", "-1", "1e3"])
def test_a_bad_option_value_names_the_option(db, value):
    submitted = calls.submit(db, demo.echo())
    calls.assert_plain_error(db.get_job(submitted.job_id, {"wait_ms": value}), "wait_ms")


@pytest.mark.parametrize("action", ["pause", "Cancel", ""])
def test_an_unknown_action(db, action):
    submitted = calls.submit(db, demo.echo())
    calls.assert_plain_error(db.admin_alter_jobs([submitted.job_id], action), "action")
    assert calls.wait_end(db, submitted.job_id).job_status == "DONE"


@pytest.mark.parametrize("phrase", calls.FAILOVER_PHRASES)
def test_no_error_echoes_a_phrase_that_makes_clients_leave(db, phrase):
    """Each place where the caller's words could come back in an error message."""
    calls.assert_plain_error(create(db, endpoint="/" + phrase, data=ECHO_AVRO))
    calls.assert_plain_error(create(db, encoding=phrase, data=ECHO_AVRO))
    # With a space, for one of the phrases is a lawful tag by itself.
    calls.assert_plain_error(create(db, data=ECHO_AVRO, job_tag=f"{phrase} !"))
    calls.assert_plain_error(create(db, data=ECHO_AVRO, timeout_ms=phrase))
    calls.assert_plain_error(create(db, encoding="json", data_str='{"message": "%s"' % phrase))
    calls.assert_plain_error(create(db, encoding="json", data_str='{"message": {"%s": 1}}' % phrase))
    calls.assert_plain_error(db.get_job(0, {"job_tag": phrase}))
    calls.assert_plain_error(db.admin_alter_jobs([UNKNOWN_ID], phrase))


def test_a_lawful_tag_that_holds_a_phrase_is_not_echoed_either(db):
    tag = f"system-limited-fatal-{uuid.uuid4()}"
    calls.assert_plain_error(db.get_job(0, {"job_tag": tag}))
    assert calls.submit(db, demo.echo("one", job_tag=tag)).info["job_tag"] == tag
    calls.assert_plain_error(db.create_job(**demo.echo("two", job_tag=tag).arguments()))
