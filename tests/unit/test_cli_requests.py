"""The requests of each command equal those of Docker's own client: method, path, query and body."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cli_server import Answer, RecordingServer, Request

from sampan.cli.main import execute

DOCKER = shutil.which("docker")

INSPECTED = {
    "Id": "c0ffee",
    "Name": "/web",
    "State": {"Running": True, "Paused": False, "Restarting": False, "Status": "running"},
    "Config": {"Tty": False, "OpenStdin": False},
    "HostConfig": {},
    "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}, "Networks": {}},
}
EVENT = (
    b'{"Type":"container","Action":"start","Actor":{"ID":"c0ffee","Attributes":{}},"time":1,"timeNano":1}\n'
)


def ok(value: object, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), status)


ANSWERS: dict[str, Any] = {
    "GET /containers/json": ok([]),
    "GET /containers/web/json": ok(INSPECTED),
    "GET /containers/c0ffee/json": ok(INSPECTED),
    "GET /containers/web/logs": Answer(b"", 200, "application/vnd.docker.multiplexed-stream"),
    "GET /containers/c0ffee/logs": Answer(b"", 200, "application/vnd.docker.multiplexed-stream"),
    "GET /containers/web/top": ok({"Titles": ["PID"], "Processes": [["1"]]}),
    "GET /containers/web/changes": ok([]),
    "POST /containers/web/wait": ok({"StatusCode": 3}),
    "POST /containers/web/update": ok({"Warnings": None}),
    "POST /containers/web/exec": ok({"Id": "e1"}, 201),
    "POST /exec/e1/start": Answer(b"", 200),
    "POST /commit": ok({"Id": "sha256:1"}, 201),
    "GET /images/json": ok([]),
    "GET /images/busybox/json": ok({"Id": "sha256:1"}),
    "GET /images/busybox/history": ok([]),
    "DELETE /images/busybox": ok([{"Untagged": "busybox:latest"}]),
    "POST /images/busybox/tag": Answer(b"", 201),
    "POST /images/create": Answer(b'{"status":"sha256:1"}\n', 200),
    "POST /images/load": Answer(b'{"stream":"Loaded image: x\\n"}\n', 200),
    "GET /images/get": Answer(b"tar", 200, "application/x-tar"),
    "GET /containers/web/export": Answer(b"tar", 200, "application/x-tar"),
    "GET /events": Answer(EVENT, 200),
    "GET /volumes": ok({"Volumes": [], "Warnings": None}),
    "POST /volumes/create": ok({"Name": "data"}, 201),
    "GET /volumes/data": ok({"Name": "data"}),
    "GET /networks": ok([]),
    "GET /networks/mine": ok({"Name": "mine", "Id": "n1"}),
    "POST /networks/create": ok({"Id": "n1"}, 201),
    "POST /containers/prune": ok({"ContainersDeleted": ["c0ffee"], "SpaceReclaimed": 10}),
    "POST /images/prune": ok({"ImagesDeleted": [{"Deleted": "sha256:1"}], "SpaceReclaimed": 10}),
    "POST /volumes/prune": ok({"VolumesDeleted": ["data"], "SpaceReclaimed": 10}),
    "POST /networks/prune": ok({"NetworksDeleted": ["mine"]}),
    "POST /build/prune": ok({}),
    "GET /info": ok({"OSType": "linux", "Containers": 3}),
    "GET /system/df": ok({"LayersSize": 0, "Images": [], "Containers": [], "Volumes": [], "BuildCache": []}),
}
for verb in ("start", "stop", "restart", "kill", "pause", "unpause", "rename"):
    ANSWERS[f"POST /containers/web/{verb}"] = Answer(b"", 204)
for path in ("/containers/web", "/volumes/data", "/networks/mine"):
    ANSWERS[f"DELETE {path}"] = Answer(b"", 204)
for verb in ("connect", "disconnect"):
    ANSWERS[f"POST /networks/mine/{verb}"] = Answer(b"", 200)

LINES = """
ps
ps -a -n 5 --filter status=running --filter label=a=b -f label=c
ps -l
ps -s
ps -aq --no-trunc
ps --format {{.Size}}
container ls --all
start web
stop web
stop -t 5 -s INT web
stop --time 0 web
restart -t 3 web
kill web
kill -s USR1 web
pause web
unpause web
rm web
rm -fv web
rm -l web
rename web site
update -m 100m --cpus 1.5 --restart on-failure:3 web
update --pids-limit -1 --cpuset-cpus 0-1 --memory-swap -1 web
wait web
top web
top web aux -w
port web
port web 80/tcp
diff web
logs web
logs --tail 5 -t --details web
logs --since 1700000000 --until 1700000010.5 web
exec -d -e A=1 -u root -w /tmp --privileged web ls -l
exec -dt web sh
commit web
commit -a me -m message -c 'CMD a' -c 'ENV b=c' --pause=false web repo:tag
commit web registry.example.org:5000/team/app
images
images -a --filter dangling=true busybox
images --filter reference=a*
history busybox
tag busybox other
tag busybox registry.example.org:5000/team/app:v1
rmi busybox
rmi -f --no-prune busybox
image rm busybox
save -o out.tar busybox other:tag
load -i in.tar
load -q -i in.tar
import in.tar
import -c 'CMD a' -m text --platform linux/arm64 in.tar repo:tag
import http://example.org/x.tar repo
export -o out.tar web
events --since 10 --until 20 --filter type=container -f event=die
volume ls --filter dangling=true
volume create data
volume create -d local -o type=tmpfs -o device=tmpfs --label a=b data
volume create
volume rm data
volume rm -f data
volume inspect data
network ls --filter driver=bridge
network create mine
network create --internal --attachable --ipv6 --label a=b -o x=y --scope local mine
network create --subnet 10.1.0.0/16 --gateway 10.1.0.1 --ip-range 10.1.5.0/24 --aux-address host=10.1.0.5 mine
network create --subnet 10.1.0.0/16 --subnet 2001:db8::/64 --gateway 2001:db8::1 --ipam-opt a=b mine
network connect mine web
network connect --ip 10.1.0.9 --ip6 2001:db8::9 --alias a --link b:c --driver-opt k=v --gw-priority 5 mine web
network connect --link-local-ip 169.254.0.9 mine web
network disconnect -f mine web
network rm mine
network inspect mine
inspect --type container web
inspect -s --type=container web
inspect --type image busybox
inspect --type volume data
image inspect busybox
container inspect web
container prune -f
container prune -f --filter until=24h --filter label!=keep
image prune -f
image prune -af --filter label=a
volume prune -f
volume prune -af
network prune -f
system prune -af --volumes
system df
info
"""


def _comparable(request: Request) -> tuple[str, str, dict[str, Any], Any]:
    query: dict[str, Any] = {}
    for name, found in parse_qs(urlsplit(request.target).query, keep_blank_values=True).items():
        # Docker's client writes some booleans as 1 and some as true, and sends some that say nothing.
        texts = [{"true": "1", "false": "0"}.get(text, text) for text in found]
        if name == "filters" and texts != [""]:
            query[name] = json.loads(texts[0])
        elif texts not in (["0"], [""]) or name == "pause":
            query[name] = texts
    body: Any = request.body
    if request.headers.get("content-type") == "application/json" and body:
        body = _meaningful(json.loads(body))
        if "IPAM" in body:
            body["IPAM"].get("Config", []).sort(key=str)  # Docker's client keeps them in a map
    return request.method, request.path, query, body or b""


def _meaningful(value: Any) -> Any:
    """Without the zero values: Docker's structs send them or not, and mean the same."""
    if isinstance(value, dict):
        inner = {name: _meaningful(part) for name, part in value.items()}
        return {
            name: part for name, part in inner.items() if part not in (None, "", 0, False, [], {}, [0, 0])
        }
    return value


