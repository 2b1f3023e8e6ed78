#!/usr/bin/env python3
"""Writes the *.jsonl here: what Debian's own cloud-init asks for and reports, boot after boot, on a stand-in server.

    unshare -n -m -p -u -i --fork --mount-proc sh -c 'ip link set lo up; mount -t tmpfs tmpfs /mnt
      python3 -B tests/data/boot/record.py SUITE "$(scripts/cloud-init-root SUITE)" /mnt'

One line an exchange, in the order of arrival: {"at": seconds, "get": path, "status": N} or {"at", "post": event}.
"""

import http.server
import json
import os
import pathlib
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "real_client"))

from machine import Machine  # noqa: E402

BASE = "/MAAS/metadata/2012-03-01/"
GOOD = "#!/bin/sh\necho ran > /var/ran\n"
ITEMS = {
    "meta-data/instance-id": "n1",
    "meta-data/local-hostname": "n1.example.com",
    "meta-data/public-keys": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1111111111111111111111111111111111111111111 a@one",
    "meta-data/vendor-data": "cloud-init: |\n  #cloud-config\n  {}\n",
    "user-data": GOOD,
}


class StandIn:
    """Serves the six requests and takes every event; `items` and `fails` are what a case changes."""

    def __init__(self):
        self.items, self.fails, self.seen, self.began = dict(ITEMS), False, [], time.monotonic()
        self.lock, self.asked, standin = threading.Lock(), 0, self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                code, body = standin.get(self.path)
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                standin.note(post=event)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *said):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def note(self, **what):
        with self.lock:
            self.seen.append({"at": round(time.monotonic() - self.began, 3), **what})

    def get(self, path):
        if path == "/preseed":
            self.note(get="preseed", status=200)
            return 200, self.preseed("k" * 18).encode()
        self.asked += 1
        item = path.removeprefix(BASE)
        code = 500 if self.fails and self.asked > 1 else 200 if item in self.items else 404
        self.note(get=item, status=code)
        return code, self.items.get(item, "").encode() if code == 200 else b"no"

    def preseed(self, token):
        keys = dict(consumer_key="c" * 18, token_key=token, token_secret="s" * 32)
        source = {"MAAS": {"metadata_url": f"{self.url}/MAAS/metadata/", **keys}}
        hook = {"maas": {"type": "webhook", "endpoint": f"{self.url}/MAAS/metadata/status/n1", **keys}}
        # Flow YAML on one line each: what bookworm's ds-identify reads.
        return "#cloud-config\n" + "".join(
            f"{name}: {json.dumps(value)}\n"
            for name, value in (("datasource_list", ["MAAS"]), ("datasource", source), ("reporting", hook))
        ).replace('["MAAS"]', "[ MAAS ]")


def main():
    suite, root, work = sys.argv[1:]
    only = os.environ.get("ONLY", "")

    def record(name, standin, machine, token="k" * 18, preseed=None, **how):
        if only not in name:
            return
        standin.seen, standin.began, standin.asked = [], time.monotonic(), 0
        machine.boot(standin.preseed(token) if preseed is None else preseed, **how)
        text = "".join(json.dumps(line) + "\n" for line in standin.seen)
        (HERE / f"{suite}-{name}.jsonl").write_text(text)
        print(suite, name, len(standin.seen), flush=True)

    standin, machine = StandIn(), Machine(root, work)
    record("normal", standin, machine)
    record("reboot", standin, machine)
    standin.items["meta-data/instance-id"] = "n1.r1"
    record("reprovisioned", standin, machine, token="r" * 18)

    standin, machine = StandIn(), Machine(root, work)
    standin.fails = True
    record("metadata-500", standin, machine)
    standin.fails = False
    record("metadata-mended", standin, machine)

    standin, machine = StandIn(), Machine(root, work)
    standin.items["user-data"] = "#!/bin/sh\nexit 3\n"
    record("script-fails", standin, machine)
    record("script-failed-reboot", standin, machine)

    standin, machine = StandIn(), Machine(root, work)
    cmdline = f"root=/dev/vda cc:{{'datasource_list': ['MAAS']}}end_cc cloud-config-url={standin.url}/preseed"
    record("cloud-config-url", standin, machine, preseed="", cmdline=cmdline)

    if suite != "bookworm":  # whose cloud-init never asks before the network is up
        standin, machine = StandIn(), Machine(root, work)
        preseed = standin.preseed("k" * 18) + "network: {config: disabled}\n"
        network = {"/run/net-lo.conf": "DEVICE='lo'\nPROTO='static'\nIPV4ADDR='127.0.0.1'\n"}
        record("init-local", standin, machine, preseed=preseed, cmdline="root=/dev/vda ip=dhcp", files=network)



if __name__ == "__main__":
    main()
