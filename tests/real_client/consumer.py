"""Runs inside a machine: puts a preseed where its format belongs, and says what cloud-init makes of it."""

import json
import os
import subprocess
import urllib.parse

import yaml

with open("/media/job.json", encoding="utf-8") as file:
    job = json.load(file)
form, text = job["format"], job["text"]
os.environ["DEBIAN_FRONTEND"] = "noninteractive"
result = {"problems": [], "schema": [0, ""]}


def run(*command, **how):
    done = subprocess.run(command, capture_output=True, text=True, **how)
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0:
        result["problems"].append(f"{' '.join(command)[:60]} exited {done.returncode}: {said[-400:]}")
    return said


def write(path, content):
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


if form in ("cloud-config", "cloud-cfg-d"):
    write("/etc/cloud/cloud.cfg.d/90_maas.cfg", text)
elif form == "curtin":  # what curthooks do with `cloudconfig`
    for part in yaml.safe_load(text)["cloudconfig"].values():
        write(part["path"], part["content"])
elif form == "autoinstall":  # what subiquity does with late-commands, the system being /target
    os.symlink("/", "/target")
    for command in yaml.safe_load(text)["autoinstall"]["late-commands"]:
        run("sh", "-c", command)
elif form == "debconf":
    said = run("debconf-set-selections", "--checkonly", input=text)
    if said:
        result["problems"].append(said)
    run("debconf-set-selections", input=text)

    def answer(question):
        asked = f"CAPB escape\nGET cloud-init/{question}\n"
        done = subprocess.run(["debconf-communicate"], input=asked, capture_output=True, text=True)
        return done.stdout.splitlines()[-1].partition(" ")[2].replace("\\n", "\n")

    # What the package's postinst does with the answers; Debian's own still wants Python 2 for it.
    keys = ("consumer_key", "token_key", "token_secret")
    given = urllib.parse.parse_qs(answer("maas-metadata-credentials"), strict_parsing=True)
    maas = {key: given[f"oauth_{key}"][0] for key in keys}
    maas["metadata_url"] = answer("maas-metadata-url")
    write("/etc/cloud/cloud.cfg.d/90_dpkg.cfg", f"datasource_list: [ {answer('datasources')} ]\n")
    write("/etc/cloud/cloud.cfg.d/90_dpkg_maas.cfg", yaml.dump({"datasource": {"MAAS": maas}}))
    write("/etc/cloud/cloud.cfg.d/90_dpkg_local_cloud_config.cfg", answer("local-cloud-config"))

if text.startswith("#cloud-config") and form != "curtin":
    write("/run/preseed", text)
    schema = ["cloud-init", "schema", "--config-file", "/run/preseed"]
    done = subprocess.run(schema, capture_output=True, text=True)
    result["schema"] = [done.returncode, done.stdout + done.stderr]

from cloudinit import helpers, reporting, stages  # noqa: E402
from cloudinit.sources import DataSourceMAAS  # noqa: E402

init = stages.Init(ds_deps=[])
init.read_cfg()
config = init.cfg
result["datasource_list"] = config.get("datasource_list")
result["datasource"] = config.get("datasource", {}).get("MAAS")
result["reporting"] = {name: block for name, block in config["reporting"].items() if block["type"] == "webhook"}
reporting.update_configuration(config["reporting"])
handlers = reporting.instantiated_handler_registry.registered_items.values()
result["endpoints"] = [handler.endpoint for handler in handlers if hasattr(handler, "endpoint")]
paths = helpers.Paths(
    {"cloud_dir": "/var/lib/cloud", "run_dir": "/run/cloud-init", "templates_dir": "/etc/cloud/templates"}
)
for folder in (paths.seed_dir, paths.run_dir):
    os.makedirs(folder, exist_ok=True)
source = DataSourceMAAS.DataSourceMAAS(config, None, paths)
result["ok"] = source._get_data()
result["instance_id"] = source.get_instance_id() if result["ok"] else None
write("/run/cmdline", "root=/dev/vda")
environment = dict(os.environ, PATH_PROC_CMDLINE="/run/cmdline")
identify = subprocess.run(["/usr/lib/cloud-init/ds-identify", "--force"], env=environment, capture_output=True)
result["identified"] = identify.returncode
try:
    with open("/run/cloud-init/cloud.cfg", encoding="utf-8") as file:
        result["selected"] = file.read()
except FileNotFoundError:
    result["selected"] = ""
with open("/media/result.json", "w", encoding="utf-8") as file:
    json.dump(result, file)
