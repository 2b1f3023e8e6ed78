"""Where the checks work: a server behind a relay, nodes, machines, and the expectations they share."""

import email.utils
import functools
import itertools
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import payloads
from authority import Authority
from machine import Machine
from relay import Relay
from server import Node, Server

BASE = "/MAAS/metadata/2012-03-01/"
SIX = [
    BASE + item
    for item in (
        "meta-data/instance-id",
        "meta-data/instance-id",
        "meta-data/local-hostname",
        "meta-data/public-keys",
        "meta-data/vendor-data",
        "user-data",
    )
]
YEARS = 10 * 365 * 86400
CHECKS = []


def check(*cases):
    """Makes a function a check, or one check for each case: a name alone, or a name and other arguments."""

    def register(function):
        for case in cases:
            name, *arguments = (case, case) if isinstance(case, str) else case
            CHECKS.append((f"{function.__name__}[{name}]", functools.partial(function, *arguments)))
        if not cases:
            CHECKS.append((function.__name__, function))
        return function

    return register


def once(method):
    """A property worked out by whoever asks first, while all others wait for it."""
    lock = threading.Lock()
    known = []

    @functools.wraps(method)
    def get(lab):
        with lock:
            if not known:
                known.append(method(lab))
            return known[0]

    return property(get)


class Lab:
    def __init__(self, suite, root, binary, work):
        self.suite, self.root, self.binary, self.work = suite, root, binary, work
        self.relay = Relay()
        self.server = Server(binary, os.path.join(work, "server"), self.relay).start()
        self.nodes = []
        self.refused = set()  # the tokens that have to see a 401, None for no token
        self.numbers = itertools.count(1)

    def node(self, name, server=None, **has):
        node = Node(server or self.server, name.replace("_", "-"), **has)
        self.nodes.append(node)
        return node

    def another_server(self, listen="127.0.0.1:0", relayed=True, flags=()):
        home = os.path.join(self.work, f"server-{next(self.numbers)}")
        return Server(self.binary, home, Relay() if relayed else None, listen=listen, flags=flags).start()

    def authority(self):
        """A private CA that nobody trusts yet."""
        return Authority(os.path.join(self.work, f"ca-{next(self.numbers)}"))

    def machine(self):
        return Machine(self.root, self.work)

    def ask(self, node, preseed=None, **how):
        """One run of the datasource on a new machine."""
        return self.machine().ask(preseed or node.preseed(), **how)

    @once
    def happy(self):
        """Two nodes with different everything, asking at the same time: [(node, result, exchanges)]."""
        one, two, three = (payloads.public_key(n, f"{n}@lab") for n in (11, 12, 21))
        vendors = [payloads.VENDOR[name][0] for name in ("a_map_with_a_list", "a_map_with_text")]
        nodes = [
            self.node("alpha", keys=[one, two], user=payloads.noise(1 << 20), vendor=vendors[0]),
            self.node("beta", keys=[three], user=payloads.SCRIPT, vendor=vendors[1]),
        ]
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(self.ask, nodes))
        return [(node, result, self.relay.of(node.token)) for node, result in zip(nodes, results)]

    @once
    def refusals(self):
        """Clients with credentials that are not good, all at once: {case: (node, result, exchanges)}."""
        other = self.node("refused-other", user=payloads.SCRIPT)

        def try_one(case, spoil):
            node = self.node(f"refused-{case}", user=payloads.SCRIPT, keys=[payloads.public_key(7, case)])
            preseed, changed = node.preseed(), spoil(node, other)
            token = changed.get("token_key", node.token)
            self.refused.add(token)
            if case == "revoked_token":
                node.revoke()
            # New clients make just five tries in six seconds; in fifteen even a busy machine sees five.
            result = self.ask(node, preseed, max_wait=15, **changed)
            return node, result, self.relay.of(token)

        with ThreadPoolExecutor(len(SPOILT)) as pool:
            return dict(zip(SPOILT, pool.map(try_one, SPOILT, SPOILT.values())))


# How credentials come to be refused: what replaces a node's own, given the node and another.
SPOILT = {
    "wrong_secret": lambda node, other: dict(token_secret="w" * 32),
    "secret_in_other_case": lambda node, other: dict(token_secret=node.secret.swapcase()),
    "secret_cut_short": lambda node, other: dict(token_secret=node.secret[:-1]),
    "another_nodes_secret": lambda node, other: dict(token_secret=other.secret),
    "wrong_consumer": lambda node, other: dict(consumer_key="c" * 18),
    "another_nodes_consumer": lambda node, other: dict(consumer_key=other.consumer),
    "unknown_token": lambda node, other: dict(token_key="t" * 18),
    "revoked_token": lambda node, other: {},
    "no_signature": lambda node, other: dict(consumer_key=None, token_key=None, token_secret=None),
}


def equal(got, expected, what):
    assert got == expected, f"{what}: got {brief(got)}, expected {brief(expected)}"


def brief(value):
    shown = repr(bytes(value) if isinstance(value, bytearray) else value)
    return shown if len(shown) <= 400 else f"{shown[:300]}… ({len(shown)} long)"


def same_bytes(got, expected, what):
    if got != expected:
        pairs = enumerate(zip(got, expected))
        at = next((i for i, (a, b) in pairs if a != b), min(len(got), len(expected)))
        sizes = f"{len(got)} bytes for {len(expected)}"
        raise AssertionError(f"{what}: {sizes}, the first difference at byte {at}")


def statuses(exchanges):
    return [x.status for x in exchanges]


def targets(exchanges):
    return [x.target for x in exchanges]


def six_good_requests(exchanges):
    equal([(x.method, x.target) for x in exchanges], [("GET", path) for path in SIX], "requests")
    equal(statuses(exchanges), [200] * 6, "statuses")


def got_its_own(node, result):
    """The client ended with this node's five things and nothing else, byte for byte."""
    equal(result.ok, True, "DataSourceMAAS found its data")
    equal(result.instance_id, node.id, "instance-id")
    metadata = dict(result.metadata)
    keys = metadata.pop("public-keys", None)
    equal(metadata, {"instance-id": node.id, "local-hostname": node.hostname}, "meta-data")
    equal(sorted((keys or "").splitlines()), sorted(node.keys), "public-keys")
    equal(sorted(result.keys), sorted(node.keys), "the keys that cloud-init would install")
    same_bytes(result.file("user-data") or b"", node.user or b"", "user-data")
    equal(bool(result.vendor), bool(node.vendor), "has vendor-data")


def imf_date(exchange):
    """The time of the answer's Date, which has to be an IMF-fixdate."""
    date = exchange.reply_headers.get("date", "")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date), f"Date: {date!r}"
    return email.utils.parsedate_to_datetime(date).timestamp()
