"""The real server as a child process, and requests to it."""

import base64
import concurrent.futures
import http.client
import json
import os
import socket
import subprocess
import threading

# Over which many jobs are submitted.
CONNECTIONS = 64

ACCOUNTS = {"ann": "user", "bob": "user", "root": "admin"}


class Server:
    password = "correct horse"

    def __init__(self, directory, *arguments):
        program = os.environ["KJOB_SERVER_BIN"]
        users = directory / "users.toml"
        for name, role in ACCOUNTS.items():
            command = [program, "user", "add", name, "--role", role, "--password-stdin", "--users-file", users]
            subprocess.run(command, input=self.password, text=True, check=True, stdout=subprocess.DEVNULL)
        config = directory / "kjob.toml"
        # A command, for lines on its error output and bytes that are no text.
        config.write_text(
            "demo = true\n[[route]]\nendpoint = \"/tools/bytes\"\nkind = \"command\"\n"
            "command = [\"sh\", \"-c\", \"echo '<i>reading</i> the table' >&2; cat > /dev/null; printf '\\\\000\\\\001PNG\\\\377'\"]\n"
        )
        command = [
            program, "--listen", "127.0.0.1:0", "--config", config, "--data-dir", directory / "data",
            "--users-file", users, *arguments,
        ]
        self._log = open(directory / "log", "w")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KJOB_")}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        line = self._process.stdout.readline()
        assert "listening on" in line, (line, (directory / "log").read_text())
        self.url = line.split()[-1]
        self._connections = {}

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def call(self, method, path, body=None, user="ann"):
        """A request with credentials; what the answer says."""
        connection = self._connections.get(user)
        if not connection:
            connection = self._connections[user] = http.client.HTTPConnection(self.url.split("//")[1], timeout=60)
        headers = {"Authorization": self._credentials(user), "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 300, (answer.status, text)
        return json.loads(text)

    def submit(self, endpoint, payload, user="ann", **options):
        return self.call("POST", "/jobs", {"endpoint": endpoint, "payload": payload, **options}, user)["job_id"]

    def ended(self, job, user="root"):
        """The job, once it has ended."""
        found = self.call("GET", f"/jobs/{job}?wait=60", user=user)
        assert found["status"] != "RUNNING", found
        return found

    def fill(self, count, user="ann"):
        """Submits many small jobs: over a few connections, many requests at a time on each."""
        body = b'{"endpoint":"/demo/echo","payload":{"message":"m"}}'
        host = self.url.split("//")[1]
        head = (
            f"POST /jobs HTTP/1.1\r\nHost: {host}\r\nAuthorization: {self._credentials(user)}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body

        def some(numbers):
            with socket.create_connection(host.split(":"), timeout=120) as connection:
                writing = threading.Thread(target=connection.sendall, args=(request * len(numbers),))
                writing.start()
                answers = connection.makefile("rb")
                for _ in numbers:
                    status = answers.readline()
                    assert status.startswith(b"HTTP/1.1 202"), status
                    length = 0
                    while (line := answers.readline()) != b"\r\n":
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                    answers.read(length)
                writing.join()

        with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(some, [range(at, count, CONNECTIONS) for at in range(CONNECTIONS)]))

    def _credentials(self, user):
        return "Basic " + base64.b64encode(f"{user}:{self.password}".encode()).decode()
