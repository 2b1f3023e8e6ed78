#!/usr/bin/env python3
"""Writes oslo_cases.json: random rules in both languages, and what oslo.policy makes of them.

    python3 -m venv v && v/bin/pip install oslo.policy==6.0.1
    v/bin/python make_oslo_cases.py > oslo_cases.json

creds and targets are pools; a set is [rules, [[rule, creds index, target index, verdict], ...]]
with verdict 1 allow, 0 deny, "x" the engine raised, "l" it raised while loading.
texts are [rule text, oslo's canonical spelling or null where it raised]; the default rule is "default".
"""
import json, logging, random, warnings

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
from oslo_config import cfg
from oslo_policy import _checks, _parser, policy

R = random.Random(20120301)
SETS, ASKS, TEXTS, POOL = 5000, 4, 1500, 90
NAMES = ["a", "b", "c", "x:y", "default"]
below = NAMES  # the rules that a reference may name
TEXT = ["m", "M", "p1", "u1", "None", "True", "5", "", "é", "a%b", "1.5", "%(k)s", "['m']", "m m"]
KEYS = ["k", "project_id", "node.project_id", "gone", "n"]
SEGMENTS = ["user_id", "project_id", "is_admin", "groups", "groups.name", "user.id", "user.d.id",
            "k-k", "user", "absent", "lambda", "roles"]
LITERALS = ["True", "False", "None", "'m'", '"M"', "5", "-1", "0"]


def scalar():
    return R.choice([None, True, False, 5, 0, -1, 1.5, 1e-7, 2.0, 0.1] + TEXT * 2)


def value(depth=0):
    n = R.random()
    if depth < 3 and n < 0.14:
        return [value(depth + 1) for _ in range(R.randrange(4))]
    if depth < 3 and n < 0.24:
        return {R.choice(["id", "name", "d", "m"]): value(depth + 1) for _ in range(R.randrange(3))}
    return scalar()


def creds():
    c = {k: value() for k in ["user_id", "project_id", "is_admin", "groups", "user", "k-k", "lambda"]
         if R.random() < 0.7}
    if R.random() < 0.5:
        c["groups"] = R.choice([[], ["m", "p1"], [{"name": "m"}, {"name": "u1"}, {}], [{"id": 5}], [1, 2.0, None]])
    if R.random() < 0.5:
        c["user"] = {"id": scalar(), "d": R.choice([None, {"id": scalar()}, [{"id": scalar()}]])}
    n = R.random()
    if n < 0.85:
        c["roles"] = R.sample(["m", "M", "admin", "Reader", "é", "None", "5", "a:b"], R.randrange(4))
    elif n < 0.95:
        c["roles"] = R.choice([None, "admin", "m", [None, "m"], [["m"]], {"m": 1}, ["m", 5], [""], True])
    return c


def target():
    t = {k: value() for k in KEYS if k != "gone" and R.random() < 0.75}
    if R.random() < 0.2:
        t["node"] = {"project_id": "p1"}
    return t


def match():
    n = R.random()
    if n < 0.45:
        return f"%({R.choice(KEYS)})s"
    if n < 0.55:
        return R.choice(["p-", "", "m"]) + f"%({R.choice(KEYS)})s" + R.choice(["", ":x", "%%"])
    if n < 0.555:
        return R.choice(["%(k)d", "%s", "%", "%(k", "%()s", "%(%(k)s)s", "100%", "", "%(k)-5s", "a%%b"])
    return R.choice(["m", "M", "p1", "u1", "None", "True", "False", "5", "1.5", "1e-07", "2.0", "0.1", "é", "0"])


def check():
    n = R.random()
    if n < 0.06:
        return R.choice(["@", "!"])
    if n < 0.26:
        return ("rule:" + R.choice(below * 9 + ["gone"]) if below else "role:m")
    if n < 0.48:
        return "role:" + (match() if R.random() < 0.3 else R.choice(["m", "admin", "ADMIN", "reader", "x", "a:b"]))
    if n < 0.80:
        return R.choice(SEGMENTS) + ":" + match()
    if n < 0.993:
        return R.choice(LITERALS) + ":" + match()
    return R.choice(["bogus", "()", '"m"', "'m'", "@@", "ROLE:m", "1a:m", ":m", "user.:m", "!role:m", "not:m",
                     "0x5:5", "[1]:1", "None.x:m", "1.5:1.5", "and", "'m'm':m", "role:m,", "http://127.0.0.1:9/"])


