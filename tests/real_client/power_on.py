"""Whole machines, from power-on to ready or to where they stop: scripts/boot-a-machine sets the stage.

usage: power_on.py IMAGE BINARY WORK once|all     IMAGE holds the files disk, kernel and initrd
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import traceback

from relay import Relay
from server import Node, Server

HOST = "10.0.2.2"  # what a machine of qemu's user-mode network calls this host's loopback
LIMIT = 240
OUTAGE = 20
SCRIPT = b"""#!/bin/sh
echo "USER-DATA RAN on $(hostname), instance $(cat /var/lib/cloud/data/instance-id)" >/dev/console
"""
QEMU = """qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 512 -M q35 -nodefaults -no-reboot -display none
    -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci""".split()


class Boot:
    """A server, a node that it knows, and the machine that is to become it. `wire` stands between, if given."""

    def __init__(self, image, binary, work, name, wire=None):
        self.name, self.wire, self.home = name, wire, os.path.join(work, name)
        port = wire.port if wire else 5240
        url = f"http://{HOST}:{port}/MAAS/metadata/"
        if wire:
            wire.url = url
            self.server = Server(binary, self.home, relay=wire)
        else:
            self.server = Server(binary, self.home, listen=f"127.0.0.1:{port}", flags=("--metadata-url", url))
        self.server.start()
        self.node = Node(self.server, name, user=SCRIPT, keys=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1 ops"])
        self.image, self.machine = image, None

    def power_on(self):
        """Starts the machine on a disk that forgets; from here on its time runs."""
        arguments = self.node.preseed("cmdline").strip()
        print(f"   {arguments}", flush=True)
        held = [word for word in (self.node.secret, self.node.token) if word in arguments]
        expect("kernel arguments without credentials", not held)
        self.claim = arguments.rpartition("/")[2]
        disk = f"file={self.image}/disk,format=raw,if=virtio,snapshot=on"
        boot = ["-kernel", f"{self.image}/kernel", "-initrd", f"{self.image}/initrd"]
        kernel = f"root=/dev/vda rw console=ttyS0 loglevel=4 {arguments}"
        serial = ["-serial", f"file:{self.home}/serial"]
        with open(os.path.join(self.home, "qemu.log"), "wb") as log:
            self.machine = subprocess.Popen(
                [*QEMU, "-drive", disk, *serial, *boot, "-append", kernel],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": self.home},
            )
        self.started = time.monotonic()

    def until(self, what, found, limit=LIMIT):
        """Waits for it, until so many seconds after power-on."""
        while not (seen := found()):
            expect(f"{what}, but the machine ended", self.machine.poll() is None)
            expect(f"{what}, within {limit} s of power-on", time.monotonic() < self.started + limit)
            time.sleep(1)
        print(f"   ok: {what}, {time.monotonic() - self.started:.0f} s after power-on", flush=True)
        return seen

    def reaches(self, state, limit=LIMIT):
        """Waits for a boot state, and gives the timeline."""

        def there():
            # In an outage there is nobody to ask.
            shown = self.server.try_cli("timeline", self.name, "-o", "json")
            timeline = json.loads(shown.stdout) if shown.returncode == 0 else {}
            return timeline if timeline.get("boot_state") == state else None

        return self.until(f"{state} in the timeline", there, limit)

    def text(self, name):
        try:
            with open(os.path.join(self.home, name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def serial(self):
        """What the machine wrote to its serial console, without the colours."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[^\n\t -~\u00a0-\uffff]", "", self.text("serial"))
        return re.sub(r"\n\n+", "\n", plain)

    def ran_its_script(self):
        return f"USER-DATA RAN on {self.name}, instance {self.name}" in self.serial()

    def end(self):
        """Shows what there is to see, and turns everything off."""
        print(f"-- the serial console of {self.name}\n{self.serial().strip()}")
        print(self.text("qemu.log"), end="")
        shown = self.server.try_cli("timeline", self.name)
        print(f"-- nodeinit timeline {self.name}\n{(shown.stdout + shown.stderr).decode()}", end="", flush=True)
        if self.machine:
            self.machine.kill()
            self.machine.wait()
        if self.server.process.poll() is None:
            self.server.stop()


