"""Where the server is, and whether it is there: URLs, IPv6, restarts, a drain, a late start."""

import itertools
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import payloads
from lab import SIX, check, equal, got_its_own, six_good_requests, statuses, targets


@check(
    ("no_slash", "/MAAS/metadata"),
    ("one_slash", "/MAAS/metadata/"),
    ("two_slashes", "/MAAS/metadata//"),
    ("slashes_all_over", "//MAAS///metadata/"),
)
def slashes_in_the_metadata_url_do_not_matter(path, lab):
    """D14, D15: the same answers, and no redirect."""
    node = lab.node(f"slashes-{path.count('/')}", user=payloads.SCRIPT)
    got_its_own(node, lab.ask(node, metadata_url=f"http://127.0.0.1:{lab.relay.port}{path}"))
    exchanges = lab.relay.of(node.token)
    equal([re.sub("/+", "/", target) for target in targets(exchanges)], SIX, "requests")
    equal(statuses(exchanges), [200] * 6, "statuses")


@check()
def an_ipv6_address_works(lab):
    """D17 without a VM: the server's own metadata_url, `[::1]` and its real port, with no relay between."""
    server = lab.another_server("[::1]:0", relayed=False)
    key = payloads.public_key(8, "eight")
    node = lab.node("ipv6", server, user=payloads.noise(4096), keys=[key])
    preseed, before = node.preseed(), len(server.logged_statuses())
    result = lab.ask(node, preseed)
    equal(result.given["metadata_url"], f"http://[::1]:{server.port}/MAAS/metadata/", "metadata_url")
    got_its_own(node, result)
    server.stop()
    equal(server.logged_statuses()[before:], [200] * 6, "requests in the server's log")


@check()
def a_server_restarted_between_requests_is_not_noticed(lab):
    """D22: stopped and started before each of requests 3 to 6; six 200s all the same, old client too."""
    server = lab.another_server()
    key = payloads.public_key(9, "nine")
    node = lab.node("restarted", server, user=payloads.noise(70000), keys=[key])
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
        for _ in range(40):  # gives it the time to begin, with most of the body still to send
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
    """D23, D24: nobody answers the first three tries or more; then exactly six 200s."""
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
