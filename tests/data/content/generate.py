#!/usr/bin/env python3
"""Writes cases.jsonl: documents, what PyYAML makes of them, and what nodeinit does.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install pyyaml
    /tmp/venv/bin/python tests/data/content/generate.py            # writes 2500 cases
    /tmp/venv/bin/python tests/data/content/generate.py --fuzz 200000 --seed 7   # writes nothing

Fails when PyYAML does not read what nodeinit would serve, or when the two differ on a document
and none of the reasons in OURS explains it. nodeinit answers through the test content::probe.
"""
import argparse
import base64
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent

# What nodeinit names though PyYAML reads it; see the comments where the codes are made.
OURS = {
    "byte_order_mark", "more", "vendor_part_blank", "yaml_alias_expansion", "yaml_depth", "yaml_directive",
    "yaml_duplicate_key", "yaml_recursive_alias", "yaml_size", "yaml_surrogate", "yaml_tag",
    "yaml_value", "leading_space",
}

MARKERS = ("#include", "#!", "#cloud-config", "#part-handler", "#cloud-boothook", "## template: jinja")


def load(text):
    """What cloud-init's load_yaml sees: a kind and the value."""
    try:
        value = yaml.safe_load(text)
    except Exception:  # KeyError of `!!bool maybe`, OverflowError of `1:1:…:1.5`: no one catches them
        return "error", None
    if value is None:
        return "null", None
    for kind, name in ((dict, "map"), (list, "list"), (str, "str")):
        if isinstance(value, kind):
            return name, value
    return "other", value


def marker(text):
    """handlers.type_from_starts_with, as far as it matters here."""
    low = text.lower().lstrip()
    return next((m for m in MARKERS if low.startswith(m)), None)


def parts_of(value):
    if isinstance(value, str):
        return [value] if value else None
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return value
    return None


def part_is_good(part):
    try:
        part.encode("utf-8")
    except UnicodeEncodeError:
        return False
    low = part.lower().lstrip()
    if low.startswith("#cloud-config-archive"):
        return load(part)[0] == "list"
    if low.startswith("#cloud-config-jsonp"):
        try:
            patch = json.loads(part.lstrip()[len("#cloud-config-jsonp"):])
            return isinstance(patch, list) and all(isinstance(op, dict) and "op" in op for op in patch)
        except ValueError:
            return False
    if low.startswith("#cloud-config"):
        return load(part)[0] == "map"
    return bool(part.strip())


def judge(data, answer):
    """Problems with nodeinit's answer to one document, and the case to record."""
    problems = []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    kind, value = ("error", None) if text is None else load(text)
    config = text is not None and load("#cloud-config\n" + text)[0] == "map"
    # A mail, whatever its first line; that is not PyYAML's to judge.
    mail = b"mime-version:" in data[:4096].lower()
    served = answer["served"]
    refused, warned = set(answer["refused"]), set(answer["warned"])
    if served is not None:
        served = base64.b64decode(served)
        read_kind, read = load(served.decode("utf-8"))
        parts = parts_of(read.get("cloud-init")) if read_kind == "map" else None
        if parts is None:
            problems.append("served, and cloud-init would not take it")
        elif not all(map(part_is_good, parts)):
            problems.append("served a part that cloud-init would drop")
        if served != data:
            if kind == "map" and "cloud-init" in value:
                problems.append("changed a map that was already right")
            if marker(text) == "#cloud-config":
                if read.get("cloud-init") != text:
                    problems.append("a bare cloud-config did not survive the wrapping")
            elif read.get("cloud-init") != value:
                problems.append("a bare value did not survive the wrapping")
    elif not refused & OURS:
        parts = parts_of(value.get("cloud-init")) if kind == "map" else None
        # A key that comes by `<<` is not looked for.
        if parts and all(map(part_is_good, parts)) and "vendor_no_key" not in refused:
            problems.append("refused what cloud-init takes")
        if kind == "map" and "cloud-init" not in value and marker(text) == "#cloud-config":
            if part_is_good(text):
                problems.append("refused a bare cloud-config")
        if kind in ("str", "list"):
            parts = parts_of(value)
            if parts and all(marker(p) and part_is_good(p) for p in parts) and not marker(text):
                problems.append("refused a bare list or string")
    if config and not mail and warned - OURS:
        problems.append("warned of a good cloud-config")
    if not config and not mail and not warned:
        problems.append("no warning of a bad cloud-config")
    case = {"text": text} if text is not None else {"base64": base64.b64encode(data).decode()}
    case |= {"loads": kind, "cloud_config": config}
    case["served"] = None if served is None else "=" if served == data else served.decode()
    case["refused"], case["warned"] = answer["refused"], answer["warned"]
    return problems, case