def expect(what, holds):
    assert holds, f"expected {what}"


def told(timeline, **wanted):
    """The one entry of a timeline that has these values."""
    found = [entry for entry in timeline["entries"] if wanted.items() <= entry.items()]
    expect(f"an entry {wanted} in the timeline", found)
    return found[0]


def is_ready(boot):
    """The node is ready, by its own console and by every step of its timeline, and no log tells a secret."""
    timeline = boot.reaches("ready")
    expect("the line of its user-data on the serial console", boot.ran_its_script())
    way = ["claim made", "preseed fetched", "first signed GET", "user-data read", "ready"]
    times = [told(timeline, what=what)["at"] for what in way]
    expect(f"{', '.join(way)}, in this order", times == sorted(times))
    for item in ("instance-id", "local-hostname", "public-keys", "vendor-data"):
        told(timeline, what=f"{item} read")
    told(timeline, what="user-data read", digest=hashlib.sha256(SCRIPT).hexdigest())
    for stage in ("init-network", "modules-config", "modules-final"):
        told(timeline, what=f"{stage} finished", result="SUCCESS")
    log = boot.server.log()
    expect("neither secret nor claim in the server's log", boot.node.secret not in log and boot.claim not in log)


def from_claim_to_ready(boot):
    """The machine claims its preseed, reads its data, runs its user-data, reports, and is ready."""
    boot.power_on()
    is_ready(boot)


def revoked_on_the_way(boot):
    """Its token is revoked after its instance-id was read: it stops there, and the timeline says so."""

    def revoke(exchange):
        if exchange.target.endswith("/local-hostname"):
            del boot.wire.before[boot.node.token]
            boot.node.revoke()

    boot.wire.before[boot.node.token] = revoke
    boot.power_on()
    boot.until("a login prompt all the same", lambda: " login: " in boot.serial())
    # The rule of 120 s has its time beside the machine's own.
    timeline = boot.reaches("failed", LIMIT + 120)
    expect("no line of its user-data on the serial console", not boot.ran_its_script())
    told(timeline, what="preseed fetched")
    told(timeline, what="instance-id read")
    read = {entry["what"] for entry in timeline["entries"] if entry["what"].endswith(" read")}
    expect(f"nothing read but the instance-id, not {sorted(read)}", read == {"instance-id read"})
    expect("the reason to be the missing reads", "without the reads" in (timeline["why"] or ""))

    def is_stuck():
        found = boot.server.try_cli("stuck", "--after", "1s")
        return found.returncode == 1 and boot.name in found.stdout.decode()

    boot.until("its name among the stuck", is_stuck, LIMIT + 150)


def server_down(boot):
    """The server ends once it has given the preseed, and is back 20 s later: the machine waits, and gets there."""
    down = threading.Event()

    # Not earlier: cloud-init asks for the claim three times, a second apart, and then never again in that boot.
    def go_down(exchange):
        if "/claim/" in exchange.target and not down.is_set():
            down.set()
            boot.server.stop()
            back = threading.Timer(OUTAGE, boot.server.start)
            back.daemon = True
            back.start()

    boot.wire.halfway[None] = go_down
    boot.power_on()
    is_ready(boot)
    expect("a working relay", not boot.wire.trouble)
    missed = [x for x in boot.wire.of(boot.node.token) if x.cut == "no server"]
    expect("metadata requests while the server was down", missed)
    print(f"   ok: {len(missed)} metadata requests found no server")


def main(image, binary, work, boots):
    every = [("web-1", from_claim_to_ready), ("web-2", revoked_on_the_way), ("web-3", server_down)]
    for name, story in every[: 1 if boots == "once" else None]:
        print(f"== {name}: {story.__doc__}", flush=True)
        began = time.monotonic()
        boot = Boot(image, binary, work, name, wire=None if story is from_claim_to_ready else Relay())
        failure = None
        try:
            story(boot)
        except AssertionError as error:
            failure = error
        except Exception:
            failure = traceback.format_exc()
        boot.end()
        if failure:
            print(f"FAIL {name}, {story.__name__}: {failure}", flush=True)
            return 1
        print(f"ok {name}, {story.__name__}: {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
