"""The registry with its rules, page, metrics, search and administration, over HTTP."""

from __future__ import annotations

import datetime
import hashlib
import http.client
import http.server
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.eventually import eventually
from tests.support.registry_client import Answer, RegistryClient, image_manifest, index_of
from tests.support.registry_house import RegistryHouse, basic, users_file

from sampan.daemon.options import SettingError
from sampan.daemon.registry.house import House
from sampan.front.registry import page
from sampan.front.registry.callers import plain
from sampan.front.registry.measuring import kind_of
from sampan.transfer.credentials import Credentials
from sampan.transfer.errors import RegistryRefused
from sampan.transfer.registries import Registries
from sampan.transfer.settings import RegistrySettings

ALICE, BOB, ROOT = basic("alice", "a"), basic("bob", "b"), basic("root", "r")
RULES = [
    {"repositories": ["team/**"], "groups": ["dev"], "actions": ["pull", "push"]},
    {"repositories": ["**"], "users": ["root"], "actions": ["pull", "push", "delete", "admin"]},
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryHouse]:
    root = tmp_path_factory.mktemp("house")
    auth = {
        "htpasswd": users_file(root / "users", alice="a", bob="b", root="r"),
        "anonymous": ["public/**"],
        "groups": {"dev": ["alice"]},
    }
    policy = {
        "quotas": [{"repositories": ["team/small"], "size": 200}],
        "immutable": [{"tags": ["v*"]}],
        "retention": [{"repositories": ["team/old"], "keep-last": 2}],
    }
    with RegistryHouse(root, auth=auth, rules=RULES, **policy) as running:
        yield running


@pytest.fixture
def client(house: RegistryHouse) -> Iterator[RegistryClient]:
    with RegistryClient(house.port) as connected:
        yield connected


class As:
    """The same client with somebody's password in every request."""

    def __init__(self, client: RegistryClient, who: dict[str, str]) -> None:
        self._client = client
        self._who = who

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Any = None, **query: Any
    ) -> Answer:
        return self._client.call(method, path, body, {**self._who, **(headers or {})}, **query)

    push_blob = RegistryClient.push_blob
    push_manifest = RegistryClient.push_manifest
    push_image = RegistryClient.push_image


@pytest.fixture
def root(client: RegistryClient) -> Any:
    return As(client, ROOT)


# access


def test_the_base_tells_clients_where_to_log_in(house: RegistryHouse, client: RegistryClient) -> None:
    answer = client.call("GET", "/v2/")
    assert answer.status == 401
    assert answer.codes == ["UNAUTHORIZED"]
    challenge = f'Bearer realm="http://{house.host}/token",service="sampan-registry"'
    assert answer.headers["WWW-Authenticate"] == challenge
    assert client.call("GET", "/v2/", headers=ALICE).status == 200
    wrong = client.call("GET", "/v2/", headers=basic("alice", "wrong"))
    assert (wrong.status, wrong.json["errors"][0]["message"]) == (401, "incorrect username or password")


def test_rules_by_repository_and_verb(client: RegistryClient, root: Any) -> None:
    digest = root.push_image("team/a", "1")
    root.push_image("public/a", "1")
    path = f"/v2/team/a/manifests/{digest}"
    statuses = {
        "alice": client.call("GET", path, headers=ALICE).status,
        "bob": client.call("GET", path, headers=BOB).status,
        "nobody": client.call("GET", path).status,
        "alice deletes": client.call("DELETE", path, headers=ALICE).status,
        "anonymous, public": client.call("GET", "/v2/public/a/manifests/1").status,
        "anonymous pushes": client.call("POST", "/v2/public/a/blobs/uploads/").status,
        "bob pushes": client.call("POST", "/v2/public/a/blobs/uploads/", headers=BOB).status,
    }
    assert statuses == {
        "alice": 200,
        "bob": 403,
        "nobody": 401,
        "alice deletes": 403,
        "anonymous, public": 200,
        "anonymous pushes": 401,
        "bob pushes": 403,
    }
    refused = client.call("GET", path, headers=BOB)
    assert refused.codes == ["DENIED"]
    assert "requested access to the resource is denied" in refused.json["errors"][0]["message"]
    scope = client.call("GET", path).headers["WWW-Authenticate"].partition("scope=")[2]
    assert scope == '"repository:team/a:pull"'


