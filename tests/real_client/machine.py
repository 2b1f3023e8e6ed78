"""A machine without hardware: an overlay on a Debian root, in mount, pid, uts and ipc namespaces of its own."""

import json
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

# Only the disk outlives a run: /run must not, since clients keep the clock skew they saw there.
POWER_ON = """
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$DISK/upper,workdir=$DISK/work" "$DISK/root"
cd "$DISK/root"
mount -t proc proc proc
for place in run tmp dev; do mount -t tmpfs tmpfs "$place"; done
for device in null:3 zero:5 random:8 urandom:9; do
  mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"
done
: > dev/console
mount --bind "$CODE" mnt
mount --bind "$JOB" media
if [ -n "$ZONE" ]; then ln -sf "/usr/share/zoneinfo/$ZONE" etc/localtime; fi
exec chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
  PYTHONPATH="$CLOCK" PYTHONDONTWRITEBYTECODE=1 python3 "/mnt/$PROGRAM"
"""

# Every Python of a machine whose clock is wrong starts with this.
WRONG_CLOCK = "import time\nright = time.time\ntime.time = lambda: right() + {offset}\n"


class Machine:
    """A disk that can be run from: `ask` runs the datasource alone, `boot` all stages of cloud-init."""

    def __init__(self, root, work):
        self.root = root
        self.home = tempfile.mkdtemp(dir=work, prefix="machine-")
        self.disk = os.path.join(self.home, "disk")
        for part in ("upper", "work", "root"):
            os.makedirs(os.path.join(self.disk, part))
        self.runs = 0

    def run(self, program, job, clock=0, zone=""):
        """Runs a program of this folder inside; it reads /media/job.json and leaves its results in /media."""
        self.runs += 1
        folder = os.path.join(self.home, f"run-{self.runs}")
        os.makedirs(folder)
        with open(os.path.join(folder, "job.json"), "w", encoding="utf-8") as file:
            json.dump(job, file)
        if clock:
            with open(os.path.join(folder, "sitecustomize.py"), "w", encoding="utf-8") as file:
                file.write(WRONG_CLOCK.format(offset=clock))
        environment = dict(
            PATH=os.environ["PATH"],
            ROOT=self.root,
            DISK=self.disk,
            CODE=HERE,
            JOB=folder,
            ZONE=zone,
            PROGRAM=program,
            CLOCK="/media" if clock else "",
        )
        command = ["unshare", "-m", "-u", "-i", "-p", "--fork", "--kill-child", "sh", "-euc", POWER_ON]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=400
        )
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        assert done.returncode == 0, f"{program} exited {done.returncode}: {said[-600:]}"
        return Results(folder)

    def ask(self, preseed, clock=0, zone="", urls=(), **changes):
        """One run of DataSourceMAAS with this preseed; `changes` replace keys of `datasource.MAAS`."""
        return self.run("client.py", dict(preseed=preseed, changes=changes, urls=urls), clock, zone)

    def boot(self, preseed, clock=0, zone="", cmdline="", files=(), **changes):
        """One boot with this preseed, if any, as a file of /etc/cloud/cloud.cfg.d, and these kernel arguments.

        `files` are what an initramfs would have left in /run. A second call is a reboot.
        """
        job = dict(preseed=preseed, changes=changes, cmdline=cmdline, files=dict(files))
        return self.run("boot.py", job, clock, zone)

    def write(self, path, text):
        """Puts a file on the disk of a machine that is not running."""
        place = os.path.join(self.disk, "upper", path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w", encoding="utf-8") as file:
            file.write(text)

    def trust(self, authority):
        """Takes a private CA into the system store, as an administrator does."""
        with open(authority.certificate, encoding="utf-8") as file:
            self.write("usr/local/share/ca-certificates/lab.crt", file.read())
        self.run("trust.py", {})

    def read(self, path):
        """A file that the machine wrote to its disk, or None."""
        try:
            with open(os.path.join(self.disk, "upper", path), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None


class Results:
    """What a run left behind: the keys of its result.json as attributes, and its files."""

    def __init__(self, folder):
        self.folder = folder
        self.__dict__.update(json.loads(self.file("result.json")))

    def file(self, name):
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
