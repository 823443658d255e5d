"""HTTPS: whom the client trusts, and where it goes when it is sent elsewhere."""

import gpudb
import pytest

from harness import calls, demo


@pytest.fixture
def no_trust(monkeypatch):
    """Takes the tests' authority away. These variables would also win over the client's own setting."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def test_discovery_stays_with_https(shared_https_server):
    with calls.connect(shared_https_server.url, discovery=True) as db:
        assert len(db.all_cluster_info) == 1
        assert str(db.all_cluster_info[0].head_rank_url) == shared_https_server.url
        assert db.get_url().startswith("https://")


def test_an_authority_that_is_not_trusted_is_refused(shared_https_server, no_trust):
    with pytest.raises(gpudb.GPUdbException) as refused:
        calls.connect(shared_https_server.url, discovery=False)
    assert "CERTIFICATE_VERIFY_FAILED" in str(refused.value)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_the_check_can_be_skipped(shared_https_server, no_trust):
    with calls.connect(shared_https_server.url, skip_ssl_cert_verification=True) as db:
        job_id = calls.submit(db, demo.echo("unchecked")).job_id
        assert demo.result(calls.wait_end(db, job_id)) == {"message": "unchecked"}


def test_a_client_with_two_clusters_moves_on(start_server, trust):
    # A second cluster must differ by host name (docs/protocol.md section 8).
    leaving = start_server(tls=True)
    staying = start_server(address="127.0.0.2", tls=True)
    sequential = gpudb.GPUdb.HAFailoverOrder.SEQUENTIAL
    with calls.connect([leaving.url, staying.url], ha_failover_order=sequential) as db:
        calls.submit(db, demo.echo("here"))
        leaving.stop()

        submitted = calls.submit(db, demo.echo("moved", job_tag="moved"))

        assert db.get_num_cluster_switches() == 1
        assert db.get_url() == staying.url
        assert demo.result(calls.wait_end(db, submitted.job_id)) == {"message": "moved"}