def test_a_mount_needs_the_right_to_pull_its_source(client: RegistryClient, root: Any) -> None:
    digest = root.push_blob("secret/x", b"secret")
    query = {"mount": digest, "from": "secret/x"}
    answer = client.call("POST", "/v2/team/mine/blobs/uploads/", headers=ALICE, **query)
    assert answer.status == 202, "an upload instead"
    assert client.call("HEAD", f"/v2/team/mine/blobs/{digest}", headers=ALICE).status == 404


def token(client: RegistryClient, who: dict[str, str], *scopes: str) -> dict[str, str]:
    answer = client.call("GET", "/token", headers=who, scope=list(scopes), service="sampan-registry")
    assert answer.status == 200, answer.body
    assert answer.json["expires_in"] == 300
    return {"Authorization": f"Bearer {answer.json['token']}"}


def test_tokens(client: RegistryClient, root: Any) -> None:
    root.push_image("team/b", "1")
    pull = token(client, ALICE, "repository:team/b:pull")
    assert client.call("GET", "/v2/team/b/manifests/1", headers=pull).status == 200
    more = client.call("POST", "/v2/team/b/blobs/uploads/", headers=pull)
    assert more.status == 401, "another token would do"
    asked = more.headers["WWW-Authenticate"]
    assert asked.endswith('scope="repository:team/b:pull,push",error="insufficient_scope"')
    invalid = client.call("GET", "/v2/team/b/manifests/1", headers={"Authorization": "Bearer x"})
    assert invalid.headers["WWW-Authenticate"].endswith(
        'scope="repository:team/b:pull",error="invalid_token"'
    )
    nobody = token(client, {}, "repository:public/a:pull,push", "repository:team/b:pull")
    root.push_image("public/a", "1")
    assert client.call("GET", "/v2/public/a/manifests/1", headers=nobody).status == 200
    assert client.call("GET", "/v2/team/b/manifests/1", headers=nobody).status == 401
    assert client.call("GET", "/v2/", headers=nobody).status == 200
    wrong = client.call("GET", "/token", headers=basic("alice", "wrong"))
    assert wrong.status == 401
    assert client.call("GET", "/token", headers=pull).status == 401


def test_tokens_as_containerd_asks_for_them(client: RegistryClient) -> None:
    form = b"grant_type=password&username=alice&password=a&scope=repository:team/b:pull&service=x&client_id=c"
    answer = client.call("POST", "/token", form)
    assert answer.status == 200
    assert answer.json["access_token"]
    assert client.call("POST", "/token", form.replace(b"password=a", b"password=x")).status == 401
    assert client.call("POST", "/token", b"grant_type=refresh_token").status == 400


def test_lists_show_what_one_may_see(client: RegistryClient, root: Any) -> None:
    for name in ("team/seen", "public/seen", "hidden/seen"):
        root.push_image(name, "1")

    def seen(headers: dict[str, str]) -> dict[str, set[str]]:
        catalog = client.call("GET", "/v2/_catalog", headers=headers).json["repositories"]
        results = client.call("GET", "/v1/search", headers=headers, q="seen").json["results"]
        html = client.call("GET", "/", headers=headers, q="seen").body.decode()
        return {
            "catalog": {name for name in catalog if name.endswith("seen")},
            "search": {one["name"] for one in results},
            "page": set(re.findall(r'href="/browse/([^"]*)"', html)),
        }

    for headers, names in ((BOB, {"public/seen"}), (ALICE, {"public/seen", "team/seen"})):
        assert seen(headers) == {"catalog": names, "search": names, "page": names}
    by_token = token(client, ALICE, "registry:catalog:*")
    catalog = client.call("GET", "/v2/_catalog", headers=by_token).json["repositories"]
    assert "team/seen" in catalog
    assert "hidden/seen" not in catalog
    assert client.call("GET", "/browse/hidden/seen", headers=ALICE).status == 404


