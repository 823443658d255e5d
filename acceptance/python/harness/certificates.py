"""A certificate for the servers of the tests, and the authority that it is from."""

import os
from pathlib import Path


def directory():
    """Where `cargo xtask test` has put them."""
    path = os.environ.get("KJOB_TLS_DIR")
    if not path:
        raise RuntimeError("set KJOB_TLS_DIR to a directory with authority.pem, server.pem and server.key")
    return Path(path)


def authority():
    """The file that clients are to trust."""
    return str(directory() / "authority.pem")


def server_arguments():
    """What makes a server speak HTTPS."""
    return ("--tls-cert", str(directory() / "server.pem"), "--tls-key", str(directory() / "server.key"))
