"""A reply that is lost on the way: the client sends again by itself, and there is one job."""

import pytest

from harness import calls, demo
from harness.proxy import ReplyCutter


@pytest.mark.parametrize("encoding", calls.ENCODINGS)
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_submit_with_a_tag_that_loses_its_reply_is_one_job(start_server, encoding, cuts):
    server = start_server()
    with ReplyCutter(server.url, b"POST /create/job", cuts) as proxy:
        # Discovery would find the server behind the proxy and go to it.
        with calls.connect(proxy.url, encoding, discovery=False) as db:
            submitted = calls.submit(db, demo.echo("once", job_tag="sent-again"))
            calls.assert_usable(db)

    # The client really did send again, and the last answer says that it was not the first.
    assert (proxy.requests, proxy.replies_cut) == (cuts + 1, cuts)
    assert submitted.info["existing"] == "true"
    with calls.connect(server.url, encoding) as db:
        assert demo.result(calls.wait_end(db, tag="sent-again")) == {"message": "once"}
        listed = db.admin_show_jobs({"show_async_jobs": "true"})
        assert listed.job_id == [submitted.job_id]


def test_a_lost_reply_to_get_job_is_fetched_again(start_server):
    server = start_server()
    with ReplyCutter(server.url, b"POST /get/job", 1) as proxy:
        with calls.connect(proxy.url, discovery=False) as db:
            submitted = calls.submit(db, demo.echo("kept"))
            assert demo.result(calls.wait_end(db, submitted.job_id)) == {"message": "kept"}
    assert proxy.replies_cut == 1