# policy


def test_quota(client: RegistryClient, root: Any) -> None:
    root.push_blob("team/small", b"x" * 190)
    answer = client.call("POST", "/v2/team/small/blobs/uploads/", headers=ROOT)
    place = answer.headers["Location"]
    body = b"y" * 20
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    refused = client.call("PUT", place, body, ROOT, digest=digest)
    assert (refused.status, refused.codes) == (403, ["DENIED"])
    assert "quota exceeded: team/small holds 190 of 200 bytes" in refused.json["errors"][0]["message"]


def test_immutable_tags(client: RegistryClient, root: Any) -> None:
    digest = root.push_image("team/fixed", "v1")
    other = image_manifest(b"{}", [b"content"], annotations={"a": "b"})
    refused = root.push_manifest("team/fixed", "v1", other)
    assert (refused.status, refused.codes) == (409, ["DENIED"])
    assert "tag v1 of team/fixed is immutable" in refused.json["errors"][0]["message"]
    assert root.call("DELETE", "/v2/team/fixed/manifests/v1").status == 409
    assert root.call("DELETE", f"/v2/team/fixed/manifests/{digest}").status == 409
    assert root.push_manifest("team/fixed", "latest", other).status == 201


def administer(house: RegistryHouse, method: str, path: str) -> Any:
    """Through the socket that needs no password."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(house.socket)
    connection.request(method, f"/_registry/v1/{path}")
    answer = connection.getresponse()
    value = json.loads(answer.read())
    connection.close()
    assert answer.status < 300, value
    return value


def finished(house: RegistryHouse, path: str) -> dict[str, Any]:
    def ended() -> Any:
        found = administer(house, "GET", path)
        return None if found["running"] else found

    state = eventually(ended, f"{path} has ended")
    report: dict[str, Any] = state["report"]
    assert report["finished_ns"], report
    return report


def test_retention(house: RegistryHouse, root: Any) -> None:
    for number, tag in enumerate(("a", "b", "v0", "c", "d")):
        root.push_image("team/old", tag, annotations={"n": str(number)})
    dry = administer(house, "GET", "retention?repository=team/old")
    assert [one["tag"] for one in dry["deleted"]] == ["b", "a"]
    assert len(root.call("GET", "/v2/team/old/tags/list").json["tags"]) == 5
    administer(house, "POST", "retention")
    report = finished(house, "retention/state")
    assert [one["tag"] for one in report["deleted"]] == ["b", "a"]
    assert root.call("GET", "/v2/team/old/tags/list").json["tags"] == ["c", "d", "v0"]


class Hooks(http.server.ThreadingHTTPServer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, str]] = []
        super().__init__(("127.0.0.1", 0), _Hook)


class _Hook(http.server.BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        for event in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"]:
            target = event["target"]
            actor = event["actor"].get("name", "")
            self.server.events.append((event["action"], target["repository"], target.get("tag", ""), actor))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """To nobody."""


def test_webhooks_hear_of_pushes_pulls_and_deletions(tmp_path: Path) -> None:
    with Hooks() as hooks:
        thread = threading.Thread(target=hooks.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{hooks.server_port}/"
            with (
                RegistryHouse(tmp_path, webhooks=[{"url": url}]) as house,
                RegistryClient(house.port) as client,
            ):
                client.push_image("team/a", "1")
                client.call("GET", "/v2/team/a/manifests/1")
                client.call("DELETE", "/v2/team/a/manifests/1")
                eventually(lambda: len(hooks.events) >= 3, "three events have come")
            expected = [(verb, "team/a", "1", "") for verb in ("push", "pull", "delete")]
            assert hooks.events == expected
        finally:
            hooks.shutdown()
            thread.join()


# administration


def test_administration_needs_its_right(client: RegistryClient) -> None:
    for headers, status in (({}, 401), (ALICE, 403), (ROOT, 200)):
        for path in ("usage", "repositories", "tags?repository=team/a", "gc", "scrub", "upstreams"):
            answer = client.call("GET", f"/_registry/v1/{path}", headers=headers)
            assert answer.status in (status, 404 if status == 200 else status), (path, headers)
        assert client.call("GET", "/metrics", headers=headers).status == status
    form = {**ROOT, "Origin": "https://elsewhere.example"}
    assert client.call("POST", "/_registry/v1/gc", b"", form).status == 403, "a form of another site"
    assert client.call("PUT", "/_registry/v1/gc", b"", ROOT).status == 405


def test_administration(house: RegistryHouse, root: Any) -> None:
    root.push_image("team/listed", "v1")
    root.push_image("team/listed", "other")
    usage = administer(house, "GET", "usage")
    assert usage["repositories"] >= 1
    assert usage["blob_bytes"] > 0
    first = administer(house, "GET", "tags?repository=team/listed&limit=1")
    assert [one["name"] for one in first["items"]] == ["other"]
    second = administer(house, "GET", f"tags?repository=team/listed&limit=1&after={first['next']}")
    assert [(one["name"], one["immutable"]) for one in second["items"]] == [("v1", True)]
    assert second["next"] == ""
    root.push_blob("team/small", b"z")
    root.push_image("team/small-too", "1")
    found = administer(house, "GET", "repositories?q=team+listed")
    assert [(one["name"], one["tags"], one["quota_bytes"]) for one in found["items"]] == [
        ("team/listed", 2, None)
    ]
    assert administer(house, "POST", "gc")["report"]["started_ns"]
    assert finished(house, "gc")["error"] == ""
    administer(house, "POST", "scrub")
    assert finished(house, "scrub")["damaged_blobs"] == 0


def test_metrics(client: RegistryClient, root: Any) -> None:
    def sample(line: str) -> float:
        text = client.call("GET", "/metrics", headers=ROOT).body.decode()
        found = re.search(rf"^{re.escape(line)} (.*)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    requests = 'sampan_registry_requests_total{method="GET",part="manifests",status="200"}'
    pulls = 'sampan_registry_events_total{action="pull",kind="manifest"}'
    root.push_image("team/measured", "1")
    before = (sample(requests), sample(pulls))
    root.call("GET", "/v2/team/measured/manifests/1")
    assert (sample(requests), sample(pulls)) == (before[0] + 1, before[1] + 1)
    assert sample("sampan_registry_repositories") >= 1
    assert sample("process_resident_memory_bytes") > 1 << 20


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v2/", "base"),
        ("/v2/a/b/manifests/x", "manifests"),
        ("/v2/a/blobs/uploads/1?x=/tags/list", "uploads"),
        ("/?q=a", "page"),
        ("/browse/a", "page"),
        ("/nonsense/x", "other"),
        ("/_registry/v1/gc", "admin"),
    ],
)
def test_requests_are_counted_by_kind_and_never_by_name(path: str, kind: str) -> None:
    assert kind_of(path) == kind


# the page


class Tags(HTMLParser):
    """The elements of a page, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")], attrs

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_the_page_escapes_what_was_pushed(client: RegistryClient, root: Any) -> None:
    config = json.dumps(
        {
            "os": "linux",
            "architecture": EVIL,
            "author": EVIL,
            "config": {"Cmd": [EVIL], "Labels": {EVIL: EVIL}, "Env": ["A=1"]},
        }
    ).encode()
    layer = b"layer"
    root.push_blob("public/evil", config)
    root.push_blob("public/evil", layer)
    manifest = image_manifest(config, [layer], annotations={EVIL: EVIL}, artifactType="text/" + EVIL)
    assert root.push_manifest("public/evil", "1", manifest).status == 201
    for path in ("/browse/public/evil", "/browse/public/evil/-/1", f"/?q={EVIL.replace(' ', '+')}"):
        answer = client.call("GET", path.replace('"', "%22").replace("<", "%3C").replace(">", "%3E"))
        assert answer.status == 200, path
        seen = Tags(answer.body.decode())
        assert {"script", "img"}.isdisjoint(seen.found), path
        assert "alert(1)" in seen.text or path.startswith("/?q"), path
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    style = re.search("<style>(.*)</style>", answer.body.decode(), re.DOTALL)
    assert style is not None
    assert page._hash(style[1]) in policy


