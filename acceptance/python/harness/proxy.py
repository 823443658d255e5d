"""A TCP proxy that loses replies: the request arrives, the answer does not."""

import socket
import threading
from urllib.parse import urlsplit


class ReplyCutter:
    """Forwards bytes to `url` and cuts the connection when a reply to `marker` comes back.

    It cuts the first `cuts` of them; later ones pass. The request has been answered by then, so
    the server has done what was asked, and the client cannot know. `requests` counts how often
    `marker` was seen on its way to the server, `replies_cut` how many replies were lost.
    """

    def __init__(self, url, marker, cuts):
        self._upstream = (urlsplit(url).hostname, urlsplit(url).port)
        self._marker = marker
        self._cuts_left = cuts
        self._lock = threading.Lock()
        self.requests = 0
        self.replies_cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Closing alone does not wake the thread that is blocked in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = socket.create_connection(self._upstream)
        # Set while a marked request is under way on this connection.
        marked = threading.Event()
        back = threading.Thread(target=self._copy_replies, args=(server, client, marked), daemon=True)
        back.start()
        self._copy_requests(client, server, marked)
        back.join()
        client.close()
        server.close()

    def _copy_requests(self, client, server, marked):
        # The end of the last chunk is kept, so that a marker cut in two is seen, and seen once.
        tail = b""
        while chunk := receive(client):
            window = tail + chunk
            seen = window.count(self._marker)
            if seen:
                with self._lock:
                    self.requests += seen
                marked.set()
            tail = window[len(window) - len(self._marker) + 1 :] if len(window) >= len(self._marker) else window
            if not send(server, chunk):
                break
        shut(server, socket.SHUT_WR)

    def _copy_replies(self, server, client, marked):
        while chunk := receive(server):
            if marked.is_set():
                marked.clear()
                with self._lock:
                    cut = self._cuts_left > 0
                    self._cuts_left -= cut
                    self.replies_cut += cut
                if cut:
                    break
            if not send(client, chunk):
                break
        shut(client, socket.SHUT_RDWR)
        shut(server, socket.SHUT_RDWR)


def receive(source):
    try:
        return source.recv(65536)
    except OSError:
        return b""


def send(target, chunk):
    try:
        target.sendall(chunk)
    except OSError:
        return False
    return True


def shut(end, how):
    try:
        end.shutdown(how)
    except OSError:
        pass
