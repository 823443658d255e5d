"""The official client, made and driven the way the tests need it."""

import time

import gpudb

ENCODINGS = ("BINARY", "JSON", "SNAPPY")
WAIT_SECONDS_MAX = 60
# Between two polls. Only a pause: each wait ends on what the server answers, or at its deadline.
POLL_SECONDS = 0.02

# What makes some client leave a cluster when it stands in an error message (docs/protocol.md
# section 7). This client minds only some of them, and each only at some statuses.
FAILOVER_PHRASES = (
    "Kinetica is exiting",
    "Kinetica is offline",
    "system-limited-fatal",
    "Connection refused",
    "Connection reset",
    "Query planner is not running",
    "System shutting down",
    "Unavailable: Draining HA queue",
    "System is offline",
    "Unexpected end of file from server",
)


def connect(urls, encoding="BINARY", discovery=True, **settings):
    """A connected `gpudb.GPUdb`. `settings` are attributes of `GPUdb.Options`."""
    options = gpudb.GPUdb.Options()
    options.encoding = encoding
    options.disable_auto_discovery = not discovery
    for name, value in settings.items():
        setattr(options, name, value)
    db = gpudb.GPUdb(host=urls, options=options)
    # The client gives up SNAPPY and discovery with no more than a warning.
    assert db.encoding == encoding
    assert db.disable_auto_discovery is not discovery
    return db


def submit(db, job):
    """Submits `job` and returns the reply, which must be a success."""
    reply = db.create_job(**job.arguments())
    assert reply.is_ok(), reply.get_error_msg()
    assert 0 < reply.job_id < 2**53
    return reply


def get(db, job_id=0, tag=None, **options):
    """One successful `/get/job`."""
    if tag is not None:
        options["job_tag"] = tag
    reply = db.get_job(job_id, options)
    assert reply.is_ok(), reply.get_error_msg()
    return reply


def until(probe, what):
    """Polls until `probe()` returns something true, and returns it."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS_MAX} s: {what}"
        time.sleep(POLL_SECONDS)


def wait_end(db, job_id=0, tag=None):
    """Polls until the job has ended, whichever way, and returns the last reply."""

    def ended():
        reply = get(db, job_id, tag)
        return None if reply.running else reply

    return until(ended, f"the end of job {job_id or tag}")


def wait_started(db, job_id):
    """Polls until the job reports progress: a waiting job reads RUNNING too, but at 0."""

    def started():
        reply = get(db, job_id)
        assert reply.running, f"the job ended early: {reply.job_status}"
        return reply.progress > 0

    until(started, f"the start of job {job_id}")


def cancel(db, job_ids=(), tag=None):
    """One successful cancel; returns the pairs of id and word, in the order of the reply."""
    reply = db.admin_alter_jobs(list(job_ids), "cancel", {"job_tag": tag} if tag else {})
    assert reply.is_ok(), reply.get_error_msg()
    assert reply.action == "cancel"
    assert len(reply.job_ids) == len(reply.status)
    return list(zip(reply.job_ids, reply.status))


def assert_done(reply):
    assert (reply.job_status, reply.running, reply.progress, reply.successful) == ("DONE", False, 100, True)
    assert reply.status_map == {}


def assert_no_result(reply):
    assert reply.successful is False
    assert reply.job_response in (b"", "")
    assert reply.job_response_str == ""


def assert_plain_error(reply, *words):
    """An ordinary error: returned, not raised, with a text for people that holds `words`."""
    assert not reply.is_ok()
    assert reply.status_info["data_type"] == "none"
    message = reply.get_error_msg()
    assert message
    for word in words:
        assert word in message, message
    for phrase in FAILOVER_PHRASES:
        assert phrase not in message


def assert_usable(db):
    """The connection still works, and has not changed clusters on the way."""
    assert db.get_num_cluster_switches() == 0
    reply = db.show_system_status()
    assert reply.is_ok(), reply.get_error_msg()
