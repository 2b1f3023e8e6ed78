"""What the real cloud-init makes of the built server, check by check.

Runs as root in network, mount and pid namespaces of its own: scripts/real-client sets them up.
usage: check.py SUITE ROOT BINARY WORK [WORD]     WORD: only the checks with it in their name
The numbers in the docstrings are those of section D of facts/cloud-init.md.
"""

import email.utils
import functools
import http.client
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import payloads
from machine import Machine
from relay import Relay
from server import Node, Server

BASE = "/MAAS/metadata/2012-03-01/"
SIX = [
    BASE + item
    for item in (
        "meta-data/instance-id", "meta-data/instance-id", "meta-data/local-hostname",
        "meta-data/public-keys", "meta-data/vendor-data", "user-data",
    )
]
YEARS = 10 * 365 * 86400
CHECKS = []


def check(*cases):
    """Makes a function a check, or one check for each of the cases, which are (name, argument…)."""

    def register(function):
        for name, *arguments in cases or [("",)]:
            title = f"{function.__name__}[{name}]" if name else function.__name__
            CHECKS.append((title, functools.partial(function, *arguments)))
        return function

    return register


def equal(got, expected, what):
    assert got == expected, f"{what}: got {brief(got)}, expected {brief(expected)}"


def brief(value):
    shown = repr(bytes(value) if isinstance(value, bytearray) else value)
    return shown if len(shown) <= 400 else f"{shown[:300]}… ({len(value)} long)"


def statuses(exchanges):
    return [x.status for x in exchanges]


def targets(exchanges):
    return [x.target for x in exchanges]


class Lab:
    """A server behind a relay, and as many nodes and machines as the checks ask for."""

    def __init__(self, suite, root, binary, work):
        self.suite, self.root, self.binary, self.work = suite, root, binary, work
        self.relay = Relay()
        self.server = Server(binary, os.path.join(work, "main"), self.relay).start()
        self.nodes = []
        self.refused = set()  # the tokens that have to see a 401, None for no token
        self.others = itertools.count(1)

    def node(self, name, server=None, **has):
        node = Node(server or self.server, name, **has)
        self.nodes.append(node)
        return node

    def another_server(self, listen="127.0.0.1:0", relayed=True):
        home = os.path.join(self.work, f"server-{next(self.others)}")
        return Server(self.binary, home, Relay() if relayed else None, listen).start()

    def machine(self):
        return Machine(self.root, self.work)

    def ask(self, node, preseed=None, **how):
        """One run of the datasource on a new machine."""
        machine = self.machine()
        return machine.ask(preseed or node.preseed(), **how)

    @functools.cached_property
    def happy(self):
        """Two nodes with different everything, asking at the same time: [(node, result, exchanges)]."""
        keys = [[payloads.public_key(n, f"{n}@lab") for n in some] for some in ((11, 12), (21,))]
        nodes = [
            self.node("alpha", keys=keys[0], user=payloads.noise(1 << 20), vendor=payloads.VENDOR["a_map_with_a_list"][0]),
            self.node("beta", keys=keys[1], user=payloads.SCRIPT, vendor=payloads.VENDOR["a_map_with_text"][0]),
        ]
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(self.ask, nodes))
        return [(node, result, self.relay.of(node.token)) for node, result in zip(nodes, results)]

    @functools.cached_property
    def refusals(self):
        """Clients with credentials that are not good, all at once: {case: (node, result, exchanges)}."""
        other = self.node("refused-other", user=payloads.SCRIPT)
        unsigned = dict(consumer_key=None, token_key=None, token_secret=None)
        changes = {
            "wrong_secret": lambda node: dict(token_secret="w" * 32),
            "secret_in_other_case": lambda node: dict(token_secret=node.secret.swapcase()),
            "secret_cut_short": lambda node: dict(token_secret=node.secret[:-1]),
            "another_nodes_secret": lambda node: dict(token_secret=other.secret),
            "wrong_consumer": lambda node: dict(consumer_key="c" * 18),
            "another_nodes_consumer": lambda node: dict(consumer_key=other.consumer),
            "unknown_token": lambda node: dict(token_key="t" * 18),
            "revoked_token": lambda node: {},
            "no_signature": lambda node: unsigned,
        }

        def try_one(case):
            node = self.node(f"refused-{case.replace('_', '-')}", user=payloads.SCRIPT, keys=[payloads.public_key(7, case)])
            preseed, changed = node.preseed(), changes[case](node)
            token = changed.get("token_key", node.token)
            self.refused.add(token)
            if case == "revoked_token":
                node.revoke()
            result = self.ask(node, preseed, max_wait=6, **changed)
            return node, result, self.relay.of(token)

        with ThreadPoolExecutor(len(changes)) as pool:
            return dict(zip(changes, pool.map(try_one, changes)))


