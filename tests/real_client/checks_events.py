"""What a node reports, by the real webhook handler and as MAAS's own script does: taken, kept, in order."""

import hashlib
import http.client
import json
import os
import time

import payloads
from checks_boot import booted_well, marks
from lab import SIX, check, equal, six_good_requests, statuses

FIXTURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/reports/maas_signal.multipart")
BOUNDARY = "QkzRfWmLtYbVhNcXgJpSdAeUoIiKlMn"


def told(events):
    """What the client and the server both say of an event."""
    return [(e["event_type"], e["name"], e["description"], e.get("result")) for e in events]


def same_events(kept, posted):
    """Every event that was posted and no other; what was answered before another began stands before it.

    This client sets its reporting up anew once it has its data, and then posts in two threads for a while.
    """
    kept, sent = told(kept), told(json.loads(x.sent) for x in posted)
    equal(sorted(kept, key=repr), sorted(sent, key=repr), "events kept")
    equal(len(set(kept)), len(kept), "different events")
    place = {event: number for number, event in enumerate(kept)}
    for event, exchange in zip(sent, posted):
        before = [other for other, x in zip(sent, posted) if x.ended < exchange.began]
        late = [other for other in before if place[other] > place[event]]
        equal(late, [], f"events answered before {event} began, and kept behind it")


@check()
def a_full_boot_has_every_event_kept_in_order(lab):
    """D44, D46, D47: as many as the client sent, each 204, in the order of sending, without a media type."""
    node = lab.node("reporting", user=payloads.SCRIPT)
    machine = lab.machine()
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab)
    six_good_requests(lab.relay.of(node.token))
    posted = lab.relay.events_of(node.token)
    equal(set(statuses(posted)), {204}, "answers to events")
    equal({x.target for x in posted}, {f"/MAAS/metadata/status/{node.id}"}, "where they went")
    assert not any("content-type" in x.headers for x in posted), "this client names a media type"
    kept = node.events()
    assert len(kept) >= 60, f"only {len(kept)} events of a boot"
    same_events(kept, posted)
    equal(kept[-1]["name"], "modules-final", "the last event")
    equal(kept[-1]["result"], "SUCCESS", "its result")
    times = [e["timestamp"] for e in kept]
    assert all(times), "an event without the node's time"
    timed = sum("duration" in json.loads(x.sent) for x in posted)
    equal(sum("duration" in e["extra"] for e in kept), timed, "events with a duration")


@check()
def a_token_revoked_mid_boot_has_no_later_event_kept(lab):
    """D28, D52: every later event 401 at once and none stored, and the node still gets to its end."""
    node = lab.node("events-revoked", user=payloads.SCRIPT)
    token = node.token
    lab.refused.add(token)

    def revoke(exchange):
        if exchange.target == SIX[5]:
            node.revoke()

    lab.relay.halfway[token] = revoke
    machine = lab.machine()
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab)
    equal(marks(machine, "ran"), [f"{node.id}\n"], "the mark of the user-data")
    posted = lab.relay.events_of(token)
    taken, refused = ([x for x in posted if x.status == status] for status in (204, 401))
    assert taken and refused, f"{len(taken)} were taken and {len(refused)} refused"
    equal(len(taken) + len(refused), len(posted), "204s and 401s")
    since = min(x.ended for x in refused)
    equal([x.sent for x in taken if x.began > since], [], "events taken after the first refusal")
    same_events(node.events(), taken)
    # A client drops what waits after its third failure in a row, so not every stage tells.
    equal({bytes(x.body) for x in refused}, {b"credentials_refused"}, "refusals")


@check()
def a_webhook_event_has_its_files_and_odd_text_kept(lab):
    """D44, D48, D49: the real handler's files byte for byte, absent ones too, and text no database likes."""
    node = lab.node("webhook-events")
    result = lab.machine().run("reporter.py", dict(preseed=node.preseed()))
    posted = lab.relay.events_of(node.token)
    equal(set(statuses(posted)), {204}, "answers to events")
    kept = node.events()
    equal(len(kept), len(posted), "events kept")
    finish = {e["name"]: e for e in kept if e["event_type"] == "finish"}
    every, empty, large = bytes(range(256)), b"", b"x" * (8 << 20)
    files = finish["with-files"]["files"] + finish["with-a-large-file"]["files"]
    expected = [
        (path, content and hashlib.sha256(content).hexdigest(), len(content or b""))
        for path, content in (("/tmp/every", every), ("/nonexistent", None), ("/tmp/large", large))
    ]
    expected.insert(1, ("/tmp/empty", hashlib.sha256(empty).hexdigest(), 0))
    equal([(f["path"], f["sha256"], f["size"]) for f in files], expected, "files")
    equal(finish["outer/warned"]["result"], "WARN", "a warning")
    equal(finish["outer/failed"]["result"], "FAIL", "a failure")
    odd = next(e["description"] for e in kept if e["name"] == "outer/failed" and e["event_type"] == "start")
    equal(odd, "n\u00ef \u65e5\u672c \U0001f600 \ufffd \ufffd end", "odd text")
    many = [e["name"] for e in kept if e["name"].startswith("many-")]
    equal(many, [f"many-{n}" for n in range(80)], "the order of many")
    assert result.seconds < 40, f"80 events took {result.seconds:.1f} s"  # a boot waits for them


@check()
def a_signal_event_of_maas_own_script_is_taken(lab):
    """D58: its multipart byte for byte, to the URL as the script makes it: exactly 200 and exactly OK."""
    node = lab.node("signal-events")
    with open(FIXTURE, "rb") as file:
        body = file.read()
    signature = (
        f'OAuth oauth_nonce="{time.time_ns()}", oauth_timestamp="{int(time.time())}", oauth_version="1.0", '
        f'oauth_signature_method="PLAINTEXT", oauth_consumer_key="{node.consumer}", '
        f'oauth_token="{node.token}", oauth_signature="%26{node.secret}"'
    )
    headers = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Authorization": signature,
        "User-Agent": "Python-urllib/3.11",
    }
    connection = http.client.HTTPConnection("127.0.0.1", lab.server.port, timeout=20)
    connection.request("POST", "/MAAS/metadata//2012-03-01/", body, headers)
    answer = connection.getresponse()
    equal((answer.status, answer.read()), (200, b"OK"), "the answer")
    connection.close()
    (event,) = node.events()
    equal((event["event_type"], event["name"]), ("signal", "FAILED"), "the event")
    first = hashlib.sha256(bytes(range(256))).hexdigest()
    equal((event["files"][0]["path"], event["files"][0]["sha256"]), ("lshw", first), "its first file")