def test_the_page_shows_platforms_sizes_and_digests(
    house: RegistryHouse, client: RegistryClient, root: Any
) -> None:
    manifests = []
    for architecture in ("amd64", "arm64"):
        config = json.dumps({"os": "linux", "architecture": architecture, "config": {"User": "u"}}).encode()
        root.push_blob("public/many", config)
        root.push_blob("public/many", b"layer")
        one = image_manifest(config, [b"layer"])
        assert root.push_manifest("public/many", f"only-{architecture}", one).status == 201
        manifests.append(json.dumps(one).encode())
    index = index_of(manifests)
    for entry, architecture in zip(index["manifests"], ("amd64", "arm64"), strict=True):
        entry["platform"] = {"os": "linux", "architecture": architecture}
    assert root.push_manifest("public/many", "all", index).status == 201
    html = client.call("GET", "/browse/public/many").body.decode()
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)[1:]
    chips = [re.findall(r'class="chip">([^<]*)', row) for row in rows]
    assert chips == [["linux/amd64", "linux/arm64"], ["linux/amd64"], ["linux/arm64"]]
    assert f"docker pull {house.host}/public/many:" in html
    html = client.call("GET", "/browse/public/many/-/all").body.decode()
    children = re.findall(r'href="(/browse/public/many/-/sha256[^"]*)"', html)
    assert len(children) == 2
    child = Tags(client.call("GET", children[0]).body.decode()).text
    assert "linux/amd64" in child
    assert "Layers" in child


