"""The wire between client and server: passes bytes on unchanged, remembers them, lets a test act on them."""

import contextlib
import math
import re
import select
import socket
import socketserver
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Exchange:
    """One request and what came back; `status` stays None when nobody answered."""

    method: str
    target: str
    headers: dict
    sent: bytes = b""
    began: float = 0.0
    ended: float = math.inf
    status: int | None = None
    reply_headers: dict = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    cut: str = ""  # why it was not answered in full, as far as this side can tell

    @property
    def token(self):
        return self.oauth("oauth_token")

    def oauth(self, name):
        """The value of one OAuth parameter as it stands in the header, still percent-encoded."""
        found = re.search(rf'\b{name}="([^"]*)"', self.headers.get("authorization", ""))
        return found and found.group(1)

    @property
    def is_metadata(self):
        return not re.search("/metadata/+status/", self.target)


class Relay:
    """Listens on 127.0.0.1 and forwards to `upstream`, an (address, port), or to nobody while it is None.

    Each token's requests leave from a loopback address of its own, as each machine has one.
    `before[token]` is called with a request read but not yet passed on; `halfway[token]` with
    its first body bytes read from the server and not yet given to the client.
    """

    def __init__(self):
        self.upstream = None
        self.before = {}
        self.halfway = {}
        self.trouble = []
        self._seen = []
        self._sources = {}
        self._lock = threading.Lock()
        relay = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):  # what was seen until one side went away is on record
                    relay._serve(self.request)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._listener = Listener(("127.0.0.1", 0), Connection)
        self.port = self._listener.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/MAAS/metadata/"
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()

    def everything(self):
        with self._lock:
            return list(self._seen)

    def of(self, token):
        """The metadata requests made with this token, in order."""
        return [x for x in self.everything() if x.token == token and x.is_metadata]

    def events_of(self, token):
        """The events posted with this token, in order."""
        return [x for x in self.everything() if x.token == token and not x.is_metadata]

    def _source(self, token):
        with self._lock:
            number = self._sources.setdefault(token, len(self._sources) + 1)
        return (f"127.1.{number >> 8}.{number & 255}", 0)

    def _act(self, actions, exchange):
        """Does what a test asked for at this point; what goes wrong there is kept for the test to find."""
        try:
            if exchange.token in actions:
                actions[exchange.token](exchange)
        except Exception as error:
            self.trouble.append(error)
            raise ConnectionAbortedError from error

    def _serve(self, client):
        """One connection of a client, with one of ours to the server for as long as it lasts."""
        requests = client.makefile("rb")
        with contextlib.ExitStack() as opened:
            server = answers = None
            while True:
                if server is not None:  # a server that closes an idle connection is seen to do so
                    ready, _, _ = select.select([client, server], [], [])
                    if client not in ready:
                        return
                head, start, headers = read_head(requests)
                if not head:
                    return
                method, target = start.split(" ")[:2]
                exchange = Exchange(method, target, headers, began=time.monotonic())
                with self._lock:
                    self._seen.append(exchange)
                body = exchange.sent = requests.read(int(headers.get("content-length", 0)))
                try:
                    self._act(self.before, exchange)
                    if server is None:
                        if self.upstream is None:
                            exchange.cut = "no server"
                            return
                        source = self._source(exchange.token)
                        server = socket.create_connection(self.upstream, source_address=source)
                        opened.enter_context(server)
                        answers = server.makefile("rb")
                    server.sendall(head + body)
                    if not self._answer(exchange, answers, client):
                        return
                except OSError as error:
                    exchange.cut = repr(error)
                    raise

    def _answer(self, exchange, answers, client):
        """Passes one answer on; says whether the connection can carry another."""
        head, start, headers = read_head(answers)
        if not head:
            exchange.cut = "the server closed the connection without an answer"
            return False
        exchange.status = int(start.split(" ")[1])
        exchange.reply_headers = headers
        client.sendall(head)
        bodiless = exchange.method == "HEAD" or exchange.status in (204, 304)
        left = 0 if bodiless else int(headers.get("content-length", 1 << 62))
        while left > 0:
            piece = answers.read1(min(left, 65536))
            if not piece:
                exchange.cut = "the server closed the connection within the body"
                return False
            if not exchange.body:
                self._act(self.halfway, exchange)
            exchange.body += piece
            left -= len(piece)
            client.sendall(piece)
        exchange.complete, exchange.ended = True, time.monotonic()
        return headers.get("connection", "").lower() != "close"


def read_head(stream):
    """The bytes of a head up to its empty line, its first line, and its headers by lower-case name."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline(65536)
        if not line:
            return b"", "", {}
        head += line
    start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return head, start, {name.strip().lower(): value.strip() for name, _, value in pairs}