REFUSALS = (
    "wrong_secret", "secret_in_other_case", "secret_cut_short", "another_nodes_secret", "wrong_consumer",
    "another_nodes_consumer", "unknown_token", "revoked_token", "no_signature",
)


def got_its_own(node, result):
    """The client ended with this node's five things and nothing else, byte for byte."""
    equal(result.ok, True, "DataSourceMAAS found its data")
    equal(result.instance_id, node.id, "instance-id")
    expected = {"instance-id": node.id, "local-hostname": node.hostname, "public-keys": result.metadata.get("public-keys")}
    equal(result.metadata, expected, "meta-data")
    equal(sorted(result.keys), sorted(node.keys), "public keys")
    same_bytes(result.file("user-data") or b"", node.user or b"", "user-data")
    equal(bool(result.vendor), bool(node.vendor), "has vendor-data")


def same_bytes(got, expected, what):
    if got != expected:
        at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
        raise AssertionError(f"{what}: {len(got)} bytes for {len(expected)}, the first difference at {at}")


def six_good_requests(exchanges):
    equal([(x.method, x.target) for x in exchanges], [("GET", path) for path in SIX], "requests")
    equal(statuses(exchanges), [200] * 6, "statuses")


# --- What a node gets -------------------------------------------------------------------------------


@check(("alpha", 0), ("beta", 1))
def a_node_gets_its_own_data_and_nothing_else(which, lab):
    """D1, D7: instance-id, hostname, keys, vendor-data and user-data as stored, with two nodes asking at once."""
    node, result, _ = lab.happy[which]
    got_its_own(node, result)
    expected = payloads.VENDOR[("a_map_with_a_list", "a_map_with_text")[which]][1]
    equal(result.vendor, expected, "vendor-data as cloud-init reads it")


@check(("alpha", 0), ("beta", 1))
def the_client_makes_six_requests_in_order(which, lab):
    """D1: exactly the six GETs, each answered 200; the User-Agents are those of this version."""
    _, result, exchanges = lab.happy[which]
    six_good_requests(exchanges)
    agents = [x.headers["user-agent"].split("/")[0] for x in exchanges]
    old = result.version.startswith("22.")
    equal(agents, ["Cloud-Init"] + [("python-requests" if old else "Cloud-Init")] * 5, "User-Agents")


@check()
def bodies_are_exact(lab):
    """D2: no trailing newline, an exact Content-Length, and the headers that every answer carries."""
    for node, _, exchanges in lab.happy:
        bodies = [bytes(x.body) for x in exchanges]
        equal(bodies[:3], [node.id.encode()] * 2 + [node.hostname.encode()], "instance-id and local-hostname")
        equal(sorted(bodies[3].decode().split("\n")), sorted(node.keys), "public-keys")
        same_bytes(bodies[4], node.vendor, "vendor-data on the wire")
        same_bytes(bodies[5], node.user, "user-data on the wire")
        kinds = [x.reply_headers.get("content-type", "").split(";")[0] for x in exchanges]
        equal(kinds, ["text/plain"] * 4 + ["application/x-yaml", "application/octet-stream"], "Content-Types")
        for x in exchanges:
            has = x.reply_headers
            assert x.complete, f"{x.target}: the body was cut"
            equal(has.get("content-length"), str(len(x.body)), f"{x.target} Content-Length")
            equal(has.get("cache-control"), "no-store", f"{x.target} Cache-Control")
            equal(has.get("vary", "").lower(), "authorization", f"{x.target} Vary")
            assert has.get("x-request-id"), f"{x.target}: no X-Request-Id"
            imf_date(x)


