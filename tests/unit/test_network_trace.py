"""From what is known of two containers to why one does not reach the other: each cause by itself."""

from __future__ import annotations

import msgspec
import pytest

from sampan.cli.commands.traffic import split_target
from sampan.cli.failure import Failure
from sampan.engine.network.trace import Trace, explain
from sampan.engine.network.trace_facts import Facts, Listener, NetworkState, Place, Published, Side
from sampan.kernel.sockettable import CONNECTED, LISTENING, read_sockets
from sampan.net.egress.policy import allows, parse_policy
from sampan.net.probes import Answer, Way

FRONT, BACK = NetworkState(name="front", device="br-f"), NetworkState(name="back", device="br-b")
WEB = Side(
    name="web",
    namespace="net:[1]",
    places=(Place(network="front", addresses=("172.18.0.2",), interface="eth0"),),
)
DB = Side(
    name="db",
    namespace="net:[2]",
    places=(Place(network="front", addresses=("172.18.0.3",), interface="eth0"),),
    listening=(Listener(protocol="tcp", address="0.0.0.0", port=5432),),
)
WORKING = Facts(
    host="db",
    port=5432,
    source=WEB,
    target=DB,
    answer=Answer(server="127.0.0.11", addresses=("172.18.0.3",)),
    ways=(Way(address="172.18.0.3", interface="eth0"),),
    networks={"front": FRONT, "back": BACK},
    attempt="connected",
)
OUTSIDE = msgspec.structs.replace(
    WORKING,
    host="192.0.2.9",
    target=None,
    answer=None,
    port=443,
    ways=(Way(address="192.0.2.9", interface="eth0", gateway="172.18.0.1"),),
)
HOST = msgspec.structs.replace(
    OUTSIDE, host="172.17.0.1", is_host=True, port=8080, ways=(Way(address="172.17.0.1", interface="eth0"),)
)
REPLACE = msgspec.structs.replace


def hears(address: str, port: int, protocol: str = "tcp") -> tuple[Listener, ...]:
    return (Listener(protocol=protocol, address=address, port=port),)


def failing(trace: Trace) -> str:
    """The one reason there is, or all of them."""
    assert not trace.reachable
    return "; ".join(step.text for step in trace.steps if not step.ok)


def changed(facts: Facts, **fields: object) -> Facts:
    """With fields of ``facts``; nothing was tried unless said."""
    return REPLACE(facts, **{"attempt": "", **fields})


def side(one: Side, **fields: object) -> Side:
    return REPLACE(one, **fields)


def elsewhere(network: str, address: str) -> tuple[Place, ...]:
    return (Place(network=network, addresses=(address,), interface="eth0"),)


def state(one: NetworkState, **fields: object) -> dict[str, NetworkState]:
    return {**WORKING.networks, one.name: REPLACE(one, **fields)}


def test_everything_is_right() -> None:
    trace = explain(WORKING)
    assert trace.reachable
    assert all(step.ok for step in trace.steps)
    assert trace.verdict == "web reaches db:5432/tcp at 172.18.0.3"
    subjects = [step.subject for step in trace.steps]
    assert subjects == ["containers", "containers", "names", "routes", "networks", "sockets", "attempt"]


