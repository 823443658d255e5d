"""The real `kjob-server` binary as a child process on a loopback address."""

import os
import queue
import re
import signal
import subprocess
import threading

from harness import certificates

READY = re.compile(r"listening on (https?://\S+)")
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30


class Server:
    """One server process. `url` is its base URL.

    `address` is a host without a port: the system picks a free one. With `tls` it speaks HTTPS, with
    the certificate that `harness.certificates` has.
    """

    def __init__(self, data_dir, address="127.0.0.1", arguments=(), tls=False):
        self.killed = False
        binary = os.environ.get("KJOB_SERVER_BIN")
        if not binary:
            raise RuntimeError("set KJOB_SERVER_BIN to the path of a built kjob-server")
        if tls:
            arguments = (*arguments, *certificates.server_arguments())
        self.process = subprocess.Popen(
            [binary, "--listen", f"{address}:0", "--data-dir", str(data_dir), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        # The pipe is read to its end on a thread of its own: a server that prints more than its
        # ready line must never block on a full pipe, and a silent one must not block the test.
        self._lines = queue.Queue()
        threading.Thread(target=self._read_stdout, daemon=True).start()
        try:
            self.url = self._wait_ready()
        except BaseException:
            self.kill()
            raise

    def _read_stdout(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _wait_ready(self):
        try:
            line = self._lines.get(timeout=START_SECONDS_MAX)
        except queue.Empty:
            raise RuntimeError(f"no ready line within {START_SECONDS_MAX} s") from None
        if line is None:
            raise RuntimeError(f"the server ended with {self.process.wait()} before it was ready")
        found = READY.search(line)
        if not found:
            raise RuntimeError(f"not a ready line: {line!r}")
        return found.group(1).rstrip("/")

    def terminate(self):
        """Asks for a drain (SIGTERM) and returns at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """Waits for the end of the process and returns its exit code."""
        return self.process.wait(timeout=STOP_SECONDS_MAX)

    def kill(self):
        """Ends the process as a power cut would (SIGKILL): no handler of its own runs."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Stops it in the ordinary way; anything but exit code 0 is a failure of the server."""
        if self.killed:
            return
        if self.process.poll() is None:
            self.terminate()
            try:
                code = self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(
                    f"the server did not stop within {STOP_SECONDS_MAX} s of SIGTERM"
                ) from None
        else:
            code = self.process.returncode
        assert code == 0, f"the server ended with {code}"