def imf_date(exchange):
    """The answer's Date, which has to be an IMF-fixdate."""
    date = exchange.reply_headers.get("date", "")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date), f"Date: {date!r}"
    return email.utils.parsedate_to_datetime(date).timestamp()


@check()
def plaintext_with_an_empty_consumer_secret_is_accepted(lab):
    """D3: the header holds `%26SECRET`, as MAAS's credentials make it."""
    for node, _, exchanges in lab.happy:
        signed = {(x.oauth("oauth_signature_method"), x.oauth("oauth_signature")) for x in exchanges}
        equal(signed, {("PLAINTEXT", f"%26{node.secret}")}, "signatures")


@check()
def the_preseed_is_what_cloud_init_reads(lab):
    """D42 in part: `#cloud-config` first, the list on one line, exactly four keys; both forms give the same datasource."""
    node, result, _ = lab.happy[0]
    credentials = dict(metadata_url=lab.relay.url, consumer_key=node.consumer, token_key=node.token, token_secret=node.secret)
    equal(result.given, credentials, "datasource.MAAS of cloud-config")
    equal(lab.machine().ask(node.preseed("cloud-cfg-d"), max_wait=0).given, credentials, "datasource.MAAS of cloud-cfg-d")
    assert node.preseed().startswith("#cloud-config"), f"cloud-config begins with {node.preseed()[:40]!r}"
    for form in ("cloud-config", "cloud-cfg-d"):
        lists = re.findall("^datasource_list:.*$", node.preseed(form), re.M)
        equal(lists, ["datasource_list: [ MAAS ]"], f"datasource_list of {form}")


@check(*((name, name) for name in payloads.ARRIVE))
def user_data_arrives_byte_for_byte(name, lab):
    """D29, D30: as application/octet-stream, never decoded, never re-encoded."""
    node = lab.node(f"arrive-{name.replace('_', '-')}", user=payloads.ARRIVE[name])
    result = lab.ask(node)
    got_its_own(node, result)
    exchanges = lab.relay.of(node.token)
    six_good_requests(exchanges)
    same_bytes(bytes(exchanges[5].body), node.user, "user-data on the wire")
    has = exchanges[5].reply_headers
    equal((has.get("content-type"), has.get("content-encoding")), ("application/octet-stream", None), "Content-Type, -Encoding")


@check(*((name, name) for name in payloads.VENDOR))
def vendor_data_is_what_the_operator_wrote(name, lab):
    """D34, D35: a map as stored, a bare `#cloud-config` wrapped; the client reads the text unchanged."""
    stored, read = payloads.VENDOR[name]
    node = lab.node(f"vendor-{name.replace('_', '-')}", vendor=stored)
    result = lab.ask(node)
    got_its_own(node, result)
    equal(result.vendor, read, "vendor-data as cloud-init reads it")
    answer = lab.relay.of(node.token)[4]
    equal(answer.reply_headers.get("content-type"), "application/x-yaml; charset=utf-8", "Content-Type")
    if stored.startswith(b"cloud-init:"):
        same_bytes(bytes(answer.body), stored, "vendor-data on the wire")


@check(*((name, name) for name in payloads.KEYS))
def public_keys_arrive_one_a_line(name, lab):
    """D36: none, one, fifty, with options, with a UTF-8 comment; in the same order each time."""
    node = lab.node(f"keys-{name.replace('_', '-')}", keys=payloads.KEYS[name])
    results = [lab.ask(node) for _ in range(2)]
    for result in results:
        got_its_own(node, result)
    equal(results[0].keys, results[1].keys, "order of the keys")


@check(*((name.replace("_", "-"), name) for name in payloads.HOSTNAMES))
def a_hostname_arrives_as_given(name, lab):
    """D37."""
    node = lab.node(f"host-{name.replace('_', '-')}", hostname=payloads.HOSTNAMES[name])
    got_its_own(node, lab.ask(node))


