"""Asks oslo.policy and `nodeinit policy eval` the same random questions: oracle.py NODEINIT CASES SEED

Fails where nodeinit allows what oslo.policy denies; where it denies more, that is counted and fine.
"""
import collections, json, subprocess, sys

import make_oslo_cases as oslo

EACH, BATCH = 4, 5000  # questions about a set of rules, sets judged by one process


def judged(nodeinit, cases):
    asked = json.dumps([{"id": n, "rules": rules, "rule": rule, "creds": creds, "target": target}
                        for n, (rules, rule, creds, target) in enumerate(cases)])
    ran = subprocess.run([nodeinit, "policy", "eval", "-", "-o", "json"], input=asked.encode(),
                         stdout=subprocess.PIPE, check=True)
    answers = json.loads(ran.stdout)
    assert [answer["id"] for answer in answers] == list(range(len(cases)))
    return [("allow" if answer["allow"] else "deny") if answer["load"] == "ok" else "refuse" for answer in answers]


def main(nodeinit, count, seed):
    oslo.R.seed(seed)
    counts, wrong = collections.Counter(), []
    while (left := count - sum(counts.values())) > 0:
        creds, targets = oslo.pools()
        cases, verdicts = [], []
        for rules, asks in oslo.sets(min(BATCH, -(-left // EACH)), EACH, creds, targets):
            for rule, c, t, verdict in asks:
                cases.append((rules, rule, creds[c], targets[t]))
                verdicts.append({1: "allow", 0: "deny"}.get(verdict, "raise"))
        for case, theirs, ours in zip(cases, verdicts, judged(nodeinit, cases)):
            counts[theirs, ours] += 1
            if (theirs, ours) == ("deny", "allow"):
                wrong.append(case)
    print(f"policy-oracle: {sum(counts.values())} cases, seed {seed}")
    for (theirs, ours), n in sorted(counts.items()):
        print(f"  oslo.policy {theirs:5}  nodeinit {ours:6}  {n}")
    for case in wrong[:5]:
        print("ALLOWED, and oslo.policy denies it:", json.dumps(case, ensure_ascii=False), file=sys.stderr)
    if wrong or counts["allow", "allow"] * 50 < count:
        sys.exit(f"policy-oracle: {len(wrong)} cases are allowed that oslo.policy denies, "
                 f"{counts['allow', 'allow']} are allowed by both")


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
