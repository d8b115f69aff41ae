"""The body of POST /containers/create equals what Docker's own client sends for the same command line."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_server import RecordingServer

from sampan.cli.commands.run import CREATE
from sampan.cli.failure import Failure
from sampan.cli.options import parse
from sampan.cli.runflags import create_body

DOCKER = shutil.which("docker")

LINES = """
busybox
busybox echo hello
busybox sh -c 'exit 3'
-it busybox
-i busybox cat
-t busybox
-a stdout busybox
-a STDIN -a stderr -i busybox
--entrypoint /bin/ls busybox -l /
--entrypoint= busybox true
--entrypoint '' busybox
-e A=1 -e B= -e FROM_HERE -e MISSING_HERE busybox
-e A=1 -e A=2 -e B=3 busybox
--env C=x=y --env-file env.txt -e A=override busybox
--label-file labels.txt -l one=1 -l two --label three= busybox
-h web --domainname example.org busybox
--hostname=web.example.org busybox
-u 1000:1000 --group-add audio --group-add 44 busybox
-w /srv --user nobody busybox
--name web busybox
--rm busybox
--restart always busybox
--restart on-failure:5 busybox
--restart unless-stopped busybox
--restart '' busybox
--stop-signal SIGINT --stop-timeout 3 busybox
--stop-timeout 0 busybox
--init busybox
--init=false busybox
--cap-add NET_ADMIN --cap-drop ALL busybox
--cap-add cap_sys_admin --cap-add all --cap-drop mknod --cap-drop MKNOD busybox
--privileged --security-opt no-new-privileges busybox
--security-opt seccomp=unconfined --security-opt apparmor=unconfined busybox
--security-opt seccomp=profile.json --security-opt label:disable busybox
--security-opt seccomp=builtin busybox
--security-opt systempaths=unconfined busybox
--security-opt systempaths=unconfined --security-opt no-new-privileges:true busybox
--read-only --tmpfs /run --tmpfs /tmp:rw,size=64m busybox
--pid host --ipc host --uts host --userns host --cgroupns host busybox
--pid container:abc --ipc container:abc --net container:abc busybox
--ipc shareable --cgroupns private busybox
--network host busybox
--network none busybox
--net bridge busybox
--network mynet --ip 10.1.2.3 --ip6 2001:db8::33 --network-alias a --net-alias b busybox
--network mynet --link db:database --link-local-ip 169.254.1.1 busybox
--link db --link cache:c busybox
--network name=mynet,alias=x,alias=y,ip=10.0.0.5,mac-address=92:d0:c6:0a:29:33 busybox
--network name=one,driver-opt=com.example.a=B,gw-priority=10 --network two busybox
--network one --network two --network-alias first busybox
--mac-address 92:d0:c6:0a:29:33 busybox
--mac-address 92:d0:c6:0a:29:33 --network mynet busybox
--mac-address 92:d0:c6:0a:29:33 --network host busybox
--dns 1.1.1.1 --dns 2001:DB8::1 --dns-search a.org --dns-search . --dns-option ndots:2 --dns-opt x busybox
--add-host a:1.2.3.4 --add-host b=2001:db8::1 --add-host c:host-gateway --add-host d=[::1] busybox
-p 80 -p 8080:80 -p 127.0.0.1:8443:443 busybox
-p 53:53/udp -p 53:53/tcp -p 9000/sctp busybox
-p 8000-8003:9000-9003 -p 127.0.0.1::22 -p [::1]:81:81 busybox
-p 8000-8010:80 busybox
-p published=8080,target=80,protocol=udp busybox
-p 8080:80 -p 8081:80 -P busybox
--expose 80 --expose 100-102/udp --expose 53/TCP busybox
-v /host:/container -v /host2:/c2:ro -v named:/data:nocopy -v /anonymous busybox
-v ./relative:/r -v .:/here -v ~/x:/y:rw,z -v a:/b busybox
-v /var/run/docker.sock:/var/run/docker.sock --volumes-from one --volumes-from two:ro busybox
--volume-driver local -v data:/data busybox
--mount type=bind,src=/a,dst=/b,readonly busybox
--mount type=bind,source=./x,target=/b,bind-propagation=rshared,ro=true busybox
--mount type=bind,src=/a,dst=/b,bind-recursive=disabled busybox
--mount type=bind,src=/a,dst=/b,ro,bind-recursive=readonly,bind-propagation=rprivate busybox
--mount type=bind,src=/a,dst=/b,ro,bind-recursive=writable busybox
--mount src=data,dst=/data busybox
--mount type=volume,src=data,dst=/d,volume-nocopy,volume-label=a=b,volume-opt=type=nfs,volume-opt=o=x busybox
--mount 'type=volume,src=data,dst=/d,volume-driver=local,"volume-opt=o=a,b"' busybox
--mount type=volume,src=data,dst=/d,volume-subpath=sub,volume-nocopy=false busybox
--mount type=volume,dst=/anonymous busybox
--mount type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770 busybox
--mount type=tmpfs,dst=/t --mount type=image,src=busybox,dst=/i,image-subpath=bin busybox
--mount type=bind,src=/a,dst=/b,consistency=cached busybox
--device /dev/fuse --device /dev/null:/dev/zero --device /dev/sda:r --device /dev/a:/dev/b:rw busybox
--device vendor.com/gpu=0 --device /dev/fuse busybox
--device-cgroup-rule 'c 42:* rmw' --device-cgroup-rule 'a *:* r' busybox
--gpus all busybox
--gpus 2 busybox
--gpus '"device=0,1",capabilities=compute' busybox
--gpus driver=nvidia,count=all,options=a=b busybox
--ulimit nofile=1024:2048 --ulimit core=-1 --ulimit cpu=5 --ulimit nofile=10:20 busybox
--sysctl net.ipv4.ip_forward=1 --sysctl kernel.shmmax=100 busybox
-m 512m --memory-reservation 256M --memory-swap -1 --memory-swappiness 10 busybox
--memory 1.5g --memory-swap 2gb --kernel-memory 100m --shm-size 64kb busybox
--oom-kill-disable --oom-score-adj -500 --pids-limit 100 busybox
--pids-limit -1 --oom-kill-disable=false busybox
--cpus 1.5 --cpu-shares 512 --cpuset-cpus 0-1 --cpuset-mems 0 busybox
--cpus .5 -c 10 busybox
--cpu-period 100000 --cpu-quota 50000 --cpu-rt-period 1000 --cpu-rt-runtime 500 busybox
--blkio-weight 300 --blkio-weight-device /dev/sda:200 busybox
--device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:2g --device-read-iops /dev/sda:1000 busybox
--device-write-iops /dev/sdb:5 --device-read-bps /dev/sda:1mb --device-read-bps /dev/sdb:10 busybox
--health-cmd 'curl -f localhost' --health-interval 1m30s --health-timeout 500ms --health-retries 3 busybox
--health-start-period 10s --health-start-interval 1.5s busybox
--no-healthcheck busybox
--log-driver json-file --log-opt max-size=10m --log-opt max-file=3 busybox
--log-driver none busybox
--storage-opt size=10G busybox
--runtime runc --cgroup-parent /mine --isolation default busybox
--annotation a=b --annotation c busybox
--cidfile cid.txt busybox
--platform linux/arm64/v8 busybox
--pull never -q busybox
-itP -eA=1 -p80:80 -v/x:/y busybox -x -y --z
-- busybox -it
--cpu-shares 0x10 --cpu-quota -1 busybox
registry.example.org:5000/a/b:v1@sha256:0000000000000000000000000000000000000000000000000000000000000000 run
"""

WRONG = """
-v /a::/b busybox
-v data:/b:ro:rw busybox
-v '' busybox
-p 99999 busybox
-p 1-3:4-5 busybox
-p 1.2.3:80:80 busybox
-p 80/icmp busybox
-p published=80,x busybox
--expose 1:2 busybox
--expose b busybox
--mount dst=/x,foo=bar busybox
--mount type=bind,src=/a busybox
--mount type=bind,src=/a,dst=/b,volume-nocopy busybox
--mount type=bind,src=/a,dst=/b,bind-recursive=readonly busybox
--mount type=bind,src=/a,dst=/b,bind-recursive=maybe busybox
--mount type=tmpfs,dst=/b,tmpfs-size=lots busybox
--mount nonsense busybox
--mount dst=/x,ro=perhaps busybox
--ulimit nofile busybox
--ulimit files=1 busybox
--ulimit nofile=5:4 busybox
--ulimit nofile=-1:4 busybox
--ulimit nofile=a busybox
--memory lots busybox
--memory -5m busybox
--memory 5q busybox
--memory-swappiness 101 busybox
--cpus many busybox
--cpus 1.0000000001 busybox
--sysctl kernel.panic=1 busybox
--dns nonsense busybox
--dns-search '-x-' busybox
--add-host nonsense busybox
--add-host a:b busybox
--attach nothing busybox
--device relative busybox
--device /dev/a:/dev/b:xyz busybox
--device-cgroup-rule nonsense busybox
--blkio-weight 70000 busybox
--blkio-weight-device /dev/sda:5 busybox
--device-read-bps sda:5 busybox
--device-read-iops /dev/sda:x busybox
--health-interval 5 busybox
--health-interval -5s busybox
--health-cmd x --no-healthcheck busybox
--restart on-failure:x busybox
--restart :3 busybox
--restart always --rm busybox
--pid nothing busybox
--uts private busybox
--userns mine busybox
--cgroupns yours busybox
--network-alias x busybox
--network host --network mine busybox
--network mine --network mine busybox
--network name=mine,color=red busybox
--network name=mine,ip=1.2.3.4 --ip 1.2.3.5 busybox
--mac-address nonsense busybox
--gpus some busybox
--gpus count=1,count=2 busybox
--security-opt seccomp busybox
--security-opt seccomp=/does/not/exist busybox
--storage-opt size busybox
--log-driver none --log-opt a=b busybox
--label '' busybox
--label 'a b=c' busybox
-e '' busybox
--env-file missing.txt busybox
--link a:b:c busybox
--stop-timeout soon busybox
--oom-kill-disable=perhaps busybox
--nonsense busybox
--name
-Z busybox
"""


def _lines(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.strip().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "env.txt").write_text("# comment\nA=1\n  B=two words  \nFROM_HERE\nMISSING_HERE\n\n")
    (tmp_path / "labels.txt").write_text("x=1\ny=\n")
    (tmp_path / "profile.json").write_text('{\n  "defaultAction": "SCMP_ACT_ALLOW",\n  "n": [1, 2]\n}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROM_HERE", "value")
    monkeypatch.delenv("MISSING_HERE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def _docker(server: RecordingServer, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{server.path}", "DOCKER_CONTENT_TRUST": "0"}
    assert DOCKER is not None
    return subprocess.run(
        [DOCKER, "create", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _ours(arguments: list[str]) -> dict[str, Any]:
    values, words = parse(CREATE, arguments)
    body: dict[str, Any] = json.loads(json.dumps(create_body(values, words)))
    return body


def _comparable(body: dict[str, Any]) -> dict[str, Any]:
    if body["HostConfig"].get("Binds"):
        body["HostConfig"]["Binds"].sort()  # Docker's client keeps these two in maps
    if body["Env"]:
        body["Env"].sort()
    return body


@pytest.mark.peer
@pytest.mark.skipif(DOCKER is None, reason="no docker client")
@pytest.mark.parametrize("arguments", _lines(LINES), ids=shlex.join)
def test_same_body_as_docker(arguments: list[str], folder: Path) -> None:
    with RecordingServer() as server:
        done = _docker(server, arguments)
        assert done.returncode == 0, done.stderr
        sent = [request for request in server.requests if "/containers/create" in request.target]
    (folder / "cid.txt").unlink(missing_ok=True)
    expected = json.loads(sent[0].body)
    assert _comparable(_ours(arguments)) == _comparable(expected)


@pytest.mark.peer
@pytest.mark.skipif(DOCKER is None, reason="no docker client")
@pytest.mark.parametrize("arguments", _lines(WRONG), ids=shlex.join)
def test_refuses_what_docker_refuses(arguments: list[str], folder: Path) -> None:
    with RecordingServer() as server:
        done = _docker(server, arguments)
    assert done.returncode == 125, f"docker took it: {done.stdout}"
    with pytest.raises(Failure) as caught:
        _ours(arguments)
    assert caught.value.status == 125
    theirs = done.stderr.removeprefix("docker: ").split("\n")[0]
    ours = caught.value.message.removeprefix("sampan: ").split("\n")[0]
    assert ours == theirs