@check()
def a_node_with_nothing_takes_six_requests(lab):
    """D21: no keys, no vendor-data, no user-data are three empty 200s, and no version asks for anything twice."""
    node = lab.node("bare")
    result = lab.ask(node)
    got_its_own(node, result)
    exchanges = lab.relay.of(node.token)
    six_good_requests(exchanges)
    equal([bytes(x.body) for x in exchanges[3:]], [b""] * 3, "optional bodies")
    equal([x.reply_headers.get("content-length") for x in exchanges[3:]], ["0"] * 3, "their Content-Length")


# --- Who is let in ----------------------------------------------------------------------------------


@check(*((case, case) for case in REFUSALS))
def bad_credentials_end_with_nothing(case, lab):
    """D6, D7: the client tries until max_wait, sees only 401s that mend a clock and tell nothing, and has no data."""
    node, result, exchanges = lab.refusals[case]
    equal((result.ok, result.file("user-data"), result.vendor), (False, None, None), "what the client ended with")
    assert not result.metadata, f"meta-data: {result.metadata}"
    equal({(x.target, x.status) for x in exchanges}, {(SIX[0], 401)}, "requests and their answers")
    assert len(exchanges) >= 5, f"only {len(exchanges)} tries in six seconds"
    code = "credentials_missing" if case == "no_signature" else "credentials_refused"
    for x in exchanges:
        equal(x.reply_headers.get("www-authenticate"), 'OAuth realm="nodeinit"', "WWW-Authenticate")
        assert abs(imf_date(x) - time.time()) < 300, f"Date is off: {x.reply_headers['date']}"
        assert code in x.body.decode(), f"no {code} in {x.body.decode()!r}"


@check()
def every_refusal_says_the_same(lab):
    """D6: unknown, wrong, another's and revoked cannot be told apart."""
    said = {case: {bytes(x.body) for x in found[2]} for case, found in lab.refusals.items() if case != "no_signature"}
    equal(len(set().union(*said.values())), 1, f"different bodies of 401 in {said}")
    names = {frozenset(x.reply_headers) for case, found in lab.refusals.items() for x in found[2]}
    equal(len(names), 1, f"different headers of 401: {sorted(map(sorted, names))}")


@check()
def no_path_leads_to_another_node(lab):
    """D7: alpha's good signature never yields a byte of beta's, whatever the path, query or headers say."""
    (alpha, _, exchanges), (beta, _, _) = lab.happy
    signed = exchanges[0].headers["authorization"]
    secrets = [beta.hostname.encode(), beta.keys[0].encode(), beta.user, beta.secret.encode()]
    paths = [
        f"{BASE}meta-data/local-hostname?system_id={beta.id}", f"{BASE}user-data?node={beta.id}&op=get_preseed",
        f"/MAAS/metadata/latest/by-id/{beta.id}/meta-data/local-hostname", f"/MAAS/metadata/latest/by-id/{beta.id}/?op=get_preseed",
        f"/MAAS/metadata/status/{beta.id}", f"/MAAS/metadata/{beta.id}/user-data", f"{BASE}{beta.id}/user-data",
        f"{BASE}meta-data/../../latest/by-id/{beta.id}/user-data", f"{BASE}%2e%2e/%2e%2e/{beta.id}/user-data",
        f"{BASE}meta-data/%2e%2e/user-data/{beta.id}", f"/MAAS/metadata/curtin/2012-03-01/meta-data/local-hostname?{beta.id}",
        f"/v1/default/nodes/{beta.id}/user-data", f"/MAAS/metadata/latest/enlist-preseed/?system_id={beta.id}", f"/{beta.id}",
    ]
    headers = {"Authorization": signed, "X-Forwarded-For": "127.1.0.2", "X-System-Id": beta.id, "X-Node": beta.id, "X-Real-Ip": "127.1.0.2"}
    for path in paths:
        connection = http.client.HTTPConnection("127.0.0.1", lab.server.port, timeout=20)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.status < 500, f"GET {path}: {answer.status}"
        assert not any(secret in body for secret in secrets), f"GET {path}: {answer.status} with data of another node"


