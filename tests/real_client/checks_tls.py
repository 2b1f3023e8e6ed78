"""HTTPS with a private CA: who is believed, what a client that does not believe costs, and how fast it goes."""

import http.client
import re
import socket
import ssl
import time

import payloads
from lab import SIX, check, equal, got_its_own

NAME = "metadata.lab.example.com"
# The system's configuration of OpenSSL, cut down to one version of the protocol.
ONLY = """openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = versions
[versions]
MinProtocol = {0}
MaxProtocol = {0}
"""


def secure_server(lab, *names, listen="127.0.0.1:0", authority=None):
    """A server without a relay, which could not read along."""
    authority = authority or lab.authority()
    return authority, lab.another_server(listen, relayed=False, flags=authority.flags(*names))


def crawled(lab, server, node, machine, **changes):
    """The machine has its node's data after exactly six requests."""
    preseed, before = node.preseed(), len(server.logged_statuses())
    result = machine.ask(preseed, **changes)
    got_its_own(node, result)
    equal(server.logged_statuses()[before:], [200] * 6, "requests in the server's log")
    return result


@check(
    ("ip_san", "127.0.0.1:0", ["IP:127.0.0.1"], None),
    ("ipv6_literal", "[::1]:0", ["IP:::1"], None),
    ("name", "127.0.0.1:0", [f"DNS:{NAME}"], NAME),
)
def a_machine_that_trusts_the_ca_crawls_over_tls(listen, names, host, lab):
    """D17, D18: by the server's own metadata_url, which is https, or by a name of /etc/hosts."""
    authority, server = secure_server(lab, *names, listen=listen)
    keys = [payloads.public_key(18, "eighteen")]
    kind = "name" if host else listen.partition("]")[1] and "six" or "four"
    node = lab.node(f"tls-{kind}", server, user=payloads.noise(200000), keys=keys)
    machine, changes = lab.machine(), {}
    machine.trust(authority)
    if host:
        machine.write("etc/hosts", f"127.0.0.1 localhost {host}\n")
        changes["metadata_url"] = f"https://{host}:{server.port}/MAAS/metadata/"
    result = crawled(lab, server, node, machine, **changes)
    own = f"https://{listen.rpartition(':')[0]}:{server.port}/MAAS/metadata/"
    equal(result.given["metadata_url"], own, "metadata_url of the preseed")
    equal(result.tls, ["TLSv1.3"], "versions of its handshakes")
    server.stop()


@check("TLSv1.2", "TLSv1.3")
def a_machine_with_one_version_of_tls_crawls(version, lab):
    """D18: cut down by the machine's own openssl.cnf."""
    authority, server = secure_server(lab, "IP:127.0.0.1")
    node = lab.node(f"tls-{version[-1]}", server, user=payloads.SCRIPT)
    machine = lab.machine()
    machine.trust(authority)
    machine.write("etc/ssl/openssl.cnf", ONLY.format(version))
    equal(crawled(lab, server, node, machine).tls, [version], "versions of its handshakes")
    server.stop()


@check("untrusted_ca", "wrong_address", "wrong_name")
def a_machine_that_does_not_believe_tls_gets_nothing(case, lab):
    """D18: it tries again until max_wait, sends not one request, and the log tells of it in bounds."""
    names = {"untrusted_ca": "IP:127.0.0.1", "wrong_address": "IP:127.0.0.2", "wrong_name": "DNS:a.example"}
    authority, server = secure_server(lab, names[case])
    node = lab.node(f"tls-{case}", server, user=payloads.SCRIPT, keys=[payloads.public_key(19, case)])
    machine = lab.machine()
    if case != "untrusted_ca":
        machine.trust(authority)
    preseed, before, began = node.preseed(), len(server.logged_statuses()), time.monotonic()
    result = machine.ask(preseed, max_wait=4)
    assert time.monotonic() - began > 3, "it gave up at once"
    equal(result.ok, False, "DataSourceMAAS found data")
    equal(result.file("user-data"), None, "user-data")
    equal((result.metadata, bool(result.vendor)), ({}, False), "meta-data and vendor-data")
    equal(server.logged_statuses()[before:], [], "requests in the server's log")
    told = re.findall(r'"a TLS handshake failed".*"reason":"([^"]*)"', server.log())
    # Old clients look at the name when the handshake is done, and leave without an alert.
    silent = "it said nothing after the handshake: it may not believe the certificate's name"
    by_name = [{"received fatal alert: BadCertificate"}, {silent}]
    reasons = [{"received fatal alert: UnknownCA"}] if case == "untrusted_ca" else by_name
    assert set(told) in reasons, f"reasons in the log: {set(told)}"
    assert 2 <= len(told) <= 10, f"{len(told)} lines of failed handshakes"
    server.stop()


