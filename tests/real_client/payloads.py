"""User-data in every form that cloud-init runs, and in forms that only have to arrive as they are."""

import base64
import gzip
import random

MARKS = "/var/marks"
SCRIPT = f"#!/bin/sh\nmkdir -p {MARKS}\ncat /var/lib/cloud/data/instance-id >> {MARKS}/ran\n".encode()
CONFIG = (
    f"#cloud-config\nruncmd:\n- [mkdir, -p, {MARKS}]\n"
    f"- [sh, -c, 'cat /var/lib/cloud/data/instance-id >> {MARKS}/ran']\n"
).encode()


def noise(size):
    """The same bytes in every run, which no decoder takes for anything."""
    return b"\x00\xff" + random.Random(size).randbytes(size - 2)


def squeeze(data):
    return gzip.compress(data, mtime=0)


def multipart(newline):
    """A script in base64 and a cloud-config as it is, each leaving a mark of its own."""
    script = base64.encodebytes(SCRIPT).decode()
    config = CONFIG.decode().replace("/ran", "/configured")
    text = (
        'Content-Type: multipart/mixed; boundary="=====nodeinit=="\nMIME-Version: 1.0\n\n'
        '--=====nodeinit==\nContent-Type: text/x-shellscript; charset="utf-8"\nMIME-Version: 1.0\n'
        f'Content-Transfer-Encoding: base64\nContent-Disposition: attachment; filename="one.sh"\n\n{script}\n'
        '--=====nodeinit==\nContent-Type: text/cloud-config; charset="utf-8"\nMIME-Version: 1.0\n'
        f'Content-Disposition: attachment; filename="two.yaml"\n\n{config}\n--=====nodeinit==--\n'
    )
    return text.replace("\n", newline).encode()


def indented(data):
    return "".join(f"    {line}\n" for line in data.decode().splitlines()).encode()


RUN = {
    "a_script": SCRIPT,
    "a_gzipped_script": squeeze(SCRIPT),
    "a_multipart_with_lf": multipart("\n"),
    "a_multipart_with_crlf": multipart("\r\n"),
    "a_gzipped_multipart": squeeze(multipart("\n")),
    "a_cloud_config": CONFIG,
    "a_cloud_config_with_crlf": CONFIG.replace(b"\n", b"\r\n"),
    "a_jinja_template": b"## template: jinja\n"
    + SCRIPT.replace(b"cat /var/lib/cloud/data/instance-id", b"echo {{ v1.instance_id }}"),
    "an_archive": b"#cloud-config-archive\n- type: text/x-shellscript\n  content: |\n" + indented(SCRIPT),
    "a_boothook": b"#cloud-boothook\n" + SCRIPT,
}

ARRIVE = {
    "every_byte_value": bytes(range(256)),
    "one_mib_of_noise": noise(1 << 20),
    "sixteen_mib_of_noise": noise(16 << 20),
    "a_script_in_latin_1": "#!/bin/sh\necho gr\u00fcn \u00e9t\u00e9\n".encode("latin-1"),
    "text_with_a_byte_order_mark": b"\xef\xbb\xbf#cloud-config\r\n{}\r\n\r\n",
    "text_without_a_final_newline": b"#!/bin/sh\n\ttrue \t",
    "base64_text": base64.encodebytes(SCRIPT),
    "a_script": SCRIPT,
    "a_gzip": squeeze(SCRIPT),
    "a_multipart_with_crlf": multipart("\r\n"),
    "a_gzipped_multipart": squeeze(multipart("\n")),
}


def public_key(number, comment, options=""):
    """An ed25519 key line that any parser takes; its private half was never made."""
    body = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + random.Random(number).randbytes(32)
    return f"{options}{' ' if options else ''}ssh-ed25519 {base64.b64encode(body).decode()} {comment}"


KEYS = {
    "no_key": [],
    "one_key": [public_key(1, "one@lab")],
    "fifty_keys": [public_key(number, f"k{number}@lab") for number in range(100, 150)],
    "a_key_with_options": [public_key(2, "two@lab", 'command="echo \\"a b\\", c",no-pty')],
    "a_key_with_a_utf8_comment": [public_key(3, "J\u00fcrgen \u65e5\u672c\u8a9e \U0001f511")],
}

HOSTNAMES = {
    "an_fqdn": "rack7.site.example.com",
    "a_single_label": "rack8",
    "253_bytes": ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61)),
    "an_a_label": "xn--bcher-kva.example",
    "mixed_case": "Rack9.Example.COM",
}

NO_HOSTNAMES = {
    "an_ipv4_address": "192.0.2.7",
    "two_lines": "rack7.example.com\nrack8.example.com",
    "254_bytes": ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 62)),
    "nothing": "",
}

PART = f"#!/bin/sh\nmkdir -p {MARKS}\necho part >> {MARKS}/vendor\n"
PART_CONFIG = (
    "#cloud-config\nwrite_files:\n"
    f"- {{path: {MARKS}/conflict, content: vendor}}\n"
    f"runcmd:\n- [sh, -c, 'echo config >> {MARKS}/vendor-config']\n"
)
# (what is stored, what the client makes of it)
VENDOR = {
    "a_bare_cloud_config": (PART_CONFIG.encode(), PART_CONFIG),
    "a_map_with_text": (b"cloud-init: |\n" + indented(PART_CONFIG.encode()), PART_CONFIG),
    "a_map_with_a_list": (
        b"cloud-init:\n- |\n" + indented(PART.encode()) + b"- |\n" + indented(PART_CONFIG.encode()),
        [PART, PART_CONFIG],
    ),
}
OVERRIDING = f"#cloud-config\nwrite_files:\n- {{path: {MARKS}/conflict, content: user}}\n".encode()