CLOCKS = [
    ("ten_years_ahead", YEARS, "", "+0000"), ("ten_years_behind", -YEARS, "", "+0000"),
    ("an_hour_ahead", 3600, "", "+0000"), ("an_hour_behind", -3600, "", "+0000"),
    ("in_tokyo", 0, "Asia/Tokyo", "+0900"), ("in_tokyo_an_hour_ahead", 3600, "Asia/Tokyo", "+0900"),
    ("in_tokyo_ten_years_behind", -YEARS, "Asia/Tokyo", "+0900"),
]


@check(*CLOCKS)
def a_clock_never_costs_a_401(offset, zone, utc_offset, lab):
    """D8, D10, D11: whatever the client's clock and zone, six 200s at the first try, and no skew is noted."""
    node = lab.node(f"clock-{offset}-{utc_offset[1:]}", user=payloads.SCRIPT)
    result = lab.ask(node, clock=offset, zone=zone)
    equal(result.utc_offset, utc_offset, "the client's time zone")
    exchanges = lab.relay.of(node.token)
    six_good_requests(exchanges)
    got_its_own(node, result)
    equal(result.skewed, False, "the client noted a clock skew")
    for x in exchanges:
        seen = int(x.oauth("oauth_timestamp")) - time.time()
        assert abs(seen - offset) < 900, f"the client's clock was not {offset} s off, but {seen:.0f}"


@check()
def a_token_revoked_before_user_data_stops_the_client(lab):
    """D27: five 200s, then a 401 without a body that helps, and nothing is applied; the next token works."""
    node = lab.node("revoked-midway", user=payloads.SCRIPT, keys=[payloads.public_key(5, "five")])
    old = node.token
    lab.refused.add(old)
    preseed = node.preseed()

    def revoke(exchange):
        if exchange.target == SIX[5]:
            del lab.relay.before[old]
            node.revoke()

    lab.relay.before[old] = revoke
    result = lab.ask(node, preseed)
    equal(lab.relay.trouble, [], "trouble on the relay")
    exchanges = lab.relay.of(old)
    equal(targets(exchanges)[:6], SIX, "requests")
    equal(set(targets(exchanges)[5:]), {SIX[5]}, "what was tried again")
    equal(statuses(exchanges), [200] * 5 + [401] * (len(exchanges) - 5), "statuses")
    assert not any(payloads.SCRIPT in x.body for x in exchanges[5:]), "user-data in a 401"
    equal((result.ok, result.file("user-data")), (False, None), "what the client ended with")
    node.renew()
    assert node.token != old, "the same token after its revocation"
    got_its_own(node, lab.ask(node))


# --- Where the server is ----------------------------------------------------------------------------


@check(("no_slash", "/MAAS/metadata"), ("one_slash", "/MAAS/metadata/"), ("two_slashes", "/MAAS/metadata//"),
       ("slashes_all_over", "//MAAS///metadata/"))
def slashes_in_the_metadata_url_do_not_matter(path, lab):
    """D14, D15: the same answers, and no redirect."""
    node = lab.node(f"slashes-{path.count('/')}", user=payloads.SCRIPT)
    result = lab.ask(node, metadata_url=f"http://127.0.0.1:{lab.relay.port}{path}")
    got_its_own(node, result)
    exchanges = lab.relay.of(node.token)
    equal([re.sub("/+", "/", target) for target in targets(exchanges)], SIX, "requests")
    equal(statuses(exchanges), [200] * 6, "statuses")


@check()
def latest_equals_2012_03_01(lab):
    """D16: item by item, signed by the client itself; another version is 404."""
    node = lab.node("latest", user=payloads.SCRIPT, keys=[payloads.public_key(6, "six")], vendor=payloads.VENDOR["a_map_with_text"][0])
    items = ["", "meta-data/", "meta-data/instance-id", "meta-data/local-hostname", "meta-data/public-keys", "meta-data/vendor-data", "user-data"]
    versions = ("2012-03-01", "latest", "2009-04-04")
    urls = [f"{lab.relay.url}{version}/{item}" for version in versions for item in items]
    result = lab.ask(node, urls=urls)
    answers = lab.relay.of(node.token)[6:]
    equal(targets(answers), [url.partition(str(lab.relay.port))[2] for url in urls], "requests")
    equal(list(result.fetched.values()), [200] * 14 + [404] * 7, "statuses as the client has them")
    count = len(items)
    for one, two, unknown in zip(answers[:count], answers[count : 2 * count], answers[2 * count :]):
        equal((two.body, two.reply_headers.get("content-type")), (one.body, one.reply_headers.get("content-type")), two.target)
        equal(bytes(unknown.body), b"Unknown metadata version: 2009-04-04", unknown.target)
    equal(bytes(answers[0].body), b"meta-data\nuser-data", "the listing of a version")
    equal(bytes(answers[1].body), b"instance-id\nlocal-hostname\npublic-keys\nvendor-data", "the listing of meta-data")