@check()
def a_whole_boot_over_tls_runs_the_user_data(lab):
    """D18 through all stages: the events it sends go over TLS as well."""
    authority, server = secure_server(lab, "IP:127.0.0.1")
    node = lab.node("tls-boot", server, user=payloads.SCRIPT, keys=[payloads.public_key(20, "k")])
    machine = lab.machine()
    machine.trust(authority)
    preseed, before = node.preseed("cloud-cfg-d"), len(server.logged_statuses())
    boot = machine.boot(preseed)
    own = f"https://127.0.0.1:{server.port}/MAAS/metadata/"
    equal(boot.outcome, {"datasource": f"DataSourceMAAS [{own}]", "errors": []}, "result.json")
    equal(boot.instance_id, node.id, "instance-id")
    equal(machine.read(f"{payloads.MARKS[1:]}/ran"), f"{node.id}\n".encode(), "the mark of the user-data")
    statuses = server.logged_statuses()[before:]
    equal(statuses.count(200), 6, "metadata requests")
    assert len(statuses) > 6, "the boot sent no events"
    # Not that none failed: a stage that ends may cut its reporter off in the middle of one.
    assert "fatal alert" not in server.log(), "the machine refused a handshake"
    server.stop()


@check()
def eighty_handshakes_of_tls_take_less_than_five_seconds(lab):
    """D18: as many as a boot makes, each on a new connection with a signed request; none is resumed."""
    authority, server = secure_server(lab, "IP:127.0.0.1")
    node = lab.node("tls-eighty", server)
    signed = (
        f'OAuth oauth_consumer_key="{node.consumer}", oauth_token="{node.token}", '
        f'oauth_signature_method="PLAINTEXT", oauth_signature="%26{node.secret}", oauth_version="1.0"'
    )
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=authority.certificate)
        context.minimum_version = context.maximum_version = version
        began = time.monotonic()
        for _ in range(80):
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)
            connection.request("GET", SIX[0], headers={"Authorization": signed})
            answer = connection.getresponse()
            equal((answer.status, answer.read()), (200, node.id.encode()), "answer")
            equal(connection.sock and connection.sock.session_reused, False, "resumed")
            connection.close()
        took = time.monotonic() - began
        assert took < 5, f"80 handshakes of {version.name} took {took:.1f} s"
    server.stop()


@check()
def failed_handshakes_of_tls_cost_no_memory(lab):
    """D18: hundreds of each kind, and what the server holds and logs stays as it was."""
    _, server = secure_server(lab, "IP:127.0.0.1")
    untrusting = ssl.create_default_context()

    def resident():
        with open(f"/proc/{server.process.pid}/status", encoding="utf-8") as file:
            return int(re.search(r"VmRSS:\s*(\d+) kB", file.read()).group(1))

    def fail(times):
        for _ in range(times):
            for context in (untrusting, None):
                with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
                    try:
                        if context:
                            context.wrap_socket(raw, server_hostname="127.0.0.1")
                            raise AssertionError("the certificate was believed")
                        raw.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                        assert not raw.recv(4096).startswith(b"HTTP/"), "plain HTTP was answered"
                    except ssl.SSLCertVerificationError:
                        pass

    fail(200)
    before, logged = resident(), len(server.log())
    fail(400)
    grown = resident() - before
    assert grown < 2048, f"{grown} kB more after 800 failed handshakes, from {before} kB"
    lines = server.log().count("a TLS handshake failed")
    assert lines <= 20, f"{lines} lines of failed handshakes"
    assert len(server.log()) - logged < 10000, "the log grew with them"
    server.stop()