CAUSES = {
    "target stopped": (
        changed(WORKING, target=side(DB, state="exited"), ways=()),
        "db is exited: start it",
    ),
    "source paused": (
        changed(WORKING, source=side(WEB, state="paused")),
        "web is paused: unpause it",
    ),
    "no network in common": (
        changed(
            WORKING,
            target=side(DB, places=elsewhere("back", "172.19.0.3")),
            answer=Answer(server="127.0.0.11", problem="knows no such name"),
            ways=(),
        ),
        "they have no network in common (web: front; db: back): use network connect back web",
    ),
    "no network at all": (
        changed(WORKING, target=side(DB, places=()), answer=None, ways=()),
        "db has no network: connect it to one",
    ),
    "no names on the default bridge": (
        changed(
            WORKING,
            networks=state(FRONT, has_names=False),
            answer=Answer(server="9.9.9.9", problem="is not asked"),
        ),
        "9.9.9.9 is not asked: on the network front containers have no names; use the address",
    ),
    "another one has the name": (
        changed(WORKING, answer=Answer(server="/etc/hosts", addresses=("172.18.0.77",))),
        "/etc/hosts answers db with 172.18.0.77, not db",
    ),
    "name server is silent": (
        changed(WORKING, answer=Answer(server="127.0.0.11", problem="does not answer")),
        "127.0.0.11 does not answer",
    ),
    "name outside, internal network": (
        changed(
            OUTSIDE,
            host="example.com",
            ways=(),
            networks=state(FRONT, is_internal=True),
            answer=Answer(server="127.0.0.11", problem="could not find out"),
        ),
        "127.0.0.11 could not find out: all networks of the container are internal",
    ),
    "interface is down": (
        changed(
            WORKING,
            target=side(
                DB, places=(Place(network="front", addresses=("172.18.0.3",), interface="eth0", is_up=False),)
            ),
        ),
        "eth0 of db is down: set it up in there",
    ),
    "address was taken away": (
        changed(WORKING, target=side(DB, places=(Place(network="front", addresses=("172.18.0.3",)),))),
        "no interface of db has 172.18.0.3",
    ),
    "bridge is missing": (
        changed(WORKING, networks=state(FRONT, device_problem="missing")),
        "the bridge br-f of front is missing",
    ),
    "no route": (
        changed(
            OUTSIDE,
            ways=(Way(address="192.0.2.9", problem="network is unreachable"),),
            networks=state(FRONT, is_internal=True),
        ),
        "web has no route to 192.0.2.9 (network is unreachable), because all of its networks are internal",
    ),
    "no ICC": (
        changed(WORKING, networks=state(FRONT, is_talking=False)),
        "containers on front may not talk to each other (its ICC is off)",
    ),
    "another network of the target": (
        changed(
            WORKING,
            host="172.19.0.3",
            answer=None,
            target=side(DB, places=(*DB.places, *elsewhere("back", "172.19.0.3"))),
            ways=(Way(address="172.19.0.3", interface="eth0", gateway="172.18.0.1"),),
        ),
        "web is not on that network of db: on front it is 172.18.0.3",
    ),
    "isolated networks": (
        changed(
            WORKING,
            host="172.19.0.3",
            answer=None,
            target=side(
                DB,
                places=elsewhere("back", "172.19.0.3"),
                published=(Published(protocol="tcp", port=5432, host_address="0.0.0.0", host_port=15432),),
            ),
            ways=(Way(address="172.19.0.3", interface="eth0", gateway="172.18.0.1"),),
        ),
        "use network connect back web; or use a port that db publishes (0.0.0.0:15432->5432/tcp)",
    ),
    "internal, no way out": (
        changed(OUTSIDE, networks=state(FRONT, is_internal=True)),
        "front is internal: it has no way out",
    ),
    "no forwarding": (
        changed(OUTSIDE, forwards=False),
        "this machine does not forward packets (sysctl ip_forward is 0)",
    ),
    "foreign chain": (
        changed(OUTSIDE, foreign_drops=("filter FORWARD",)),
        "the chain 'filter FORWARD' of somebody else drops what is forwarded by default",
    ),
    "foreign chain within a bridge": (
        changed(WORKING, foreign_drops=("filter FORWARD",), bridged_is_judged=True),
        "the chain 'filter FORWARD' of somebody else drops what is forwarded by default",
    ),
    "foreign chain before a published port": (
        changed(
            HOST,
            foreign_drops=("filter FORWARD",),
            target=side(
                DB, published=(Published(protocol="tcp", port=5432, host_address="0.0.0.0", host_port=8080),)
            ),
        ),
        "the chain 'filter FORWARD' of somebody else drops what is forwarded by default",
    ),
    "rules are missing": (
        changed(OUTSIDE, rules_problem="the nft table x is missing"),
        "masquerading does not work: the nft table x is missing",
    ),
    "the host has no route": (
        changed(OUTSIDE, host_way_problem="network is unreachable"),
        "this machine has no route to 192.0.2.9 (network is unreachable)",
    ),
    "egress": (
        changed(OUTSIDE, refusal="the egress rules of web do not allow 192.0.2.9:443/tcp"),
        "the egress rules of web do not allow 192.0.2.9:443/tcp",
    ),
    "port is published elsewhere": (
        changed(
            HOST,
            target=side(
                DB,
                published=(Published(protocol="tcp", port=80, host_address="127.0.0.1", host_port=8080),),
            ),
        ),
        "db publishes the port at another address only (127.0.0.1:8080->80/tcp)",
    ),
    "port is not published": (changed(HOST), "no container publishes 8080/tcp"),
    "program behind a published port listens on loopback": (
        changed(
            HOST,
            target=side(
                DB,
                listening=hears("127.0.0.1", 80),
                published=(Published(protocol="tcp", port=80, host_address="0.0.0.0", host_port=8080),),
            ),
        ),
        "db listens on 127.0.0.1:80/tcp only: let its program listen on 0.0.0.0 (or ::)",
    ),
    "listens on loopback": (
        changed(WORKING, target=side(DB, listening=hears("127.0.0.1", 5432))),
        "db listens on 127.0.0.1:5432/tcp only: let its program listen on 0.0.0.0 (or ::)",
    ),
    "listens on another port": (
        changed(WORKING, port=80),
        "nothing listens on 80/tcp in db; it listens on 5432/tcp",
    ),
    "listens for TCP alone": (
        changed(WORKING, protocol="udp"),
        "nothing listens on 5432/udp in db; it listens on 5432/tcp",
    ),
    "refused for no visible reason": (
        changed(WORKING, attempt="refused"),
        "a connection to 172.18.0.3 port 5432 was refused",
    ),
    "no answer for no visible reason": (
        changed(WORKING, port=0, attempt="no answer"),
        "a ping of 172.18.0.3: no answer",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_told(cause: str) -> None:
    facts, expected = CAUSES[cause]
    trace = explain(facts)
    assert expected in failing(trace)
    assert trace.verdict.startswith("web does not reach ")
    assert expected in trace.verdict or cause == "no network in common"


REACHED = {
    "without a port": changed(WORKING, port=0, attempt="answered"),
    "UDP, which is not tried": changed(
        WORKING, protocol="udp", target=side(DB, listening=hears("::", 5432, "udp"))
    ),
    "foreign chains do not see bridges": changed(WORKING, foreign_drops=("filter FORWARD",)),
    "outside": OUTSIDE,
    "outside, where pings are not answered": changed(OUTSIDE, port=0, attempt="no answer"),
    "routed and open": changed(
        WORKING,
        host="172.19.0.3",
        answer=None,
        target=side(
            DB,
            places=elsewhere("back", "172.19.0.3"),
            published=(Published(protocol="tcp", port=5432),),
        ),
        ways=(Way(address="172.19.0.3", interface="eth0", gateway="172.18.0.1"),),
        networks=state(BACK, mode4="routed"),
    ),
    "by a published port": changed(
        HOST,
        target=side(
            DB, published=(Published(protocol="tcp", port=5432, host_address="0.0.0.0", host_port=8080),)
        ),
    ),
    "its own published port": changed(
        HOST,
        target=side(
            WEB,
            listening=hears("0.0.0.0", 80),
            published=(Published(protocol="tcp", port=80, host_address="0.0.0.0", host_port=8080),),
        ),
    ),
    "a program of the host": changed(HOST, host_listening=hears("172.17.0.1", 8080)),
    "itself": changed(
        WORKING,
        host="127.0.0.1",
        target=side(WEB, listening=hears("127.0.0.1", 5432)),
        answer=None,
        ways=(Way(address="127.0.0.1", interface="lo", is_own=True),),
    ),
    "though rules seem to be against it": REPLACE(OUTSIDE, foreign_drops=("filter FORWARD",)),
}


@pytest.mark.parametrize("how", REACHED)
def test_what_is_reached(how: str) -> None:
    trace = explain(REACHED[how])
    assert trace.reachable
    assert trace.verdict.startswith("web reaches ")


def test_a_name_that_is_not_answered_is_no_way_though_the_address_works() -> None:
    trace = explain(REPLACE(WORKING, answer=Answer(server="127.0.0.11", problem="knows no such name")))
    assert failing(trace) == "127.0.0.11 knows no such name"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db", ("db", "", "")),
        ("db:80", ("db", "80", "")),
        ("db:53/udp", ("db", "53", "udp")),
        ("fd00::2", ("fd00::2", "", "")),
        ("[fd00::2]:80/tcp", ("fd00::2", "80", "tcp")),
        ("[fd00::2]", ("fd00::2", "", "")),
    ],
)
def test_targets_are_read(text: str, expected: tuple[str, str, str]) -> None:
    assert split_target(text) == expected