@check()
def an_ipv6_address_works(lab):
    """D17 without a VM: the server's own metadata_url with `[::1]` and its real port, with no relay between."""
    server = lab.another_server("[::1]:0", relayed=False)
    node = lab.node("ipv6", server, user=payloads.noise(4096), keys=[payloads.public_key(8, "eight")])
    preseed, before = node.preseed(), len(server.logged_statuses())
    result = lab.ask(node, preseed)
    equal(result.given["metadata_url"], f"http://[::1]:{server.port}/MAAS/metadata/", "metadata_url")
    got_its_own(node, result)
    server.stop()
    equal(server.logged_statuses()[before:], [200] * 6, "requests in the server's log")


@check()
def a_server_restarted_between_requests_is_not_noticed(lab):
    """D22: stopped and started before each of requests 3 to 6; six 200s all the same, for the old client too."""
    server = lab.another_server()
    node = lab.node("restarted", server, user=payloads.noise(70000), keys=[payloads.public_key(9, "nine")])
    count = itertools.count(1)
    server.relay.before[node.token] = lambda _: next(count) >= 3 and server.restart()
    result = lab.ask(node)
    equal(server.relay.trouble, [], "trouble with the restarts")
    six_good_requests(server.relay.of(node.token))
    got_its_own(node, result)
    server.stop()


@check()
def a_server_told_to_stop_ends_its_transfers_first(lab):
    """D22, D26: SIGTERM in the middle of 16 MiB; the client has them whole, and the server ends well."""
    server = lab.another_server()
    node = lab.node("drained", server, user=payloads.ARRIVE["sixteen_mib_of_noise"])

    def terminate(exchange):
        if exchange.target != SIX[5]:
            return
        server.process.send_signal(signal.SIGTERM)
        for _ in range(40):  # lets it begin to stop, where that shows; it has most of the body still to send
            try:
                socket.create_connection(("127.0.0.1", server.port)).close()
            except OSError:
                return
            time.sleep(0.05)

    server.relay.halfway[node.token] = terminate
    result = lab.ask(node)
    equal(server.relay.trouble, [], "trouble on the relay")
    six_good_requests(server.relay.of(node.token))
    got_its_own(node, result)
    equal(server.process.wait(timeout=60), 0, "exit code after SIGTERM")


@check()
def a_server_that_comes_up_late_is_waited_for(lab):
    """D23, D24: nobody answers the first three tries; then exactly six 200s."""
    server = lab.another_server()
    node = lab.node("late", server, user=payloads.SCRIPT)
    preseed = node.preseed()
    server.stop()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lab.ask, node, preseed)
        while len(server.relay.of(node.token)) < 3 and not asked.done():
            time.sleep(0.05)
        server.start()
        result = asked.result()
    exchanges = server.relay.of(node.token)
    waited = [x for x in exchanges if x.status is None]
    assert len(waited) >= 3, f"only {len(waited)} tries without an answer"
    equal({x.target for x in waited}, {SIX[0]}, "what was tried without an answer")
    six_good_requests(exchanges[len(waited) :])
    got_its_own(node, result)
    server.stop()


# --- All stages -------------------------------------------------------------------------------------