def test_a_manifest_of_an_unknown_shape_shows_as_little(client: RegistryClient, root: Any) -> None:
    root.push_blob("public/odd", b'{"architecture": [1]}')
    body = {"schemaVersion": 2, "mediaType": "application/x", "manifests": "none", "layers": {}}
    headers = {"Content-Type": "application/x"}
    status = root.call("PUT", "/v2/public/odd/manifests/1", json.dumps(body).encode(), headers).status
    odd = image_manifest(b'{"architecture": [1]}', [])
    assert root.push_manifest("public/odd", "2", odd).status == 201
    assert client.call("GET", "/browse/public/odd").status == 200
    for reference, expected in (
        ("1", 200 if status == 201 else 404),
        ("2", 200),
        ("none", 404),
        ("-bad", 400),
    ):
        assert client.call("GET", f"/browse/public/odd/-/{reference}").status == expected


def test_pages_of_repositories_and_of_tags(client: RegistryClient, root: Any) -> None:
    for number in range(51):
        root.push_image(f"public/many-{number:02}", "1")
        root.push_image("public/tags", f"t{number:02}")
    for path, last in (("/?q=public/many-", "public/many-50"), ("/browse/public/tags", "t50")):
        first = client.call("GET", path).body.decode()
        assert last not in first
        more = re.search(r'class="more"><a href="([^"]*)"', first)
        assert more is not None
        second = client.call("GET", more[1].replace("&amp;", "&")).body.decode()
        assert last in second
        assert 'class="more"' not in second


def test_logging_in_from_a_browser(client: RegistryClient) -> None:
    assert 'href="/login"' in client.call("GET", "/").body.decode()
    asked = client.call("GET", "/login")
    assert asked.status == 401
    assert asked.headers["WWW-Authenticate"].startswith("Basic ")
    assert client.call("GET", "/login", headers=ALICE).status == 303
    assert 'class="who">alice<' in client.call("GET", "/", headers=ALICE).body.decode()
    assert client.call("HEAD", "/").status == 200
    assert client.call("POST", "/", b"").status == 405


