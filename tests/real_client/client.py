"""Runs inside a machine: cloud-init's own DataSourceMAAS, once, with the preseed of /media/job.json."""

import json
import os
import ssl
import time

import yaml
from cloudinit import helpers, version
from cloudinit.sources import DataSourceMAAS
from cloudinit.url_helper import UrlError

with open("/media/job.json", encoding="utf-8") as file:
    job = json.load(file)
config = yaml.safe_load(job["preseed"])
given = dict(config["datasource"]["MAAS"])
for name, value in job["changes"].items():
    config["datasource"]["MAAS"][name] = value
    if value is None:
        del config["datasource"]["MAAS"][name]

# Which versions of TLS its handshakes came to.
versions = set()
shake_hands = ssl.SSLSocket.do_handshake


def note_version(connection, *arguments):
    shake_hands(connection, *arguments)
    versions.add(connection.version())


ssl.SSLSocket.do_handshake = note_version
paths = helpers.Paths(
    {"cloud_dir": "/var/lib/cloud", "run_dir": "/run/cloud-init", "templates_dir": "/etc/cloud/templates"}
)
for folder in (paths.seed_dir, paths.run_dir):
    os.makedirs(folder, exist_ok=True)
source = DataSourceMAAS.DataSourceMAAS(config, None, paths)
result = {
    "version": version.version_string(),
    "utc_offset": time.strftime("%z"),
    "preseed": config,
    "given": given,
    "ok": source._get_data(),
    "metadata": source.metadata,
    "vendor": source.vendordata_raw,
    "skewed": os.path.exists("/run/oauth_skew.json"),
    "fetched": {},
}
if result["ok"]:
    result["instance_id"] = source.get_instance_id()
    result["keys"] = source.get_public_ssh_keys()
if source.userdata_raw is not None:
    with open("/media/user-data", "wb") as file:
        data = source.userdata_raw
        file.write(data if isinstance(data, bytes) else data.encode())
for url in job["urls"]:
    try:
        result["fetched"][url] = source.oauth_helper.readurl(url).code
    except UrlError as error:
        result["fetched"][url] = error.code
result["tls"] = sorted(versions)
with open("/media/result.json", "w", encoding="utf-8") as file:
    json.dump(result, file)
