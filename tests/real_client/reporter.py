"""Runs inside a machine: cloud-init's own reporting with the preseed of /media/job.json, files with it."""

import json
import time

import yaml
from cloudinit import reporting
from cloudinit.reporting import events

with open("/media/job.json", encoding="utf-8") as file:
    job = json.load(file)
reporting.update_configuration(yaml.safe_load(job["preseed"])["reporting"])
with open("/tmp/every", "wb") as file:
    file.write(bytes(range(256)))
with open("/tmp/empty", "wb") as file:
    pass
with open("/tmp/large", "wb") as file:
    file.write(b"x" * (8 << 20))

files = ["/tmp/every", "/tmp/empty", "/nonexistent"]
with events.ReportEventStack("with-files", "files of all kinds", post_files=files):
    pass
with events.ReportEventStack("with-a-large-file", "8 MiB", post_files=["/tmp/large"]):
    pass
with events.ReportEventStack("outer", "runs the others") as outer:
    with events.ReportEventStack("warned", "a warning", parent=outer) as warned:
        warned.result = events.status.WARN
    try:
        odd = "n\u00ef \u65e5\u672c \U0001f600 \u0000 \ud83d end"
        with events.ReportEventStack("failed", odd, parent=outer):
            raise ValueError("boom")
    except ValueError:
        pass
started = time.monotonic()
for number in range(80):
    events.report_start_event(f"many-{number}", f"number {number}")
reporting.flush_events()
with open("/media/result.json", "w", encoding="utf-8") as file:
    json.dump({"seconds": time.monotonic() - started}, file)
