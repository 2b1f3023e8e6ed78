"""What the real cloud-init makes of the built server: `ok NAME` or `FAIL NAME: why`, and at last a count.

Runs as root in network, mount and pid namespaces of its own: scripts/real-client sets them up.
usage: check.py SUITE ROOT BINARY WORK [WORD]        with WORD only the checks that have it in their names
The numbers in the docstrings of the checks are those of the project's list of what a node's client must see.
"""

import os
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import checks_boot  # noqa: F401  importing these registers their checks
import checks_credentials  # noqa: F401
import checks_data  # noqa: F401
import checks_events  # noqa: F401
import checks_preseeds  # noqa: F401
import checks_server  # noqa: F401
import checks_tls  # noqa: F401
from lab import CHECKS, Lab, equal


def only_bad_credentials_were_refused(lab):
    """D11, D14: in the whole run, events included, no good credentials got a 401, nobody a 5xx or redirect."""
    seen = lab.relay.everything()
    good = [x for x in seen if x.token not in lab.refused]
    equal({(x.token, x.target) for x in good if x.status in (401, 403)}, set(), "good credentials refused")
    odd = {(x.target, x.status, x.cut) for x in seen if x.cut or x.status not in (200, 204, 400, 401, 403, 404, 410)}
    equal(odd, set(), "redirects, 5xx, cut connections")


def the_servers_log_tells_of_the_same_refusals(lab):
    """D6: one log line a request, so its 401s are as many as the wire's."""
    lab.server.stop()
    logged = lab.server.logged_statuses()
    equal(logged.count(401), sum(x.status == 401 for x in lab.relay.everything()), "401s logged and seen")


def no_log_holds_a_secret(lab):
    """A token's secret is never logged, nor is a signature."""
    for server in {id(node.server): node.server for node in lab.nodes}.values():
        text = server.log()
        told = [node.id for node in lab.nodes if node.secret in text]
        equal(told, [], f"nodes whose secrets are in {server.log_path}")
        assert "oauth_signature" not in text, f"a signature is in {server.log_path}"


LAST = [only_bad_credentials_were_refused, the_servers_log_tells_of_the_same_refusals, no_log_holds_a_secret]


def attempt(lab, title, function):
    """The line that tells of one check; it begins with `ok` if it passed."""
    try:
        function(lab)
        return f"ok {lab.suite}: {title}"
    except AssertionError as error:
        return f"FAIL {lab.suite}: {title}: {error}"
    except Exception:
        return f"FAIL {lab.suite}: {title}: {traceback.format_exc()}"


def main(suite, root, binary, work, word=""):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))  # as pid 1 it would not hear it, and takes all along
    lab = Lab(suite, root, os.path.abspath(binary), work)
    print(f"# {suite}: cloud-init {lab.happy[0][1].version}", flush=True)
    if not word:  # mostly waiting, so it starts early and runs beside the others
        threading.Thread(target=lambda: lab.refusals, daemon=True).start()
    lines = []

    def tell(line):
        print(line, flush=True)
        lines.append(line)

    with ThreadPoolExecutor(4) as pool:
        chosen = [(title, function) for title, function in CHECKS if word in title]
        for line in pool.map(lambda pair: attempt(lab, *pair), chosen):
            tell(line)
    for function in LAST:
        tell(attempt(lab, function.__name__, function))
    passed = sum(line.startswith("ok ") for line in lines)
    print(f"{suite}: {passed} passed, {len(lines) - passed} failed", flush=True)
    return 0 if passed == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
