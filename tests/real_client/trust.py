"""Runs inside a machine: takes what is in /usr/local/share/ca-certificates into the system store."""

import json
import subprocess

subprocess.run(["update-ca-certificates"], check=True)
with open("/media/result.json", "w", encoding="utf-8") as file:
    json.dump({}, file)
