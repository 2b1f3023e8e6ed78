#!/usr/bin/env python3
"""Writes vectors.json: requests signed by oauthlib, the library that cloud-init signs with.

    python3 -m venv venv && venv/bin/pip install oauthlib==4.0.1
    venv/bin/python make_vectors.py

Timestamps and nonces are counted, not drawn, so that the same oauthlib writes the same bytes.
"""

import itertools
import json
import pathlib
from urllib.parse import urlsplit

from oauthlib.oauth1 import Client
from oauthlib.oauth1.rfc5849 import signature
from oauthlib.oauth1.rfc5849.utils import parse_authorization_header, unescape

URLS = [
    "http://Metadata.Example.COM:80/MAAS/metadata/2012-03-01/meta-data/instance-id",
    "https://metadata.example.com:443/MAAS/metadata/latest/user-data",
    "http://10.0.2.2:5240/MAAS/metadata/status/abc-123?",
    "http://[FEC0::2]:5240/MAAS/metadata//2012-03-01/",
    "http://maas/?op=signal&a=2&a=1&a1=0&c%40=&a2=r%20b+c&b5=%3D%253D&bare&&%C3%A9=%e2%82%ac&%2B=+",
    "https://h.example:8443/a%2Fb/./c/../%7Euser//x;p=1:@!$'()*,+/?x=~-._*",
]

METHODS = ["PLAINTEXT", "HMAC-SHA1", "HMAC-SHA256"]

# (HTTP method, Content-Type, body); with JSON, oauthlib adds oauth_body_hash.
BODIES = [
    ("GET", None, None),
    (
        "POST",
        "application/x-www-form-urlencoded",
        "status=OK&error=it+works+%26+more&a=3&a=%2B&%c3%89t%C3%A9=1&c2&realm=r&z=%2520",
    ),
    ("put", "application/json", '{"event_type": "start", "name": "d\u00e9but & co"}'),
]

CREDENTIALS = [
    {
        "consumer_key": "RzVHbx3dF7mQkP2sWn",
        "consumer_secret": "",
        "token_key": "AJuHc4XyTq8LdGz5Ke",
        "token_secret": "EjDbV7nMw3RkYp5XsZt9HcQa2GfLd8Ub",
    },
    {
        "consumer_key": 'c,k=" \\\u00e9%2C',
        "consumer_secret": "c&s=c+ %26~",
        "token_key": "t+k/\u00e9\u20ac realm",
        "token_secret": "s&e=c %~\"'/+\U0001f511%2B",
    },
]

REALMS = [None, "a, b=c; 100% oauth_token="]


def vector(number, url, method, body, credentials, realm):
    http_method, content_type, body = body
    headers = {"Content-Type": content_type} if content_type else {}
    client = Client(
        credentials["consumer_key"],
        client_secret=credentials["consumer_secret"],
        resource_owner_key=credentials["token_key"],
        resource_owner_secret=credentials["token_secret"],
        signature_method=method,
        realm=realm,
        nonce=f"nonce {number}/\u00fc",
        timestamp=str(1795315000 + number),
    )
    _, signed, _ = client.sign(url, http_method, body, headers, realm)
    is_form = content_type == "application/x-www-form-urlencoded"
    parts = urlsplit(url)
    target = url[url.index(parts.netloc) + len(parts.netloc) :]
    parameters = signature.collect_parameters(
        uri_query=parts.query, body=body if is_form else None, headers=signed
    )
    base_string = signature.signature_base_string(
        http_method,
        signature.base_string_uri(url),
        signature.normalize_parameters(parameters),
    )
    # Guards the generator itself: the base string written down is the one that was signed.
    if method != "PLAINTEXT":
        sign = client.SIGNATURE_METHODS[method]
        header = dict(parse_authorization_header(signed["Authorization"]))
        assert sign(base_string, client) == unescape(header["oauth_signature"]), (url, method)
    return {
        "authorization": signed["Authorization"],
        "method": http_method,
        "scheme": parts.scheme,
        "host": parts.netloc,
        "target": target,
        "form": body if is_form else None,
        "signature_method": method,
        "timestamp": 1795315000 + number,
        "nonce": f"nonce {number}/\u00fc",
        **credentials,
        "base_string": base_string,
    }


cases = itertools.product(URLS, METHODS, BODIES, CREDENTIALS, REALMS)
vectors = [vector(number, *case) for number, case in enumerate(cases)]
lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in vectors)
pathlib.Path(__file__).with_name("vectors.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
print(f"{len(vectors)} vectors")