def _requests(server: RecordingServer) -> list[tuple[str, str, dict[str, Any], Any]]:
    return [_comparable(request) for request in server.requests if request.path != "/_ping"]


def _sent_by_docker(arguments: list[str]) -> list[tuple[str, str, dict[str, Any], Any]]:
    assert DOCKER is not None
    with RecordingServer(ANSWERS) as server:
        done = subprocess.run(
            [DOCKER, *arguments],
            env={**os.environ, "DOCKER_HOST": f"unix://{server.path}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return _requests(server)


# What Docker's client asks beside the purpose of the command, and we do not.
_ASIDE = {
    "logs": ("GET", "/containers/web/json"),
    "exec": ("GET", "/containers/web/json"),
    "network rm": ("GET", "/networks/mine"),
    "system prune": ("POST", "/build/prune"),
}


@pytest.mark.peer
@pytest.mark.skipif(DOCKER is None, reason="no docker client")
@pytest.mark.parametrize("line", LINES.strip().splitlines())
def test_same_requests_as_docker(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.tar").write_bytes(b"archive")
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line)
    expected = _sent_by_docker(arguments)
    aside = _ASIDE.get(arguments[0]) or _ASIDE.get(" ".join(arguments[:2]))
    expected = [request for request in expected if request[:2] != aside]
    with RecordingServer(ANSWERS) as server:
        monkeypatch.setenv("SAMPAN_HOST", f"unix://{server.path}")
        status = execute(arguments)
        ours = _requests(server)
    assert (status, capfd.readouterr().err) == (0, "")
    # After an inspect Docker's client goes on with the id instead of the name.
    assert ours == [
        (method, path.replace("/c0ffee/", "/web/"), query, body) for method, path, query, body in expected
    ]
