"""What a node gets: its own five things, byte for byte, in six requests, whatever they are made of."""

import re

import payloads
from lab import SIX, check, equal, got_its_own, imf_date, same_bytes, six_good_requests, targets


@check(("alpha", 0, "a_map_with_a_list"), ("beta", 1, "a_map_with_text"))
def a_node_gets_its_own_data_and_nothing_else(which, vendor, lab):
    """D1, D7: id, hostname, keys, vendor-data and user-data as stored, with two nodes asking at once."""
    node, result, _ = lab.happy[which]
    got_its_own(node, result)
    equal(result.vendor, payloads.VENDOR[vendor][1], "vendor-data as cloud-init reads it")


@check(("alpha", 0), ("beta", 1))
def the_client_makes_six_requests_in_order(which, lab):
    """D1: exactly the six GETs, each answered 200; the User-Agents are those of this version."""
    _, result, exchanges = lab.happy[which]
    six_good_requests(exchanges)
    agents = [x.headers["user-agent"].split("/")[0] for x in exchanges]
    later = "python-requests" if result.version.startswith("22.") else "Cloud-Init"
    equal(agents, ["Cloud-Init"] + [later] * 5, "User-Agents")
    assert exchanges[0].headers["user-agent"] == f"Cloud-Init/{result.version}"


@check()
def bodies_are_exact(lab):
    """D2: no trailing newline, an exact Content-Length, and the headers that every answer carries."""
    for node, _, exchanges in lab.happy:
        bodies = [bytes(x.body) for x in exchanges]
        equal(bodies[:2], [node.id.encode()] * 2, "instance-id")
        equal(bodies[2], node.hostname.encode(), "local-hostname")
        equal(sorted(bodies[3].decode().split("\n")), sorted(node.keys), "public-keys")
        same_bytes(bodies[4], node.vendor, "vendor-data on the wire")
        same_bytes(bodies[5], node.user, "user-data on the wire")
        kinds = [x.reply_headers.get("content-type", "").split(";")[0] for x in exchanges]
        expected = ["text/plain"] * 4 + ["application/x-yaml", "application/octet-stream"]
        equal(kinds, expected, "Content-Types")
        for x in exchanges:
            has = x.reply_headers
            assert x.complete, f"{x.target}: the body was cut"
            equal(has.get("content-length"), str(len(x.body)), f"{x.target} Content-Length")
            equal(has.get("cache-control"), "no-store", f"{x.target} Cache-Control")
            equal(has.get("vary", "").lower(), "authorization", f"{x.target} Vary")
            assert has.get("x-request-id"), f"{x.target}: no X-Request-Id"
            imf_date(x)


@check()
def the_preseed_is_what_cloud_init_reads(lab):
    """D42 in part: `#cloud-config` first, the list on one line, exactly four keys, in both forms of file."""
    node, result, _ = lab.happy[0]
    four = dict(consumer_key=node.consumer, token_key=node.token, token_secret=node.secret)
    four["metadata_url"] = lab.relay.url
    equal(result.given, four, "datasource.MAAS of cloud-config")
    other = lab.ask(node, node.preseed("cloud-cfg-d"), max_wait=0)
    equal(other.given, four, "datasource.MAAS of cloud-cfg-d")
    text = node.preseed("cloud-config")
    assert text.startswith("#cloud-config\n"), f"cloud-config begins with {text[:40]!r}"
    for form in ("cloud-config", "cloud-cfg-d"):
        lines = re.findall("^datasource_list:.*$", node.preseed(form), re.M)
        equal(lines, ["datasource_list: [ MAAS ]"], f"datasource_list of {form}")


@check(*payloads.ARRIVE)
def user_data_arrives_byte_for_byte(name, lab):
    """D29, D30: as application/octet-stream, never decoded, never re-encoded."""
    node = lab.node(f"arrive-{name}", user=payloads.ARRIVE[name])
    result = lab.ask(node)
    got_its_own(node, result)
    exchanges = lab.relay.of(node.token)
    six_good_requests(exchanges)
    same_bytes(bytes(exchanges[5].body), node.user, "user-data on the wire")
    has = exchanges[5].reply_headers
    equal(has.get("content-type"), "application/octet-stream", "Content-Type")
    equal(has.get("content-encoding"), None, "Content-Encoding")