def booted_well(node, machine, boot, url):
    """All four stages ended without an error, from MAAS, and the machine is who it should be."""
    equal(boot.identified, 0, "ds-identify's exit code")
    assert re.search(r"^\s*datasource_list: \[ MAAS(, None)? \]$", boot.selected or "", re.M), f"ds-identify chose {boot.selected!r}"
    equal(boot.stages, [0] * 4, "exit codes of the stages")
    equal(boot.outcome, {"datasource": f"DataSourceMAAS [{url}]", "errors": []}, "result.json")
    equal(boot.instance_id, node.id, "instance-id")
    equal(boot.hostname, node.hostname.partition(".")[0], "hostname")
    equal(sorted(boot.authorized_keys.splitlines()), sorted(node.keys), "the default user's authorized_keys")
    same_bytes(boot.file("user-data.txt") or b"", node.user or b"", "user-data on the disk")


def mark(machine, name="ran"):
    text = machine.read(f"var/marks/{name}")
    return text and text.decode()


@check(*((name, name) for name in payloads.RUN))
def user_data_really_runs(name, lab):
    """D31: the mark that only this node's user-data makes appears, with cloud-cfg-d taken verbatim."""
    keys = [payloads.public_key(31, "first@lab"), payloads.public_key(32, "second@lab")]
    node = lab.node(f"run-{name.replace('_', '-')}", user=payloads.RUN[name], keys=keys)
    machine = lab.machine()
    boot = machine.boot(node.preseed("cloud-cfg-d"))
    booted_well(node, machine, boot, lab.relay.url)
    six_good_requests(lab.relay.of(node.token))
    equal(mark(machine), f"{node.id}\n", "the mark of the user-data")
    if "multipart" in name:
        equal(mark(machine, "configured"), f"{node.id}\n", "the mark of its second part")


@check()
def vendor_data_runs_and_user_data_overrides_it(lab):
    """D35: both parts of a vendor-data list run, and where the two disagree the user's word holds."""
    node = lab.node("vendor-runs", user=payloads.OVERRIDING, vendor=payloads.VENDOR["a_map_with_a_list"][0])
    machine = lab.machine()
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab.relay.url)
    marks = [mark(machine, name) for name in ("vendor", "vendor-config", "conflict")]
    equal(marks, ["part\n", "config\n", "user"], "marks of part one, part two and the conflict")


@check()
def a_reboot_asks_for_nothing(lab):
    """D39: the same disk and the same token: no metadata request and no second run, even once the token is revoked."""
    node = lab.node("rebooted", user=payloads.SCRIPT, keys=[payloads.public_key(39, "k")])
    token, preseed, machine = node.token, node.preseed("cloud-cfg-d"), lab.machine()
    booted_well(node, machine, machine.boot(preseed), lab.relay.url)
    booted_well(node, machine, machine.boot(preseed), lab.relay.url)
    lab.refused.add(token)
    node.revoke()
    booted_well(node, machine, machine.boot(preseed), lab.relay.url)
    six_good_requests(lab.relay.of(token))
    equal(mark(machine), f"{node.id}\n", "one run in three boots")


@check()
def a_token_revoked_after_user_data_does_not_stop_the_boot(lab):
    """D28: the node has what it needs, and its script runs."""
    node = lab.node("revoked-late", user=payloads.SCRIPT)
    lab.refused.add(node.token)

    def revoke(exchange):
        if exchange.target == SIX[5]:
            node.revoke()

    lab.relay.halfway[node.token] = revoke
    machine = lab.machine()
    boot = machine.boot(node.preseed("cloud-cfg-d"))
    equal(lab.relay.trouble, [], "trouble on the relay")
    booted_well(node, machine, boot, lab.relay.url)
    six_good_requests(lab.relay.of(node.token))
    equal(mark(machine), f"{node.id}\n", "the mark of the user-data")


@check()
def a_revoked_token_boots_to_nothing(lab):
    """D6 through all stages: only 401s, no data on the disk, no script run, no name taken."""
    node = lab.node("revoked-early", user=payloads.SCRIPT, keys=[payloads.public_key(61, "k")], vendor=payloads.VENDOR["a_map_with_a_list"][0])
    lab.refused.add(node.token)
    preseed, machine = node.preseed("cloud-cfg-d"), lab.machine()
    node.revoke()
    boot = machine.boot(preseed, max_wait=3)
    exchanges = lab.relay.of(node.token)
    equal({(x.target, x.status) for x in exchanges}, {(SIX[0], 401)}, "requests and their answers")
    assert "DataSourceMAAS" not in (boot.outcome.get("datasource") or ""), f"result.json: {boot.outcome}"
    equal((mark(machine), mark(machine, "vendor")), (None, None), "marks")
    assert node.id not in boot.instance_id, f"instance-id {boot.instance_id}"
    assert boot.hostname != node.hostname.partition(".")[0], "it took the node's hostname"
    assert node.keys[0] not in boot.authorized_keys, "it took the node's key"
    equal(boot.file("user-data.txt") or b"", b"", "user-data on the disk")


