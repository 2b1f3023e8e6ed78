"""Each format of a preseed with the program it is for, and kernel arguments that hold a claim."""

import re

import payloads
from checks_boot import booted_well, marks
from lab import check, equal, six_good_requests

FORMATS = ("cloud-config", "cloud-cfg-d", "curtin", "debconf", "autoinstall")


@check(*FORMATS)
def the_consumer_of_a_format_finds_everything_in_it(form, lab):
    """D42: datasource, credentials, reporting, and a list that ds-identify reads, wherever they are put."""
    node = lab.node(f"format-{form}", user=payloads.SCRIPT)
    result = lab.machine().run("consumer.py", dict(format=form, text=node.preseed(form)))
    equal(result.problems, [], "problems")
    # The schema is that of user-data; where the data comes from is none of its keys, and all it may say.
    code, said = result.schema
    unexpected = "Additional properties are not allowed ('datasource', 'datasource_list' were unexpected)"
    assert code == 0 or (said.count("Error: ") <= 2 and unexpected in said), f"cloud-init schema: {said}"
    credentials = dict(consumer_key=node.consumer, token_key=node.token, token_secret=node.secret)
    equal(result.datasource, dict(metadata_url=lab.relay.url, **credentials), "datasource.MAAS")
    endpoint = f"{lab.relay.url}status/{node.id}"
    equal(list(result.reporting.values()), [dict(type="webhook", endpoint=endpoint, **credentials)], "reporting")
    assert endpoint in result.endpoints, f"webhooks: {result.endpoints}"
    equal(result.datasource_list, ["MAAS"], "datasource_list")
    equal((result.ok, result.instance_id), (True, node.id), "the datasource")
    equal(result.identified, 0, "exit code of ds-identify")
    assert re.search(r"datasource_list: \[ MAAS(, None)? \]", result.selected), result.selected


def claims_of(lab, url):
    """The requests for a claim, in order."""
    return [x for x in lab.relay.everything() if url.endswith(x.target)]


@check()
def kernel_arguments_alone_boot_a_machine(lab):
    """D42, D43: a disk that knows nothing claims its preseed, twice, and is configured."""
    node = lab.node("by-cmdline", user=payloads.SCRIPT, keys=[payloads.public_key(43, "k")])
    cmdline = node.preseed("cmdline").rstrip("\n")
    url = cmdline.rpartition("cloud-config-url=")[2]
    assert cmdline.startswith("cc:{'datasource_list': ['MAAS']}end_cc cloud-config-url=http"), cmdline
    for secret in (node.secret, node.token, node.consumer):
        assert secret not in cmdline, "kernel arguments hold no credentials"
    machine = lab.machine()
    booted_well(node, machine, machine.boot("", cmdline=cmdline), lab)
    six_good_requests(lab.relay.of(node.token))
    equal(marks(machine, "ran"), [f"{node.id}\n"], "the mark of the user-data")
    fetched = claims_of(lab, url)
    assert 2 <= len(fetched) <= 8, f"{len(fetched)} fetches of the claim"
    equal({(x.method, x.status, x.reply_headers.get("cache-control")) for x in fetched}, {("GET", 200, "no-store")}, "fetches")
    assert all(x.body.startswith(b"#cloud-config\n") for x in fetched), "what was fetched is no cloud-config"
    equal({"authorization" in x.headers for x in fetched}, {False}, "a claim is not signed")
    for text in (lab.server.log(), lab.server.cli("audit", "list", "-o", "json").decode()):
        assert url.rpartition("/")[2] not in text, "the claim's secret is in a log or the audit"


@check()
def a_claim_that_is_over_leaves_the_machine_as_it_is(lab):
    """A newer claim, or a revoked token: 410, nothing saved, and no datasource is made up."""
    node = lab.node("late-claim", user=payloads.SCRIPT)
    cmdline = node.preseed("cmdline").rstrip("\n")
    node.revoke()
    lab.refused.add(node.token)
    machine = lab.machine()
    boot = machine.boot("", cmdline=cmdline, max_wait=3)
    fetched = claims_of(lab, cmdline.rpartition("cloud-config-url=")[2])
    equal({x.status for x in fetched}, {410}, "answers")
    equal(marks(machine, "ran"), [None], "the mark of the user-data")
    assert "DataSourceMAAS" not in (boot.outcome.get("datasource") or ""), f"result.json: {boot.outcome}"