@pytest.mark.parametrize("text", ["", ":80", "db:", "db:http", "db/tcp", "db:80/", "[fd00::2", "[fd00::2]80"])
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(Failure):
        split_target(text)


def test_socket_tables_are_read() -> None:
    table = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 030012AC:1538 020012AC:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0000000000000000FFFF0000030012AC:1538 0000000000000000FFFF0000020012AC:C350 01 0:0 0:0 0 0 0 3 1
   3: 000000FD000000000000000002000000:0035 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4 1
""".splitlines()
    listening, connected, mapped, six = read_sockets("tcp", table)
    assert listening[1:] == ("127.0.0.1", 80, "0.0.0.0", 0, LISTENING)
    assert connected[1:] == ("172.18.0.3", 5432, "172.18.0.2", 50000, CONNECTED)
    assert mapped == connected
    assert six[1:3] == ("fd00::2", 53)
    assert [row.state for row in read_sockets("udp", [table[1].replace(" 0A ", " 07 ")])] == [LISTENING]


@pytest.mark.parametrize(
    ("text", "address", "name", "protocol", "port", "expected"),
    [
        ("none", "192.0.2.1", "", "tcp", 80, False),
        ("192.0.2.0/24", "192.0.2.1", "", "tcp", 80, True),
        ("192.0.2.0/24", "192.0.2.1", "", "tcp", 0, True),
        ("192.0.2.0/24:80", "192.0.2.1", "", "udp", 80, True),
        ("192.0.2.0/24:80/tcp", "192.0.2.1", "", "udp", 80, False),
        ("192.0.2.0/24:80-90/tcp", "192.0.2.1", "", "tcp", 91, False),
        ("192.0.2.0/24:80", "192.0.2.1", "", "tcp", 0, False),
        ("[fd00::/8]", "192.0.2.1", "", "tcp", 80, False),
        ("example.org:443", "192.0.2.1", "Example.org.", "tcp", 443, True),
        ("*.example.org:443", "192.0.2.1", "example.org", "tcp", 443, False),
        ("example.org:443", "192.0.2.1", "192.0.2.1", "tcp", 443, False),
    ],
)
def test_what_an_egress_list_allows(
    text: str, address: str, name: str, protocol: str, port: int, expected: bool
) -> None:
    assert allows(parse_policy(text), address, name, protocol, port) is expected