def test_search_is_what_docker_expects(client: RegistryClient, root: Any) -> None:
    assert client.call("GET", "/v1/search", q="no such name").status == 401
    root.push_image("public/found", "1")
    ping = client.call("GET", "/v1/_ping")
    assert (ping.status, ping.headers["X-Docker-Registry-Standalone"]) == (200, "true")
    answer = client.call("GET", "/v1/search", q="FOUND public", n="5").json
    assert answer["num_results"] == 1
    assert answer["results"] == [
        {
            "name": "public/found",
            "description": "1 tag",
            "is_official": False,
            "is_automated": False,
            "star_count": 0,
        }
    ]


# settings that change, and the process's own


def test_rules_change_while_it_runs(tmp_path: Path) -> None:
    auth = {"htpasswd": users_file(tmp_path / "users", alice="a")}
    with RegistryHouse(tmp_path, auth=auth) as house, RegistryClient(house.port) as client:
        push = ("POST", "/v2/team/a/blobs/uploads/")
        assert client.call(*push, headers=ALICE).status == 202
        only_pull = [{"repositories": ["**"], "users": ["alice"], "actions": ["pull"]}]
        assert house.reload(auth=auth, rules=only_pull) == []
        assert client.call(*push, headers=ALICE).status == 403
        assert house.reload(auth=auth, public_url="https://x") == ["public-url"]
        with pytest.raises(SettingError, match=r"rules\[0\]"):
            house.reload(auth=auth, rules=[{"repositories": ["a"], "actions": ["pull"]}])


def test_an_open_registry_is_administered_from_this_machine_alone(tmp_path: Path) -> None:
    with RegistryHouse(tmp_path) as house, RegistryClient(house.port) as client:
        client.push_image("a", "1")
        assert client.call("GET", "/_registry/v1/usage").status == 200
        assert client.call("GET", "/metrics").status == 200
        assert 'href="/login"' not in client.call("GET", "/").body.decode()
    with RegistryHouse(tmp_path, listen="0.0.0.0:0") as house, RegistryClient(house.port) as client:
        assert client.call("GET", "/v2/a/manifests/1").status == 200
        assert client.call("GET", "/_registry/v1/usage").status == 401
        assert administer(house, "GET", "usage")["tags"] == 1


