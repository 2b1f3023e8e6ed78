"""All stages of cloud-init on a machine: what the server handed out really runs, once, and only there."""

import json
import re
import time

import payloads
from lab import SIX, YEARS, check, equal, same_bytes, six_good_requests


def booted_well(node, machine, boot, lab, instance_id=None):
    """All four stages ended without an error, from MAAS, and the machine is who it should be."""
    equal(boot.identified, 0, "exit code of ds-identify")
    chosen = re.search(r"^\s*datasource_list: \[ MAAS(, None)? \]$", boot.selected or "", re.M)
    assert chosen, f"ds-identify chose {boot.selected!r}"
    equal(boot.stages, [0] * 4, "exit codes of the stages")
    outcome = {"datasource": f"DataSourceMAAS [{lab.relay.url}]", "errors": []}
    equal(boot.outcome, outcome, "result.json")
    equal(boot.instance_id, instance_id or node.id, "instance-id")
    equal(boot.hostname, node.hostname.partition(".")[0], "hostname")
    equal(sorted(boot.authorized_keys.splitlines()), sorted(node.keys), "the user's authorized_keys")
    same_bytes(boot.file("user-data.txt") or b"", node.user or b"", "user-data on the disk")


def marks(machine, *names):
    """What the scripts of a node left on its disk, None where one did not run."""
    found = [machine.read(f"{payloads.MARKS[1:]}/{name}") for name in names]
    return [text and text.decode() for text in found]


@check(*payloads.RUN)
def user_data_really_runs(name, lab):
    """D31: the mark that only this node's user-data makes appears, with cloud-cfg-d taken verbatim."""
    keys = [payloads.public_key(31, "first@lab"), payloads.public_key(32, "second@lab")]
    node = lab.node(f"run-{name}", user=payloads.RUN[name], keys=keys)
    machine = lab.machine()
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab)
    six_good_requests(lab.relay.of(node.token))
    second = f"{node.id}\n" if "multipart" in name else None
    equal(marks(machine, "ran", "configured"), [f"{node.id}\n", second], "marks of the user-data")


@check()
def vendor_data_runs_and_user_data_overrides_it(lab):
    """D35: both parts of a vendor-data list run, and where the two disagree the user's word holds."""
    vendor = payloads.VENDOR["a_map_with_a_list"][0]
    node = lab.node("vendor-runs", user=payloads.OVERRIDING, vendor=vendor)
    machine = lab.machine()
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab)
    expected = ["part\n", "config\n", "user"]
    equal(marks(machine, "vendor", "vendor-config", "conflict"), expected, "part one, part two, conflict")


@check()
def a_reboot_asks_for_nothing(lab):
    """D39: same disk, same token: no metadata request and no second run, even with the token revoked."""
    node = lab.node("rebooted", user=payloads.SCRIPT, keys=[payloads.public_key(39, "k")])
    token, preseed, machine = node.token, node.preseed("cloud-cfg-d"), lab.machine()
    booted_well(node, machine, machine.boot(preseed), lab)
    six_good_requests(lab.relay.of(token))
    booted_well(node, machine, machine.boot(preseed), lab)
    lab.refused.add(token)
    node.revoke()
    booted_well(node, machine, machine.boot(preseed), lab)
    six_good_requests(lab.relay.of(token))
    equal(marks(machine, "ran"), [f"{node.id}\n"], "one run in three boots")


@check()
def a_reprovisioned_disk_runs_its_user_data_again(lab):
    """D40: the same disk after `node reprovision`; another token alone, without it, runs nothing again."""
    node = lab.node("reprovisioned", user=payloads.SCRIPT)
    machine = lab.machine()
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab)
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab)
    equal(marks(machine, "ran"), [f"{node.id}\n"], "one run in two boots")

    lab.refused.add(node.token)
    node.revoke()
    node.renew()
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab)
    six_good_requests(lab.relay.of(node.token))
    equal(marks(machine, "ran"), [f"{node.id}\n"], "no run for another token alone")

    lab.refused.add(node.token)
    node.reprovision()
    boot = machine.boot(node.preseed("cloud-cfg-d"))
    booted_well(node, machine, boot, lab, instance_id=f"{node.id}.r1")
    six_good_requests(lab.relay.of(node.token))
    equal(marks(machine, "ran"), [f"{node.id}\n{node.id}.r1\n"], "it ran again, as another instance")
    booted_well(node, machine, machine.boot(node.preseed("cloud-cfg-d")), lab, instance_id=f"{node.id}.r1")
    equal(marks(machine, "ran"), [f"{node.id}\n{node.id}.r1\n"], "and once")


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
    booted_well(node, machine, boot, lab)
    six_good_requests(lab.relay.of(node.token))
    equal(marks(machine, "ran"), [f"{node.id}\n"], "the mark of the user-data")


