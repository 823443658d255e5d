"""A database for nodes: a schema of its own on the PostgreSQL that `KJOB_TEST_POSTGRES` names."""

import os
import shutil
import subprocess
import uuid


def fresh():
    """The URL of a schema with kjob's tables in it and nothing else."""
    server = os.environ.get("KJOB_TEST_POSTGRES")
    psql = shutil.which("psql")
    if not server or not psql:
        raise RuntimeError("set KJOB_TEST_POSTGRES to the URL of a PostgreSQL server, and install psql")
    name = f"acceptance_{uuid.uuid4().hex}"
    command = f"CREATE SCHEMA {name}"
    subprocess.run([psql, "--quiet", "--dbname", server, "--command", command], check=True)
    url = f"{server}{'&' if '?' in server else '?'}options=-c%20search_path%3D{name}"
    binary = os.environ["KJOB_SERVER_BIN"]
    subprocess.run([binary, "migrate", "--store", url], check=True, stdout=subprocess.DEVNULL)
    return url
