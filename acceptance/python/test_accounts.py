"""The client on a server with accounts."""

import gpudb
import pytest

from harness import accounts, calls, demo


@pytest.fixture(scope="module")
def users_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("accounts") / "users.toml"
    accounts.add(path, "ann")
    accounts.add(path, "bob")
    accounts.add(path, "root", role="admin")
    return path


@pytest.fixture(scope="module")
def bob_token(users_file):
    return accounts.token(users_file, "bob", "acceptance")


@pytest.fixture
def server(start_server, users_file, bob_token):
    return start_server(arguments=("--users-file", str(users_file)))


def connect(server, name, encoding="BINARY", discovery=True, password=accounts.PASSWORD):
    return calls.connect(server.url, encoding, discovery, username=name, password=password)


@pytest.mark.parametrize("encoding", calls.ENCODINGS)
@pytest.mark.parametrize("discovery", [True, False])
def test_a_user_does_their_work_with_a_password(server, encoding, discovery):
    with connect(server, "ann", encoding, discovery) as db:
        reply = calls.submit(db, demo.echo("mine"))
        done = calls.wait_end(db, reply.job_id)
        calls.assert_done(done)
        assert demo.result(done) == {"message": "mine"}
        calls.assert_usable(db)


def test_a_token_is_as_good_as_a_password(server, bob_token):
    with calls.connect(server.url, oauth_token=bob_token) as db:
        reply = calls.submit(db, demo.echo("by token"))
        calls.assert_done(calls.wait_end(db, reply.job_id))


@pytest.mark.parametrize(
    "settings",
    [
        {"username": "ann", "password": "wrong horse"},
        {"username": "nobody", "password": accounts.PASSWORD},
        {"oauth_token": "undefined"},
        {},
    ],
    ids=["wrong-password", "unknown-user", "wrong-token", "none"],
)
@pytest.mark.parametrize("discovery", [True, False])
def test_a_stranger_is_told_so_and_not_sent_elsewhere(server, settings, discovery):
    with pytest.raises(gpudb.GPUdbException) as raised:
        calls.connect(server.url, discovery=discovery, **settings)
    assert "nauthorized" in str(raised.value), raised.value


@pytest.mark.parametrize("encoding", calls.ENCODINGS)
def test_another_users_job_is_as_none(server, encoding):
    with connect(server, "ann", encoding) as ann, connect(server, "bob", encoding) as bob:
        job = calls.submit(ann, demo.sleep(60_000, job_tag="mine"))
        calls.wait_started(ann, job.job_id)
        for reply, found in [
            (bob.get_job(job.job_id, {}), str(job.job_id)),
            (bob.get_job(0, {"job_tag": "mine"}), "mine"),
        ]:
            calls.assert_plain_error(reply, found, "not found")
        listed = bob.admin_show_jobs({"show_async_jobs": "true"})
        assert listed.is_ok() and job.job_id not in listed.job_id
        assert calls.cancel(bob, [job.job_id]) == [(job.job_id, "not found")]
        # Nobody has touched it, and an admin may.
        assert calls.get(ann, job.job_id).running
        with connect(server, "root", encoding) as root:
            assert job.job_id in root.admin_show_jobs({}).job_id
            assert calls.cancel(root, [job.job_id]) == [(job.job_id, "cancelling")]
        assert calls.wait_end(ann, job.job_id).job_status == "CANCELLED"