@check()
def a_boot_in_tokyo_with_a_clock_ten_years_ahead_sees_no_401(lab):
    """D8, D10 through all stages: not one of its requests is refused, the events included."""
    node = lab.node("tokyo", user=payloads.SCRIPT)
    machine = lab.machine()
    boot = machine.boot(node.preseed("cloud-cfg-d"), clock=YEARS, zone="Asia/Tokyo")
    booted_well(node, machine, boot, lab.relay.url)
    six_good_requests(lab.relay.of(node.token))
    equal(mark(machine), f"{node.id}\n", "the mark of the user-data")
    requests = [x for x in lab.relay.everything() if x.token == node.token]
    assert len(requests) > 6, "the boot sent no events"
    assert all(int(x.oauth("oauth_timestamp")) - time.time() > YEARS - 900 for x in requests), "its clock was right"
    equal({x.status for x in requests} & {401, 403}, set(), "refusals")
    equal(boot.skewed, False, "the client noted a clock skew")


# --- The whole run ----------------------------------------------------------------------------------


def only_bad_credentials_were_refused(lab):
    """D11, D14: in the whole run, events included, 401s went to bad credentials alone, and nothing was 5xx or a redirect."""
    wrong = {(x.token, x.target, x.status) for x in lab.relay.everything() if x.status in (401, 403) and x.token not in lab.refused}
    equal(wrong, set(), "good credentials refused")
    odd = {(x.target, x.status) for x in lab.relay.everything() if x.status is None or not (200 <= x.status < 300 or 400 <= x.status < 500)}
    equal(odd, set(), "redirects, 5xx and cut connections")


def the_servers_log_tells_of_the_same_refusals(lab):
    """D6: one log line a request, so its 401s are as many as the wire's."""
    lab.server.stop()
    on_the_wire = sum(x.status == 401 for x in lab.relay.everything())
    logged = sum(status == 401 for status in lab.server.logged_statuses())
    equal(logged, on_the_wire, "401s in the server's log, against those on the wire")


def no_log_holds_a_secret(lab):
    """A secret is never logged, nor a signature, a user-data or a key of SSH."""
    for server in {id(node.server): node.server for node in lab.nodes}.values():
        text = server.log()
        for node in lab.nodes:
            assert node.secret not in text, f"the secret of {node.id} is in {server.log_path}"
        assert "oauth_signature" not in text, f"a signature is in {server.log_path}"


LAST = [only_bad_credentials_were_refused, the_servers_log_tells_of_the_same_refusals, no_log_holds_a_secret]


def attempt(title, function, lab):
    """The line for one check, and whether it passed."""
    try:
        function(lab)
        return f"ok {lab.suite}: {title}", True
    except AssertionError as error:
        return f"FAIL {lab.suite}: {title}: {error}", False
    except Exception:
        return f"FAIL {lab.suite}: {title}: {traceback.format_exc()}", False


def main(suite, root, binary, work, word=""):
    lab = Lab(suite, root, os.path.abspath(binary), work)
    version = lab.happy[0][1].version
    print(f"# {suite}: cloud-init {version}", flush=True)
    chosen = [(title, function) for title, function in CHECKS if word in title]
    passed = []
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(attempt, title, function, lab) for title, function in chosen]
        lines = itertools.chain(
            (future.result() for future in running),
            (attempt(function.__name__, function, lab) for function in LAST),
        )
        for line, good in lines:
            print(line, flush=True)
            passed.append(good)
    print(f"{suite}: {sum(passed)} passed, {len(passed) - sum(passed)} failed", flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
