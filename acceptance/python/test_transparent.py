"""A server in front of another: the client is given the address of the first, and never learns of the second."""

import gpudb
import pytest

from harness import accounts, calls, demo


@pytest.fixture
def pair(start_server):
    """A server with the demo endpoints, and one in front of it that has none of its own."""
    behind = start_server()
    front = start_server(arguments=("--demo=false", "--upstream", behind.url))
    return behind, front


@pytest.mark.parametrize("encoding", calls.ENCODINGS)
@pytest.mark.parametrize("discovery", (True, False), ids=("discovery", "direct"))
def test_the_client_stays_in_front(pair, encoding, discovery):
    behind, front = pair
    with calls.connect(front.url, encoding, discovery) as db:
        assert db.get_url() == front.url
        job_id = calls.submit(db, demo.echo("through", job_tag="transparent")).job_id
        done = calls.wait_end(db, job_id)
        calls.assert_done(done)
        assert demo.result(done)["message"] == "through"
        failed = calls.wait_end(db, calls.submit(db, demo.fail("oh")).job_id)
        assert failed.job_status == "ERROR"
        assert "oh" in failed.status_map["error_message"]
        calls.assert_usable(db)
    # The job is of the server in front; the other has answered a call, and knows no such tag.
    with calls.connect(behind.url, encoding, discovery) as db:
        calls.assert_plain_error(db.get_job(0, {"job_tag": "transparent"}), "transparent")


def test_a_cancel_reaches_the_call_behind(pair):
    behind, front = pair
    with calls.connect(front.url) as db, calls.connect(behind.url) as db_behind:
        job_id = calls.submit(db, demo.sleep(60_000)).job_id

        def running_behind():
            return list(db_behind.admin_show_jobs({}).job_id)

        calls.until(running_behind, "the call behind")
        assert calls.cancel(db, [job_id]) == [(job_id, "cancelling")]
        assert calls.wait_end(db, job_id).job_status == "CANCELLED"
        calls.until(lambda: not running_behind(), "the end of the call behind")


@pytest.fixture
def users_file(tmp_path):
    path = tmp_path / "users.toml"
    accounts.add(path, "ann")
    accounts.add(path, "bob")
    return path


@pytest.fixture
def front_of_accounts(start_server, users_file):
    """A server in front of one with accounts, which has none of its own."""
    behind = start_server(arguments=("--users-file", str(users_file)))
    return start_server(arguments=("--demo=false", "--upstream", behind.url))


def login(server, name, encoding="BINARY", discovery=True):
    return calls.connect(server.url, encoding, discovery, username=name, password=accounts.PASSWORD)


@pytest.mark.parametrize("encoding", calls.ENCODINGS)
@pytest.mark.parametrize("discovery", (True, False), ids=("discovery", "direct"))
def test_users_behind_are_users_in_front(front_of_accounts, encoding, discovery):
    front = front_of_accounts
    with login(front, "ann", encoding, discovery) as ann, login(front, "bob", encoding, discovery) as bob:
        job_id = calls.submit(ann, demo.echo("for ann only", job_tag="mine")).job_id
        done = calls.wait_end(ann, job_id)
        calls.assert_done(done)
        assert demo.result(done)["message"] == "for ann only"
        for reply, found in [
            (bob.get_job(job_id, {}), str(job_id)),
            (bob.get_job(0, {"job_tag": "mine"}), "mine"),
        ]:
            calls.assert_plain_error(reply, found, "not found")
        listed = bob.admin_show_jobs({"show_async_jobs": "true"})
        assert listed.is_ok() and list(listed.job_id) == []
        assert calls.cancel(bob, [job_id]) == [(job_id, "not found")]
        calls.assert_usable(ann)
        calls.assert_usable(bob)


@pytest.mark.parametrize("discovery", (True, False), ids=("discovery", "direct"))
@pytest.mark.parametrize(
    "settings",
    ({"username": "ann", "password": "wrong horse"}, {"oauth_token": "undefined"}, {}),
    ids=("wrong-password", "wrong-token", "none"),
)
def test_a_stranger_behind_is_one_in_front(front_of_accounts, settings, discovery):
    with pytest.raises(gpudb.GPUdbException) as raised:
        calls.connect(front_of_accounts.url, discovery=discovery, **settings)
    assert "nauthorized" in str(raised.value), raised.value