def text(depth=0):
    n = R.random()
    if depth > 3 or n < 0.42:
        return check()
    if n < 0.57:
        return R.choice(["not ", "NOT ", "not  "]) + text(depth + 1)
    if n < 0.80:
        word = R.choice([" and ", " or ", " AND ", " Or "])
        return word.join(text(depth + 1) for _ in range(R.randrange(2, 4)))
    if n < 0.995:
        return R.choice(["({})", "( {} )", "(({}))"]).format(text(depth + 1))
    return R.choice(["", " ", "(", ")", "and", "or not", "a b"]) + text(depth + 1)


def listed():
    n = R.random()
    if n < 0.04:
        return R.choice([[], [[]], [""], [[""]], [None], [["m", 1]], [{}], [["role:m"], []], [[["role:m"]]]])
    inner = lambda: check() if R.random() < 0.3 else [check() for _ in range(R.randrange(1, 4))]
    return [inner() for _ in range(R.randrange(1, 4))]


def rule():
    n = R.random()
    if n < 0.02:
        return R.choice([None, False, 0, {}, 1.5, True, {"role": "m"}, "", ""])
    return listed() if n < 0.3 else text()


def mutated(t):
    for _ in range(R.randrange(0, 3)):
        at = R.randrange(len(t) + 1)
        noise = R.choice(list("()%:'\"@! \t\nsnot.,-0Ax") + ["and", "or", "not", " or ", "\u00a0", "\ufeff", "é"])
        t = t[:at] + (noise if R.random() < 0.6 else "") + t[at + R.randrange(2):]
    return t


def spelt(check):
    """str(check), with "a and (b and c)" as one list: oslo nests by the order of its reductions."""
    if isinstance(check, _checks.NotCheck):
        return "not " + spelt(check.rule)
    for kind, word in ((_checks.AndCheck, " and "), (_checks.OrCheck, " or ")):
        if type(check) is kind:
            flat = lambda c: [x for r in c.rules for x in (flat(r) if type(r) is kind else [r])]
            return "(" + word.join(map(spelt, flat(check))) + ")"
    return str(check)


def canonical(t):
    try:
        return spelt(_parser.parse_rule(t))
    except Exception:
        return None


def loaded(rules):
    try:
        return policy.Rules.from_dict(rules, "default")
    except Exception:
        return None


def verdict(parsed, name, c, t):
    enforcer.set_rules(parsed, use_conf=False)
    try:
        return int(bool(enforcer.enforce(name, t, json.loads(json.dumps(c)))))
    except Exception:
        return "x"


def sets(count, asks_each, all_creds, all_targets):
    """Rules, and what oslo says to some questions about them."""
    global below
    for _ in range(count):
        names = R.sample(NAMES, R.randrange(1, 5))
        # Mostly downwards, or nearly every set would hold a cycle.
        rules = {}
        for n, name in enumerate(names):
            below = names if R.random() < 0.03 else names[n + 1:]
            rules[name] = rule()
        parsed = loaded(rules)
        asks = []
        for _ in range(asks_each):
            name = R.choice(names + ["gone"]) if R.random() < 0.3 else names[0]
            ci, ti = R.randrange(POOL), R.randrange(POOL)
            asks.append([name, ci, ti, "l" if parsed is None else
                         verdict(parsed, name, all_creds[ci], all_targets[ti])])
        yield [rules, asks]


def pools():
    return [creds() for _ in range(POOL)], [target() for _ in range(POOL)]


enforcer = policy.Enforcer(cfg.ConfigOpts(), use_conf=False)

if __name__ == "__main__":
    all_creds, all_targets = pools()
    all_sets = list(sets(SETS, ASKS, all_creds, all_targets))
    texts = [mutated(text()) for _ in range(TEXTS)]
    lines = lambda rows: ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    print('{"engine":"oslo.policy 6.0.1","creds":[\n%s],"targets":[\n%s],"sets":[\n%s],"texts":[\n%s]}' % (
        lines(all_creds), lines(all_targets), lines(all_sets), lines([[t, canonical(t)] for t in texts])))
