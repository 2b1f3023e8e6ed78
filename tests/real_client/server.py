"""The server under test and its command line, from the outside: a binary, a state directory, a port."""

import json
import os
import re
import signal
import subprocess
import time


class Server:
    """`nodeinit serve` on a free loopback port; preseeds name its relay, if any, which follows restarts."""

    def __init__(self, binary, home, relay=None, listen="127.0.0.1:0", admin_listen="off", flags=()):
        self.binary = binary
        self.state = os.path.join(home, "state")
        self.log_path = os.path.join(home, "server.log")
        self.relay = relay
        self.listen, self.admin_listen, self.flags = listen, admin_listen, list(flags)
        self.process = None
        os.makedirs(home)

    def start(self):
        command = [self.binary, "serve", "--state-dir", self.state]
        command += ["--listen", self.listen, "--admin-listen", self.admin_listen, *self.flags]
        if self.relay:
            command += ["--metadata-url", self.relay.url]
        with open(self.log_path, "ab") as log:
            before = log.tell()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=os.path.dirname(self.state)
            )
        host = re.escape(self.listen.rpartition(":")[0])
        deadline = time.monotonic() + 60
        while True:
            said = self.log()[before:]
            address = re.search(rf"{host}:([1-9]\d*)", said)
            if address and "admin.sock" in said:
                break
            assert self.process.poll() is None, f"the server ended: {said.strip()[-400:]}"
            assert time.monotonic() < deadline, f"no line for each bound address: {said.strip()[-400:]}"
            time.sleep(0.02)
        self.port = int(address.group(1))
        admin = re.search(r"admin on (http://[^/\s]+)", said)
        self.admin_url = admin and admin.group(1)
        if self.relay:
            self.relay.upstream = (self.listen.rpartition(":")[0], self.port)
        return self

    def stop(self):
        """Asks it to drain and end, and waits until it has."""
        if self.relay:
            self.relay.upstream = None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        assert code == 0, f"the server ended with {code} on SIGTERM: {self.log().strip()[-400:]}"

    def restart(self):
        self.stop()
        self.start()

    def log(self):
        time.sleep(0.1)  # lines are gathered for 20 ms before they are written
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def logged_statuses(self):
        """The status of every request by the server's own account, one log line a request."""
        statuses = []
        for line in self.log().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                fields = {**record, **(record.get("fields") or {})}
                if "status" in fields:
                    statuses.append(int(fields["status"]))
        return statuses

    def try_cli(self, *arguments):
        command = [self.binary, "--state-dir", self.state, *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)

    def cli(self, *arguments):
        """What the command prints on stdout; it has to succeed."""
        done = self.try_cli(*arguments)
        said = done.stderr.decode(errors="replace").strip()[-400:]
        assert done.returncode == 0, f"`nodeinit {' '.join(arguments)[:120]}` exited {done.returncode}: {said}"
        return done.stdout


class Node:
    """One node as its operator made it, and the credentials and preseeds the server hands out for it."""

    def __init__(self, server, name, hostname=None, keys=(), user=None, vendor=None):
        self.server, self.id = server, name
        self.hostname = hostname or f"{name}.lab.example.com"
        self.keys, self.user, self.vendor = list(keys), user, vendor
        listed = [word for key in self.keys for word in ("--ssh-key", key)]
        server.cli("node", "add", self.id, "--hostname", self.hostname, *listed)
        for noun, content in (("user-data", user), ("vendor-data", vendor)):
            if content is not None:
                self._set(noun, content)
        self.renew()

    def _set(self, noun, content):
        path = os.path.join(os.path.dirname(self.server.state), f"{self.id}.{noun}")
        with open(path, "wb") as file:
            file.write(content)
        self.server.cli(noun, "set", self.id, path)
        os.unlink(path)

    def renew(self):
        """Reads the node's live token, which the server makes if there is none."""
        shown = json.loads(self.server.cli("token", "get", self.id, "-o", "json"))
        self.token, self.secret, self.consumer = (
            shown["token_key"],
            shown["token_secret"],
            shown["consumer_key"],
        )

    def revoke(self):
        self.server.cli("token", "revoke", self.id)

    def reprovision(self):
        """Has the node installed anew: its next token is another, and so is its instance-id."""
        self.server.cli("node", "reprovision", self.id)
        self.renew()

    def events(self):
        """What the server has of this node's reports, the oldest first."""
        return json.loads(self.server.cli("event", "list", "--node", self.id, "-o", "json"))

    def preseed(self, form="cloud-config"):
        return self.server.cli("preseed", self.id, "--format", form).decode()