def test_tokens_of_another_server(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    (tmp_path / "jwks").write_text(json.dumps({"keys": [public]}))
    realm = "https://auth.lan/token"
    token = {"realm": realm, "service": "reg.lan", "issuers": ["auth.lan"], "jwks": str(tmp_path / "jwks")}
    access = [{"type": "repository", "name": "team/a", "actions": ["pull", "push"]}]
    claims = {"iss": "auth.lan", "aud": "reg.lan", "exp": time.time() + 600, "sub": "dora", "access": access}
    dora = {"Authorization": "Bearer " + jwt.encode(claims, key, algorithm="ES256")}
    with RegistryHouse(tmp_path, auth={"token": token}) as house, RegistryClient(house.port) as client:
        asked = client.call("GET", "/v2/team/a/manifests/1").headers["WWW-Authenticate"]
        assert asked == f'Bearer realm="{realm}",service="reg.lan",scope="repository:team/a:pull"'
        As(client, dora).push_image("team/a", "1")
        statuses = {
            path: client.call("GET", path, headers=dora).status
            for path in ("/v2/", "/v2/team/a/manifests/1", "/v2/team/b/manifests/1", "/_registry/v1/usage")
        }
        assert list(statuses.values()) == [200, 200, 401, 403]
        assert client.call("GET", "/v2/", headers=basic("dora", "x")).status == 401
        assert 'href="/login"' not in client.call("GET", "/").body.decode()


@pytest.mark.parametrize(
    ("proxies", "headers", "told"),
    [
        ([], {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}, ("127.0.0.1", "http")),
        (["127.0.0.0/8"], {}, ("127.0.0.1", "http")),
        (
            ["127.0.0.0/8"],
            {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"},
            ("192.0.2.1", "https"),
        ),
        (["127.0.0.1"], {"X-Forwarded-For": "6.6.6.6, 192.0.2.1, 127.0.0.1"}, ("192.0.2.1", "http")),
        (["127.0.0.1"], {"X-Forwarded-For": "192.0.2.1, nonsense"}, ("127.0.0.1", "http")),
    ],
)
def test_what_proxies_say_of_callers(
    tmp_path: Path, proxies: list[str], headers: dict[str, str], told: tuple[str, str]
) -> None:
    auth = {"htpasswd": users_file(tmp_path / "users", alice="a")}
    with (
        RegistryHouse(tmp_path, auth=auth, trusted_proxies=proxies) as house,
        RegistryClient(house.port) as client,
    ):
        realm = client.call("GET", "/v2/", headers=headers).headers["WWW-Authenticate"]
        for _ in range(5):
            client.call("GET", "/v2/", headers=headers | basic("alice", "wrong"))
        refused = {
            address: client.call(
                "GET", "/v2/", headers=basic("alice", "wrong") | {"X-Forwarded-For": address}
            ).status
            for address in ("192.0.2.1", "192.0.2.9")
        }
        assert realm.startswith(f'Bearer realm="{told[1]}://')
        slowed = {"192.0.2.1"} if told[0] == "192.0.2.1" else set()
        if not proxies:
            slowed = {"192.0.2.1", "192.0.2.9"}
        assert {address for address, status in refused.items() if status == 429} == slowed


@pytest.mark.parametrize(
    ("text", "address"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"), ("2001:DB8::1", "2001:db8::1")],
)
def test_addresses_are_written_in_one_way(text: str, address: str) -> None:
    assert plain(text) == address


async def test_two_registries_do_not_share_a_root(tmp_path: Path) -> None:
    with RegistryHouse(tmp_path) as house:
        settings = house.call(lambda one: one._settings)
        with pytest.raises(SettingError, match="another registry uses"):
            await House.open(settings)


class Authority:
    """Makes certificates that a test needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.path = self._write("ca", self._signed(self._name, self._key, is_authority=True), self._key)[0]

    def issue(self, name: str, *groups: str) -> tuple[str, str]:
        """Certificate and key for a client's name, or for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._write(name, self._signed(subject, key), key)

    def _signed(self, subject: x509.Name, key: Any, *, is_authority: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        )
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate, key: Any) -> tuple[str, str]:
        paths = (self._folder / f"{name}.pem", self._folder / f"{name}.key")
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(paths[0]), str(paths[1])


def over_tls(house: RegistryHouse, authority: Authority, client: tuple[str, str] | None, path: str) -> int:
    context = ssl.create_default_context(cafile=authority.path)
    if client is not None:
        context.load_cert_chain(*client)
    connection = http.client.HTTPSConnection("127.0.0.1", house.port, context=context)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_client_certificates_say_who_asks(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = {"certificate": certificate, "key": key, "client-ca": authority.path}
    alice, mallory = authority.issue("alice", "dev"), authority.issue("mallory")
    rules = [{"repositories": ["team/**"], "groups": ["dev"], "actions": ["pull"]}]
    with RegistryHouse(tmp_path, tls=tls, rules=rules) as house:
        asked = "/v2/team/a/tags/list"
        assert over_tls(house, authority, alice, asked) == 404, "allowed, and there is nothing"
        assert over_tls(house, authority, mallory, asked) == 403
        assert over_tls(house, authority, None, asked) == 401


@pytest.mark.parametrize("who", [Credentials(), Credentials(username="bob", password="b")])
async def test_our_client_asks_for_a_token_once(tmp_path: Path, who: Credentials) -> None:
    auth = {"htpasswd": users_file(tmp_path / "users", bob="b"), "anonymous": ["public/**"]}
    with RegistryHouse(tmp_path, auth=auth, rules=RULES) as house:
        registries = Registries(RegistrySettings(), attempts=2, first_wait_s=0.001)
        [target] = await registries.repositories(house.host, "team/a", who)
        with pytest.raises(RegistryRefused):
            await target.manifest("1")
        await registries.close()
        counted = house.call(lambda one: one.requests.requests)
        assert counted.value("GET", "token", "200") == 1
