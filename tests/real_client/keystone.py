"""What real clients of Keystone's v2.0 make of the built server: `ok NAME` or `FAIL NAME: why`, and at last a count.

usage: keystone.py BINARY WORK        scripts/real-operators runs it with the Python that has keystoneauth1
"""

import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import traceback
import urllib.parse

import requests
import webob
from essex import AuthToken
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v2
from keystonemiddleware import auth_token
from server import Server

ADMIN = ("root", "password of root")
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def equal(got, expected, what=""):
    assert got == expected, f"{what or 'got'}: {got!r}, expected {expected!r}"


class Unix(http.client.HTTPConnection):
    """HTTP over the admin socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Lab:
    """A server with an admin, two projects, and alice, who provisions in the first of them."""

    def __init__(self, server):
        self.server = server
        self.url = self.server.admin_url
        self.auth_url = f"{self.url}/v2.0"
        body = json.dumps({"name": ADMIN[0], "password": ADMIN[1]})
        connection = Unix(os.path.join(self.server.state, "admin.sock"))
        connection.request("POST", "/v1/bootstrap", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status in (200, 201), f"bootstrap: {answer.status} {answer.read()!r}"
        self.admin = Client(self, *ADMIN)
        self.t1, self.t2 = (self.make("tenant", name=name)["id"] for name in ("t1", "t2"))
        self.alice = self.make_user("alice", "provisioner", self.t1)

    def make(self, noun, **fields):
        answer = self.admin.session.post(f"{self.auth_url}/{noun}s", json={noun: fields})
        return answer.json()[noun]

    def make_user(self, name, role, project):
        user = self.make("user", name=name, password=f"password of {name}")
        self.grant(user, role, project)
        return user

    def grant(self, user, role, project):
        path = f"/tenants/{project}/users/{user['id']}/roles/OS-KSADM/{role}"
        equal(self.admin.session.put(self.auth_url + path).status_code, 204, "the grant")

    def revoke(self, token):
        equal(self.admin.session.delete(f"{self.auth_url}/tokens/{token}").status_code, 204, "the revocation")

    def client(self, name, project):
        return Client(self, name, f"password of {name}", project)


class Client:
    """A real keystoneauth1 session, and every answer it got."""

    def __init__(self, lab, name=None, password=None, project="default", auth=None):
        self.answers = []
        wire = requests.Session()
        wire.hooks["response"].append(self._keep)
        auth = auth or v2.Password(lab.auth_url, username=name, password=password, tenant_name=project)
        self.session = session.Session(auth=auth, session=wire)
        self.whoami_url = f"{lab.url}/v1/whoami"

    def _keep(self, answer, **_):
        path = urllib.parse.urlsplit(answer.url).path
        self.answers.append((answer.request.method, path, answer.status_code))

    def whoami(self):
        return self.session.get(self.whoami_url).json()


LOGIN = ("POST", "/v2.0/tokens", 200)


@check
def v2_password_logs_in_and_asks_who_it_is(lab):
    client = lab.client("alice", "t1")
    who = client.whoami()
    equal((who["user"], who["project"], who["roles"]), ("alice", "t1", ["provisioner"]))
    equal(client.answers, [LOGIN, ("GET", "/v1/whoami", 200)])
    client.whoami()
    equal(client.answers[2:], [("GET", "/v1/whoami", 200)], "the token is used again")
    access = client.session.auth.get_access(client.session)
    equal((access.username, access.user_id), ("alice", lab.alice["id"]))
    equal((access.project_name, access.project_id), ("t1", lab.t1))
    equal(access.role_names, ["provisioner"])
    equal(access.will_expire_soon(), False, "it expires soon")
    equal(access.will_expire_soon(stale_duration=3601), True, "it expires within the hour")


@check
def v2_password_takes_a_tenant_id_or_none(lab):
    by_id = v2.Password(lab.auth_url, username="alice", password="password of alice", tenant_id=lab.t1)
    equal(Client(lab, auth=by_id).whoami()["project"], "t1")
    unscoped = Client(lab, auth=v2.Password(lab.auth_url, username="alice", password="password of alice"))
    who = unscoped.whoami()
    equal((who["user"], who["project"], who["roles"]), ("alice", None, []))
    equal([t["name"] for t in unscoped.session.get(f"{lab.auth_url}/tenants").json()["tenants"]], ["t1"])


@check
def v2_token_takes_a_token_to_another_project(lab):
    lab.grant(lab.alice, "reader", lab.t2)
    first = lab.client("alice", "t1")
    token = first.session.get_token()
    second = Client(lab, auth=v2.Token(lab.auth_url, token, tenant_name="t2"))
    who = second.whoami()
    equal((who["user"], who["project"], who["roles"]), ("alice", "t2", ["reader"]))
    equal(who["expires_at"], first.whoami()["expires_at"], "the expiry of its parent")
    assert second.session.get_token() != token


@check
def users_are_listed_and_created(lab):
    before = [user["name"] for user in lab.admin.session.get(f"{lab.auth_url}/users").json()["users"]]
    assert "alice" in before and "root" in before, before
    user = {"name": "bob", "password": "password of bob", "tenantId": lab.t1, "enabled": True}
    made = lab.admin.session.post(f"{lab.auth_url}/users", json={"user": user}).json()["user"]
    equal((made["name"], made["username"], made["tenantId"], made["enabled"]), ("bob", "bob", lab.t1, True))
    assert "password" not in made, made
    after = [user["name"] for user in lab.admin.session.get(f"{lab.auth_url}/users").json()["users"]]
    equal(sorted(after), sorted([*before, "bob"]))
    equal(lab.client("bob", "t1").whoami()["roles"], ["reader"])
    equal(lab.admin.session.get(f"{lab.auth_url}/users/{made['id']}").json()["user"], made)
    equal(lab.admin.session.delete(f"{lab.auth_url}/users/{made['id']}").status_code, 204)


@check
def refusals_are_the_exceptions_that_keystoneauth_has_for_them(lab):
    alice = lab.client("alice", "t1")
    for expected, act in [
        (exceptions.Unauthorized, lambda: Client(lab, "alice", "wrong password", "t1").whoami()),
        (exceptions.Unauthorized, lambda: Client(lab, "mallory", "wrong password", "t1").whoami()),
        (exceptions.Forbidden, lambda: alice.session.get(f"{lab.auth_url}/users")),
        (exceptions.NotFound, lambda: lab.admin.session.get(f"{lab.auth_url}/users/nope")),
        (exceptions.BadRequest, lambda: lab.make("user", name="")),
        (exceptions.Conflict, lambda: lab.make("user", name="ALICE")),
        (exceptions.BadRequest, lambda: alice.session.get(f"{lab.url}/v1/t2/nodes")),
    ]:
        try:
            act()
        except expected as error:
            assert "password of" not in str(error) and "Unrecognized" not in str(error), error
        else:
            raise AssertionError(f"not refused with {expected.__name__}")
    equal([answer for answer in alice.answers if answer == LOGIN], [LOGIN], "a 403 is no reason to log in again")


@check
def c26_v2_password_logs_in_again_after_a_401(lab):
    client = lab.client("alice", "t1")
    client.whoami()
    lab.revoke(client.session.get_token())
    equal(client.whoami()["user"], "alice")
    call = ("GET", "/v1/whoami")
    equal(client.answers, [LOGIN, (*call, 200), (*call, 401), LOGIN, (*call, 200)])
    # A body is sent again whole.
    lab.revoke(client.session.get_token())
    node = {"system_id": "n1", "hostname": "n1.example.com"}
    equal(client.session.post(f"{lab.url}/v1/t1/nodes", json=node).json()["system_id"], "n1")


@check
def a_static_token_that_is_revoked_stays_so(lab):
    token = lab.client("alice", "t1").session.get_token()
    client = Client(lab, auth=v2.Token(lab.auth_url, token))
    lab.revoke(token)
    try:
        client.whoami()
    except exceptions.Unauthorized:
        equal(client.answers, [("POST", "/v2.0/tokens", 401)])
    else:
        raise AssertionError("a revoked token was taken for another")


def curl(*arguments):
    command = ["curl", "-sS", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    equal((done.returncode, done.stderr), (0, ""), "curl")
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def curl_line(lab, name, *headers):
    """The create-user line that people have in their notes."""
    body = (
        '{"user": {"name": "' + name + '", "OS-KSADM:password": "password", "enabled": true, '
        '"tenantId": "' + lab.t1 + '", "email": "e@example.com"}}'
    )
    given = [word for header in headers for word in ("-H", header)]
    token = f"X-Auth-Token: {lab.admin.session.get_token()}"
    return curl("-X", "POST", f"{lab.auth_url}/users", "-H", token, *given, "-d", body)


@check
def u01_the_curl_line_as_it_is_written(lab):
    status, body = curl_line(lab, "thuanqin", "Content-Type: application/json")
    equal(status, 200, body)
    user = json.loads(body)["user"]
    equal(len(user.pop("id")), 32)
    expected = {"name": "thuanqin", "username": "thuanqin", "enabled": True, "tenantId": lab.t1}
    equal(user, {**expected, "email": "e@example.com"})
    equal(Client(lab, "thuanqin", "password", "t1").whoami()["roles"], ["reader"])


def behind_auth_token(lab, name):
    """The middleware with a user of its own in role `service`, and an application that keeps what it saw."""
    if name:
        lab.make_user(name, "service", lab.t2)
    seen = []

    def application(env):
        seen.append(env)
        return 200

    return AuthToken(application, lab.url, name, f"password of {name}", "t2"), seen


@check
def h07_the_essex_middleware_gets_what_it_needs(lab):
    middleware, seen = behind_auth_token(lab, "nova")
    token = lab.client("alice", "t1").session.get_token()
    spoofed = {"HTTP_X_AUTH_TOKEN": token, "HTTP_X_ROLES": "admin", "HTTP_X_TENANT_ID": lab.t2, "HTTP_X_USER": "root"}
    equal(middleware(dict(spoofed)), 200)
    expected = {
        "HTTP_X_AUTH_TOKEN": token,
        "HTTP_X_IDENTITY_STATUS": "Confirmed",
        "HTTP_X_TENANT_ID": lab.t1,
        "HTTP_X_TENANT_NAME": "t1",
        "HTTP_X_USER_ID": lab.alice["id"],
        "HTTP_X_USER_NAME": "alice",
        "HTTP_X_ROLES": "provisioner",
        "HTTP_X_USER": "alice",
        "HTTP_X_TENANT": "t1",
        "HTTP_X_ROLE": "provisioner",
    }
    equal(seen, [expected])
    equal(middleware.calls, [("POST", "/v2.0", 200), ("GET", "/v2.0/tokens", 200)])
    equal(middleware({"HTTP_X_STORAGE_TOKEN": token}), 200, "out of its cache")
    equal(len(middleware.calls), 2, "calls")


@check
def h07_the_last_keystonemiddleware_that_speaks_v2_gets_what_it_needs(lab):
    """It finds the service by a catalog, which we have not, or is told where it is, and then takes a token as given."""
    lab.make_user("neutron", "service", lab.t2)
    conf = {
        "auth_type": "admin_token",
        "endpoint": lab.auth_url,
        "token": lab.client("neutron", "t2").session.get_token(),
        "auth_version": "v2.0",
        "www_authenticate_uri": lab.url,
    }
    seen = []

    def application(env, start_response):
        seen.append(env)
        start_response("204 No Content", [])
        return []

    middleware = auth_token.AuthProtocol(application, conf)

    def ask(token):
        request = webob.Request.blank("/", headers={"X-Auth-Token": token, "X-Roles": "admin"})
        return request.get_response(middleware).status_code

    token = lab.client("alice", "t1").session.get_token()
    equal((ask(token), ask("garbage"), ask("nit_" + "A" * 43)), (204, 401, 401))
    names = ("IDENTITY_STATUS", "USER_ID", "USER_NAME", "TENANT_ID", "TENANT_NAME", "ROLES")
    told = [seen[0][f"HTTP_X_{name}"] for name in names]
    equal(told, ["Confirmed", lab.alice["id"], "alice", lab.t1, "t1", "provisioner"])
    equal(len(seen), 1)


@check
def h07_it_refuses_what_we_do_not_know(lab):
    middleware, seen = behind_auth_token(lab, "glance")
    for token in ("garbage", "nit_" + "A" * 43):
        equal(middleware({"HTTP_X_AUTH_TOKEN": token}), 401, token)
    revoked = lab.client("alice", "t1").session.get_token()
    lab.revoke(revoked)
    equal(middleware({"HTTP_X_AUTH_TOKEN": revoked}), 401)
    equal(middleware({}), 401)
    unscoped = v2.Password(lab.auth_url, username="alice", password="password of alice")
    equal(middleware({"HTTP_X_AUTH_TOKEN": Client(lab, auth=unscoped).session.get_token()}), 401, "no tenancy")
    equal(seen, [])
    equal([status for _, _, status in middleware.calls], [200, 404, 404, 404, 200])


@check
def h07_it_takes_another_token_of_its_own_once(lab):
    middleware, seen = behind_auth_token(lab, "cinder")
    alice = lab.client("alice", "t1")
    lab.revoke(middleware.get_admin_token())
    equal(middleware({"HTTP_X_AUTH_TOKEN": alice.session.get_token()}), 200)
    equal(len(seen), 1)
    equal([status for _, _, status in middleware.calls], [200, 401, 200, 200])
    stranger, _ = behind_auth_token(lab, None)
    equal(stranger({"HTTP_X_AUTH_TOKEN": alice.session.get_token()}), 503, "one that cannot log in")


def attempt(function, *arguments):
    """The line that tells of one check; it begins with `ok` if it passed."""
    try:
        function(*arguments)
        return f"ok {function.__name__}"
    except AssertionError as error:
        return f"FAIL {function.__name__}: {error}"
    except Exception:
        return f"FAIL {function.__name__}: {traceback.format_exc()}"


def main(binary, work):
    logging.disable()  # keystonemiddleware has much to say of how it is set up
    server = Server(os.path.abspath(binary), os.path.join(work, "server"), admin_listen="127.0.0.1:0")
    try:
        return run(Lab(server.start()))
    except Exception:
        print(f"FAIL the server and its people: {traceback.format_exc()}\n0 passed, {len(CHECKS)} failed")
        return 1
    finally:
        if server.process and server.process.poll() is None:
            server.process.kill()


def run(lab):
    lines = []
    for function in CHECKS:
        lines.append(attempt(function, lab))
        print(lines[-1], flush=True)
    lines.append(attempt(the_log_holds_no_secret, lab))
    print(lines[-1])
    passed = sum(line.startswith("ok ") for line in lines)
    print(f"{passed} passed, {len(lines) - passed} failed")
    return int(passed < len(lines))


def the_log_holds_no_secret(lab):
    """Neither a token nor a password of this whole run is in the server's log."""
    lab.server.stop()
    said = lab.server.log()
    assert "nit_" not in said, "a token is in the log"
    assert "password of" not in said, "a password is in the log"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
