"""The auth_token middleware of Essex (2012.1), replayed: its calls, its headers, and what it takes from the answers."""

import datetime
import http.client
import json
import urllib.parse


class InvalidUserToken(Exception):
    pass


class ServiceError(Exception):
    pass


class AuthToken:
    """Strips what a client says of itself, validates its token with one of its own, and tells the application behind
    it who is calling."""

    STRIPPED = ("Identity-Status", "Tenant-Id", "Tenant-Name", "User-Id", "User-Name", "Roles", "User", "Tenant", "Role")

    def __init__(self, app, url, user, password, tenant):
        self.app = app
        self.host = urllib.parse.urlsplit(url).netloc
        self.user, self.password, self.tenant = user, password, tenant
        self.admin_token = None
        self.cache = {}
        self.calls = []

    def __call__(self, env):
        for name in self.STRIPPED:
            env.pop(self.key(f"X-{name}"), None)
        try:
            token = env.get(self.key("X-Auth-Token"), env.get(self.key("X-Storage-Token")))
            if not token:
                raise InvalidUserToken("no token")
            for name, value in self.headers(self.validate(token)).items():
                env[self.key(name)] = value
        except InvalidUserToken:
            return 401
        except ServiceError:
            return 503
        return self.app(env)

    @staticmethod
    def key(header):
        return "HTTP_" + header.upper().replace("-", "_")

    def json_request(self, method, path, body=None, additional=None):
        headers = {"Content-type": "application/json", "Accept": "application/json", **(additional or {})}
        connection = http.client.HTTPConnection(self.host)
        try:
            connection.request(method, path, body=body and json.dumps(body), headers=headers)
            response = connection.getresponse()
            text = response.read()
        except OSError as error:
            raise ServiceError("unable to communicate") from error
        finally:
            connection.close()
        self.calls.append((method, path.partition("?")[0].rpartition("/")[0], response.status))
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, {}

    def get_admin_token(self):
        if not self.admin_token:
            credentials = {"username": self.user, "password": self.password}
            body = {"auth": {"passwordCredentials": credentials, "tenantName": self.tenant}}
            _, data = self.json_request("POST", "/v2.0/tokens", body)
            try:
                self.admin_token = data["access"]["token"]["id"]
                assert self.admin_token
            except (AssertionError, KeyError) as error:
                raise ServiceError("invalid json response") from error
        return self.admin_token

    def validate(self, token, retry=True):
        if token in self.cache:
            data, expires = self.cache[token]
            if datetime.datetime.now(datetime.UTC).replace(tzinfo=None) < expires:
                return data
            raise InvalidUserToken("expired")
        headers = {"X-Auth-Token": self.get_admin_token()}
        status, data = self.json_request("GET", f"/v2.0/tokens/{token}", additional=headers)
        if status == 200:
            expires = datetime.datetime.strptime(data["access"]["token"]["expires"], "%Y-%m-%dT%H:%M:%SZ")
            self.cache[token] = data, expires
            return data
        if status == 404:
            raise InvalidUserToken("unknown")
        if status == 401:
            self.admin_token = None
        if retry:
            return self.validate(token, False)
        raise InvalidUserToken("not to be validated")

    @staticmethod
    def headers(info):
        user, token = info["access"]["user"], info["access"]["token"]
        try:
            tenant = token["tenant"]["id"], token["tenant"]["name"]
        except KeyError:
            try:
                tenant = user["tenantId"], user["tenantName"]
            except KeyError as error:
                raise InvalidUserToken("no tenancy") from error
        roles = ",".join(role["name"] for role in user.get("roles", []))
        return {
            "X-Identity-Status": "Confirmed",
            "X-Tenant-Id": tenant[0],
            "X-Tenant-Name": tenant[1],
            "X-User-Id": user["id"],
            "X-User-Name": user["name"],
            "X-Roles": roles,
            "X-User": user["name"],
            "X-Tenant": tenant[1],
            "X-Role": roles,
        }