@check()
def a_revoked_token_boots_to_nothing(lab):
    """D6 through all stages: only 401s, no data on the disk, no script run, no name and no key taken."""
    vendor = payloads.VENDOR["a_map_with_a_list"][0]
    key = payloads.public_key(61, "k")
    node = lab.node("revoked-early", user=payloads.SCRIPT, keys=[key], vendor=vendor)
    lab.refused.add(node.token)
    preseed, machine = node.preseed("cloud-cfg-d"), lab.machine()
    node.revoke()
    boot = machine.boot(preseed, max_wait=3)
    exchanges = lab.relay.of(node.token)
    equal({(x.target, x.status) for x in exchanges}, {(SIX[0], 401)}, "requests and their answers")
    assert "DataSourceMAAS" not in (boot.outcome.get("datasource") or ""), f"result.json: {boot.outcome}"
    equal(marks(machine, "ran", "vendor"), [None, None], "marks")
    equal(boot.file("user-data.txt") or b"", b"", "user-data on the disk")
    assert node.id not in boot.instance_id, f"instance-id {boot.instance_id}"
    assert boot.hostname != node.hostname.partition(".")[0], "it took the node's hostname"
    assert key not in boot.authorized_keys, "it took the node's key"


@check()
def a_boot_in_tokyo_ten_years_ahead_sees_no_401(lab):
    """D8, D10 through all stages: not one of its requests is refused, the events included."""
    node = lab.node("tokyo", user=payloads.SCRIPT)
    machine = lab.machine()
    boot = machine.boot(node.preseed("cloud-cfg-d"), clock=YEARS, zone="Asia/Tokyo")
    booted_well(node, machine, boot, lab)
    six_good_requests(lab.relay.of(node.token))
    equal(marks(machine, "ran"), [f"{node.id}\n"], "the mark of the user-data")
    requests = [x for x in lab.relay.everything() if x.token == node.token]
    assert len(requests) > 6, "the boot sent no events"
    ahead = [int(x.oauth("oauth_timestamp")) - time.time() for x in requests]
    assert min(ahead) > YEARS - 900, f"its clock was only {min(ahead):.0f} s ahead"
    equal({x.status for x in requests} & {401, 403}, set(), "refusals")
    equal(boot.skewed, False, "the client noted a clock skew")


def shown(node, *command):
    return json.loads(node.server.cli(*command, node.id, "-o", "json"))


@check()
def the_server_sees_how_each_boot_ended(lab):
    """D39, D54, D55: ready and still ready after a reboot; failed by a script; failed without data, whatever it says."""
    node, machine = lab.node("ends-ready", user=payloads.SCRIPT), lab.machine()
    equal(shown(node, "node", "show")["boot_state"], "issued", "before its boot")
    preseed = node.preseed("cloud-cfg-d")
    for boot in ("first", "second"):
        booted_well(node, machine, machine.boot(preseed), lab)
        timeline = shown(node, "timeline")
        equal((timeline["boot_state"], timeline["stage"]), ("ready", "modules-final"), f"after its {boot} boot")
    told = [entry["what"] for entry in timeline["entries"]]
    assert "user-data read" in told and told[-1] == "ready", f"timeline: {told}"

    node = lab.node("ends-failed", user=b"#!/bin/sh\nexit 3\n")
    lab.machine().boot(node.preseed("cloud-cfg-d"))
    timeline = shown(node, "timeline")
    equal(timeline["boot_state"], "failed", "after a script that fails")
    assert "config-scripts-user" in timeline["why"], f"why: {timeline['why']}"

    server = lab.another_server()
    node = lab.node("ends-without-data", server, user=payloads.SCRIPT)

    def cut(exchange):
        if exchange.is_metadata and len(server.relay.of(node.token)) > 1:
            raise ConnectionAbortedError

    server.relay.before[node.token] = cut
    machine = lab.machine()
    machine.boot(node.preseed("cloud-cfg-d"))
    timeline = shown(node, "timeline")
    equal((timeline["boot_state"], timeline["stage"]), ("failed", "init-network"), "after a boot without data")
    del server.relay.before[node.token]
    machine.boot(node.preseed("cloud-cfg-d"))
    equal(shown(node, "timeline")["boot_state"], "ready", "after the next boot, with data")
    server.stop()
