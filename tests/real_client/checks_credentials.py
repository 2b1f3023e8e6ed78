"""Who is let in: good credentials under any clock and never a 401, bad ones never, another node's never."""

import http.client
import time

import payloads
from lab import (
    BASE,
    SIX,
    SPOILT,
    YEARS,
    check,
    equal,
    got_its_own,
    imf_date,
    six_good_requests,
    statuses,
    targets,
)


@check()
def plaintext_with_an_empty_consumer_secret_is_accepted(lab):
    """D3: the header holds `%26SECRET`, as MAAS's credentials make it."""
    for node, _, exchanges in lab.happy:
        signed = {(x.oauth("oauth_signature_method"), x.oauth("oauth_signature")) for x in exchanges}
        equal(signed, {("PLAINTEXT", f"%26{node.secret}")}, "signatures")
        six_good_requests(exchanges)


@check(*SPOILT)
def bad_credentials_end_with_nothing(case, lab):
    """D3, D6, D7: tries until max_wait, sees only 401s that can mend a clock and tell nothing, has no data."""
    _, result, exchanges = lab.refusals[case]
    ended = (result.ok, result.metadata or None, result.file("user-data"), result.vendor)
    equal(ended, (False, None, None, None), "what the client ended with")
    equal({(x.target, x.status) for x in exchanges}, {(SIX[0], 401)}, "requests and their answers")
    assert len(exchanges) >= 5, f"only {len(exchanges)} tries within max_wait"
    code = "credentials_missing" if case == "no_signature" else "credentials_refused"
    for x in exchanges:
        equal(x.reply_headers.get("www-authenticate"), 'OAuth realm="nodeinit"', "WWW-Authenticate")
        assert abs(imf_date(x) - time.time()) < 300, f"Date is off: {x.reply_headers['date']}"
        assert code in x.body.decode(), f"no {code} in {x.body.decode()!r}"


@check()
def every_refusal_says_the_same(lab):
    """D6: unknown, wrong, another's and revoked cannot be told apart."""
    refused = [x for case in SPOILT if case != "no_signature" for x in lab.refusals[case][2]]
    equal(len({bytes(x.body) for x in refused}), 1, "different bodies of 401")
    equal(len({frozenset(x.reply_headers) for x in refused}), 1, "different sets of headers of 401")


@check()
def no_path_leads_to_another_node(lab):
    """D7: alpha's good signature never yields a thing of beta's, whatever path, query and headers say."""
    (_, _, exchanges), (beta, _, _) = lab.happy
    headers = {"Authorization": exchanges[0].headers["authorization"], "X-System-Id": beta.id}
    headers |= {"X-Forwarded-For": "127.1.0.2", "X-Real-Ip": "127.1.0.2", "X-Node": beta.id}
    secrets = [beta.hostname.encode(), beta.keys[0].encode(), beta.user, beta.secret.encode()]
    for path in (
        f"{BASE}meta-data/local-hostname?system_id={beta.id}",
        f"{BASE}user-data?node={beta.id}&op=get_preseed",
        f"{BASE}{beta.id}/user-data",
        f"{BASE}meta-data/../../latest/by-id/{beta.id}/user-data",
        f"{BASE}%2e%2e/%2e%2e/{beta.id}/user-data",
        f"{BASE}meta-data/%2e%2e/user-data/{beta.id}",
        f"/MAAS/metadata/latest/by-id/{beta.id}/meta-data/local-hostname",
        f"/MAAS/metadata/latest/by-id/{beta.id}/?op=get_preseed",
        f"/MAAS/metadata/latest/enlist-preseed/?system_id={beta.id}",
        f"/MAAS/metadata/curtin/2012-03-01/meta-data/local-hostname?{beta.id}",
        f"/MAAS/metadata/status/{beta.id}",
        f"/MAAS/metadata/{beta.id}/user-data",
        f"/v1/default/nodes/{beta.id}/user-data",
        f"/{beta.id}",
    ):
        connection = http.client.HTTPConnection("127.0.0.1", lab.server.port, timeout=20)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.status < 500, f"GET {path}: {answer.status}"
        leaked = any(secret in body for secret in secrets)
        assert not leaked, f"GET {path}: {answer.status} with data of another node"


@check(
    ("ten_years_ahead", YEARS, "", "+0000"),
    ("ten_years_behind", -YEARS, "", "+0000"),
    ("an_hour_ahead", 3600, "", "+0000"),
    ("an_hour_behind", -3600, "", "+0000"),
    ("in_tokyo", 0, "Asia/Tokyo", "+0900"),
    ("in_tokyo_an_hour_ahead", 3600, "Asia/Tokyo", "+0900"),
    ("in_tokyo_ten_years_behind", -YEARS, "Asia/Tokyo", "+0900"),
)
def a_clock_never_costs_a_401(offset, zone, utc_offset, lab):
    """D8 to D11: whatever the client's clock and zone, six 200s at the first try, and no skew is noted."""
    node = lab.node(f"clock{offset}-{utc_offset[1:]}", user=payloads.SCRIPT)
    result = lab.ask(node, clock=offset, zone=zone)
    equal(result.utc_offset, utc_offset, "the client's time zone")
    exchanges = lab.relay.of(node.token)
    six_good_requests(exchanges)
    got_its_own(node, result)
    equal(result.skewed, False, "the client noted a clock skew")
    for x in exchanges:
        seen = int(x.oauth("oauth_timestamp")) - time.time()
        assert abs(seen - offset) < 900, f"the client's clock was not {offset} s off, but {seen:.0f} s"


@check()
def a_token_revoked_before_user_data_stops_the_client(lab):
    """D27: five 200s, then a 401 without the data, and nothing is applied; the next token works."""
    node = lab.node("revoked-midway", user=payloads.SCRIPT, keys=[payloads.public_key(5, "five")])
    old, preseed = node.token, node.preseed()
    lab.refused.add(old)

    def revoke(exchange):
        if exchange.target == SIX[5]:
            del lab.relay.before[old]
            node.revoke()

    lab.relay.before[old] = revoke
    result = lab.ask(node, preseed)
    equal(lab.relay.trouble, [], "trouble on the relay")
    exchanges = lab.relay.of(old)
    equal(targets(exchanges)[:6], SIX, "requests")
    equal(set(targets(exchanges)[5:]), {SIX[5]}, "what was tried again")
    equal(statuses(exchanges), [200] * 5 + [401] * (len(exchanges) - 5), "statuses")
    assert not any(payloads.SCRIPT in x.body for x in exchanges[5:]), "user-data in a 401"
    equal((result.ok, result.file("user-data")), (False, None), "what the client ended with")
    node.renew()
    assert node.token != old, "the same token after its revocation"
    got_its_own(node, lab.ask(node))