def probe(documents):
    with tempfile.TemporaryDirectory() as folder:
        given, answers = os.path.join(folder, "in"), os.path.join(folder, "out")
        with open(given, "w") as out:
            out.writelines(base64.b64encode(data).decode() + "\n" for data in documents)
        subprocess.run(
            ["cargo", "test", "-q", "--test", "it", "--", "--ignored", "--exact", "content::probe"],
            cwd=HERE, check=True, stdout=subprocess.DEVNULL,
            env=os.environ | {"CONTENT_PROBE_IN": given, "CONTENT_PROBE_OUT": answers},
        )
        with open(answers) as lines:
            return [json.loads(line) for line in lines]


def handwritten():
    for line in (HERE / "nasty.jsonl").read_text().splitlines():
        case = json.loads(line)
        yield case.encode("utf-8", "surrogateescape")


PIECES = (
    "\t", " ", "  ", "\n", "\n\n", "\r\n", "\r", "\x85", "\u2028", "\ufeff", "\x7f", "\x00", "\x1b",
    ":", ": ", ":\t", "- ", "-\t", "-", "? ", "|", "|\n", ">-\n", "|2-\n", "|+1\n", "| #c\n", "#", " #",
    "[", "]", "{", "}", ",", "[]", "{}", "'", '"', "''", "\\", "\\n", "\\x41", "\\u00e9", "\\ud83d",
    "&a ", "*a", "*a ", "&b", "<<: *a\n", "<<", "=", "!", "!!str ", "!!binary ", "!x ", "!!python/none ",
    "---\n", "...\n", "--- ", "%YAML 1.1\n---\n", "%TAG ! x\n", "%", "@", "`", "~", "null", "yes", "2024-13-01",
    "2024-01-01 10:00:00 +25:00", "0x_", "0b_", "1:2:3", "._", "é", "☃", "😀", "key: value\n", "a: b\n", "cloud-init: ",
    "cloud-init: |\n  ", "#cloud-config\n", "#!/bin/sh\n", "- a\n", "  - b\n", "x" * 30, "k" * 1030 + ": v\n",
    "#cloud-config-archive\n", "#cloud-config-jsonp\n", "runcmd:\n- [ls, -l]\n", "{{ v1.x }}", "MIME-Version: 1.0\n",
)


def mutate(rng, text):
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(6):
            case 0 | 1 | 2:
                text = text[:at] + rng.choice(PIECES) + text[at:]
            case 3:
                text = text[:at] + text[at + rng.randrange(1, 4):]
            case 4:
                text = text[:at] + rng.choice(PIECES) + text[at + rng.randrange(1, 6):]
            case 5:
                lines = text.split("\n")
                line = rng.randrange(len(lines))
                lines[line] = " " * rng.randrange(4) + lines[line].lstrip(" ")
                text = "\n".join(lines)
    return text


def assemble(rng):
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9)))


def fuzzed(rng, seeds):
    while True:
        match rng.randrange(8):
            case 0:
                yield assemble(rng).encode("utf-8", "surrogatepass")
            case 1:
                data = bytearray(rng.choice(seeds))
                for _ in range(rng.randrange(1, 4)):
                    data[rng.randrange(len(data)):][:1] = b""
                    data.insert(rng.randrange(len(data) + 1), rng.randrange(256))
                yield bytes(data)
            case _:
                seed = rng.choice(seeds).decode("utf-8", "ignore")
                text = mutate(rng, seed)
                if rng.random() < 0.25:
                    # The same inside a literal block, as vendor-data holds it.
                    text = "cloud-init: |\n" + "".join(f"  {l}\n" for l in text.split("\n"))
                yield text.encode("utf-8", "surrogatepass")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--fuzz", type=int, help="check this many, write nothing")
    options.add_argument("--seed", type=int, default=20261122)
    chosen = options.parse_args()
    rng = random.Random(chosen.seed)
    seeds = list(handwritten())
    wanted = chosen.fuzz or 2500
    documents = dict.fromkeys(seeds)
    source = fuzzed(rng, [seed for seed in seeds if 0 < len(seed) < 600])
    while len(documents) < wanted:
        data = next(source)
        if data and (chosen.fuzz or len(data) < 400):
            documents[data] = None
    documents = list(documents)
    failed, accepted, cases = 0, 0, []
    for data, answer in zip(documents, probe(documents), strict=True):
        problems, case = judge(data, answer)
        cases.append(case)
        accepted += answer["served"] is not None
        for problem in problems:
            failed += 1
            if failed <= 40:
                print(problem, data, answer, file=sys.stderr)
    print(f"PyYAML {yaml.__version__}: {len(documents)} documents, {accepted} served, {failed} problems")
    if not failed and not chosen.fuzz:
        with open(HERE / "cases.jsonl", "w") as out:
            out.writelines(json.dumps(case, ensure_ascii=True) + "\n" for case in cases)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
