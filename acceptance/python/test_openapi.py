"""The server held against its OpenAPI document, by requests that a tool makes up from it."""

import os
import pathlib
import subprocess

import pytest
import requests

CONFIG = pathlib.Path(__file__).parents[1] / "openapi" / "schemathesis.toml"
SECONDS_MAX = 25


@pytest.fixture
def seeded(start_server):
    """A server with a few jobs of each kind, so that some of what is asked for is there.

    One of them does not end. The tool asks to wait for it for years, and takes an answer that is not there after
    ten seconds for none: so the server lets nobody wait for longer than one.
    """
    server = start_server(arguments=("--max-wait", "1s"))
    for endpoint, payload in [
        ("/demo/echo", {"message": "hello"}),
        ("/demo/fail", {"message": "no"}),
        ("/demo/sleep", {"millis": 3_600_000}),
    ]:
        request = {"endpoint": endpoint, "payload": payload, "job_tag": endpoint.strip("/").replace("/", "-")}
        assert requests.post(f"{server.url}/jobs", json=request, timeout=30).status_code == 202
    yield server
    requests.delete(f"{server.url}/jobs/tag:demo-sleep", timeout=30)


def test_the_server_does_what_its_description_says(seeded, tmp_path):
    program = os.environ["KJOB_SCHEMATHESIS_BIN"]
    ran = subprocess.run(
        [
            program,
            f"--config-file={CONFIG}",
            "run",
            f"{seeded.url}/openapi.json",
            "--checks=all",
            "--phases=examples,coverage,fuzzing,stateful",
            "--continue-on-failure",
            f"--max-time={SECONDS_MAX}",
            "--request-timeout=10",
            "--seed=1",
            "--no-color",
        ],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=20 * SECONDS_MAX,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