@check(*payloads.VENDOR)
def vendor_data_is_what_the_operator_wrote(name, lab):
    """D34, D35: a map as stored, a bare `#cloud-config` wrapped; the client reads the text unchanged."""
    stored, read = payloads.VENDOR[name]
    node = lab.node(f"vendor-{name}", vendor=stored)
    result = lab.ask(node)
    got_its_own(node, result)
    equal(result.vendor, read, "vendor-data as cloud-init reads it")
    answer = lab.relay.of(node.token)[4]
    kind = answer.reply_headers.get("content-type")
    equal(kind, "application/x-yaml; charset=utf-8", "Content-Type")
    if stored.startswith(b"cloud-init:"):
        same_bytes(bytes(answer.body), stored, "vendor-data on the wire")


@check(*payloads.KEYS)
def public_keys_arrive_one_a_line(name, lab):
    """D36: none, one, fifty, with options, with a UTF-8 comment; in the same order each time."""
    node = lab.node(f"keys-{name}", keys=payloads.KEYS[name])
    results = [lab.ask(node) for _ in range(2)]
    for result in results:
        got_its_own(node, result)
    equal(results[0].keys, results[1].keys, "order of the keys")


@check(*payloads.HOSTNAMES)
def a_hostname_arrives_as_given(name, lab):
    """D37: the name on the wire is the operator's, in every letter."""
    node = lab.node(f"host-{name}", hostname=payloads.HOSTNAMES[name])
    got_its_own(node, lab.ask(node))


@check(*payloads.NO_HOSTNAMES)
def what_is_no_hostname_is_refused(name, lab):
    """D37: cloud-init would rename the machine, or take the newline into its name."""
    command = ("node", "add", f"nohost-{name.replace('_', '-')}", "--hostname", payloads.NO_HOSTNAMES[name])
    done = lab.server.try_cli(*command)
    assert done.returncode in (1, 2), f"exit {done.returncode}: {done.stderr.decode(errors='replace')}"


@check()
def a_node_with_nothing_takes_six_requests(lab):
    """D21: no keys, no vendor-data, no user-data are three empty 200s; nothing is asked for twice."""
    node = lab.node("bare")
    got_its_own(node, lab.ask(node))
    exchanges = lab.relay.of(node.token)
    six_good_requests(exchanges)
    equal([bytes(x.body) for x in exchanges[3:]], [b""] * 3, "optional bodies")
    equal([x.reply_headers.get("content-length") for x in exchanges[3:]], ["0"] * 3, "Content-Length")


@check()
def latest_equals_2012_03_01(lab):
    """D16: item by item, signed by the client itself; another version is 404."""
    vendor = payloads.VENDOR["a_map_with_text"][0]
    key = payloads.public_key(6, "six")
    node = lab.node("latest", user=payloads.SCRIPT, keys=[key], vendor=vendor)
    items = ["", "meta-data/", *(path.removeprefix("/MAAS/metadata/2012-03-01/") for path in SIX[1:])]
    versions = ("2012-03-01", "latest", "2009-04-04")
    urls = [f"{lab.relay.url}{version}/{item}" for version in versions for item in items]
    result = lab.ask(node, urls=urls)
    answers = lab.relay.of(node.token)[6:]
    equal(targets(answers), [url.partition(str(lab.relay.port))[2] for url in urls], "requests")
    count = len(items)
    equal(list(result.fetched.values()), [200] * 2 * count + [404] * count, "what the client made of them")
    dated, latest, unknown = (answers[start : start + count] for start in (0, count, 2 * count))
    for one, other in zip(dated, latest):
        equal(other.body, one.body, other.target)
        equal(other.reply_headers.get("content-type"), one.reply_headers.get("content-type"), other.target)
    equal({bytes(x.body) for x in unknown}, {b"Unknown metadata version: 2009-04-04"}, "bodies of 404")
    equal(bytes(dated[0].body), b"meta-data\nuser-data", "the listing of a version")
    names = b"instance-id\nlocal-hostname\npublic-keys\nvendor-data"
    equal(bytes(dated[1].body), names, "the listing of meta-data")
