"""Fixtures: servers, and a connection of each kind that the official client can make."""

import pytest

from harness import calls, certificates
from harness.server import Server


@pytest.fixture
def start_server(tmp_path):
    """Starts servers for one test; each is stopped by SIGTERM and must then exit with 0."""
    servers = []

    def start(data_dir=None, **settings):
        server = Server(data_dir or tmp_path / f"data-{len(servers)}", **settings)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    """One server for all tests that can live with the jobs of others."""
    server = Server(tmp_path_factory.mktemp("shared"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def trust():
    """Makes the client trust the tests' authority: it has no setting for that, but the library under it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", certificates.authority())
        yield


@pytest.fixture(scope="session")
def shared_https_server(tmp_path_factory, trust):
    """The same as `shared_server`, over HTTPS."""
    server = Server(tmp_path_factory.mktemp("shared-https"), tls=True)
    yield server
    server.stop()


KINDS = [("http", encoding, discovery) for encoding in calls.ENCODINGS for discovery in (True, False)] + [
    ("https", "BINARY", True),
    ("https", "JSON", False),
]


@pytest.fixture(
    scope="session",
    params=KINDS,
    ids=lambda kind: f"{kind[0]}-{kind[1]}-{'discovery' if kind[2] else 'direct'}",
)
def kind(request):
    """A server, an encoding, and whether the client looks for the server's other addresses."""
    scheme, encoding, discovery = request.param
    server = request.getfixturevalue("shared_https_server" if scheme == "https" else "shared_server")
    assert server.url.startswith(f"{scheme}://")
    return server, encoding, discovery


@pytest.fixture(scope="session")
def db(kind):
    """A connection of each kind: in each encoding, with and without discovery; some over HTTPS."""
    server, encoding, discovery = kind
    with calls.connect(server.url, encoding, discovery) as connection:
        yield connection
