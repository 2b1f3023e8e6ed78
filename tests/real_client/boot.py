"""Runs inside a machine: ds-identify, then the four stages of cloud-init, as its units would run them."""

import glob
import json
import os
import shutil
import socket
import subprocess

# Not the server's business, and slow or impossible without hardware.
LOCAL = {"locale": False, "growpart": {"mode": "off"}, "resize_rootfs": False}

with open("/media/job.json", encoding="utf-8") as file:
    job = json.load(file)
if job["preseed"]:
    with open("/etc/cloud/cloud.cfg.d/90_maas.cfg", "w", encoding="utf-8") as file:
        file.write(job["preseed"])
with open("/etc/cloud/cloud.cfg.d/99_lab.cfg", "w", encoding="utf-8") as file:
    json.dump({**LOCAL, "datasource": {"MAAS": job["changes"]}}, file)
cmdline = f"root=/dev/vda {job['cmdline']}".rstrip()
with open("/run/cmdline", "w", encoding="utf-8") as file:
    file.write(cmdline)
for path, text in job["files"].items():  # what an initramfs would have left in /run
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
environment = dict(os.environ, PATH_PROC_CMDLINE="/run/cmdline", DEBUG_PROC_CMDLINE=cmdline)


def run(*command):
    with open("/media/stages.log", "ab") as log:
        log.write(f"--- {' '.join(command)}\n".encode())
        log.flush()
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ).returncode


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


socket.sethostname((read("/etc/hostname") or "localhost").strip())  # what init does before cloud-init
result = {
    "identified": run("/usr/lib/cloud-init/ds-identify", "--force"),
    "selected": read("/run/cloud-init/cloud.cfg"),
}
result["stages"] = [
    run("cloud-init", *stage.split())
    for stage in ("init --local", "init", "modules --mode=config", "modules --mode=final")
]
result["outcome"] = json.loads(read("/run/cloud-init/result.json") or "{}").get("v1", {})
result["hostname"] = socket.gethostname()
result["instance_id"] = (read("/var/lib/cloud/data/instance-id") or "").strip()
result["authorized_keys"] = "".join(read(path) for path in sorted(glob.glob("/home/*/.ssh/authorized_keys")))
result["skewed"] = os.path.exists("/run/oauth_skew.json")
for name in ("user-data.txt", "vendor-data.txt"):
    if os.path.exists(f"/var/lib/cloud/instance/{name}"):
        shutil.copy(f"/var/lib/cloud/instance/{name}", f"/media/{name}")
if os.path.exists("/var/log/cloud-init.log"):
    shutil.copy("/var/log/cloud-init.log", "/media/cloud-init.log")
with open("/media/result.json", "w", encoding="utf-8") as file:
    json.dump(result, file)
