"""Fixtures: servers, and a connection of each kind that the official client can make."""

import pytest

from harness import calls
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


@pytest.fixture(
    scope="session",
    params=[(encoding, discovery) for encoding in calls.ENCODINGS for discovery in (True, False)],
    ids=lambda kind: f"{kind[0]}-{'discovery' if kind[1] else 'direct'}",
)
def db(request, shared_server):
    """A connection to the shared server, in each encoding, with and without discovery."""
    encoding, discovery = request.param
    with calls.connect(shared_server.url, encoding, discovery) as connection:
        yield connection
