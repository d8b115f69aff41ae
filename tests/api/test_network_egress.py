"""Containers that may reach only what their list names, over the API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import BUSYBOX

SERVE = ("sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www")


def fetch(docker: Client, container: str, address: str) -> tuple[bool, str]:
    """Whether an answer came, and it or the error."""
    done = docker("exec", container, "busybox", "wget", "-qO-", f"http://{address}/", code=None)
    return done.code == 0, (done.out + done.err).strip()


def test_a_network_with_a_list(docker: Client, name: str, started: Callable[..., str]) -> None:
    since = str(int(time.time()) - 1)
    wanted = "sampan.egress=10.213.98.0/24:81"
    docker("network", "create", "--subnet", "10.213.99.0/24", "-o", wanted, name)
    try:
        strict = started("--network", name)
        friend = started("--network", name, "--hostname", "friend", command=SERVE)
        listed = f"name={name},driver-opt=sampan.egress=none"
        lone = started("--network", listed)
        assert eventually(lambda: fetch(docker, strict, friend)[0], "what stays on the network is answered")
        assert fetch(docker, lone, friend) == (True, "friend")
        # the host says so at once
        assert "o route to host" in fetch(docker, strict, "10.213.98.9")[1]
        assert "o route to host" in fetch(docker, lone, "10.213.98.9:81")[1]

        def refusals() -> list[dict[str, str]]:
            shown = docker(
                "events", "--since", since, "--until", str(int(time.time()) + 1), "--filter", "event=refuse",
                "--format", "{{json .Actor.Attributes}}",
            )  # fmt: skip
            found = [json.loads(line) for line in shown.out.splitlines()]
            return [one for one in found if one["name"] in (strict, lone)]

        told = eventually(lambda: found if len(found := refusals()) >= 2 else None, "both are told")
        assert told is not None
        assert {(one["name"], one["destination"], one["port"], one["protocol"]) for one in told} == {
            (strict, "10.213.98.9", "80", "tcp"),
            (lone, "10.213.98.9", "81", "tcp"),
        }
        assert all(one["type"] == "bridge" and len(one["container"]) == 64 for one in told)
    finally:
        for container in docker("ps", "-aq", "--filter", f"network={name}").out.split():
            docker("rm", "-f", container)
        docker("network", "rm", name)


def test_a_list_that_is_none_is_named(docker: Client, name: str) -> None:
    refused = docker("network", "create", "-o", "sampan.egress=fd00::1", name, code=1)
    assert "sampan.egress: invalid entry 'fd00::1': write an IPv6 address in brackets" in refused.err
    refused = docker(
        "run",
        "--rm",
        "--network",
        "name=bridge,driver-opt=sampan.egress=example.org",
        BUSYBOX,
        "true",
        code=125,
    )
    assert "names are for networks of the user's" in refused.err
