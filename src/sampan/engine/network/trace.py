"""Why one container can, or cannot, reach another or the world outside: from facts to words. Pure.

:mod:`.tracer` gathers the facts that :mod:`.trace_facts` describes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import msgspec

from sampan.net.probes import Way

from .trace_facts import ANY, Facts, Listener, Published, Side


class Step(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    subject: str
    """containers, names, interfaces, networks, routes, rules, ports, sockets or attempt."""
    ok: bool
    text: str


class Trace(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    source: str = msgspec.field(name="From")
    target: str = msgspec.field(name="To")
    address: str
    """The one that was looked at; "" when there is none."""
    steps: list[Step]
    reachable: bool
    verdict: str


_TRIED = ("connected", "answered")
_SETTLED_ALONE = ("containers", "names")
"""What a successful attempt at an address says nothing about."""


def explain(facts: Facts) -> Trace:
    steps = list(_steps(facts))
    works = facts.attempt in _TRIED
    against = [step for step in steps if not step.ok]
    if works:
        against = [step for step in against if step.subject in _SETTLED_ALONE]
    reachable = not against
    if reachable:
        verdict = f"{facts.source.name} reaches {facts.wanted}"
        if facts.address and facts.address != facts.host:
            verdict += f" at {facts.address}"
    else:
        verdict = f"{facts.source.name} does not reach {facts.wanted}: {against[0].text}"
    return Trace(
        source=facts.source.name,
        target=facts.wanted,
        address=facts.address,
        steps=steps,
        reachable=reachable,
        verdict=verdict,
    )


def _steps(facts: Facts) -> Iterator[Step]:
    yield from _containers(facts)
    if not _both_run(facts):
        return
    yield from _names(facts)
    if not facts.ways:
        if facts.target is not None:
            yield from _networks(facts)
        return
    yield from _interfaces(facts)
    yield from _routes(facts)
    if _same_namespace(facts):
        yield _good("networks", f"{facts.wanted} is in the network namespace of {facts.source.name} itself")
    elif facts.is_host:
        yield from _ports_of_host(facts)
    elif facts.target is not None:
        yield from _networks(facts)
    else:
        yield from _outside(facts)
    if facts.refusal:
        yield _bad("rules", facts.refusal)
    yield from _sockets(facts)
    yield from _attempt(facts)


def _good(subject: str, text: str) -> Step:
    return Step(subject=subject, ok=True, text=text)


def _bad(subject: str, text: str) -> Step:
    return Step(subject=subject, ok=False, text=text)


def _both_run(facts: Facts) -> bool:
    return all(side is None or side.state == "running" for side in (facts.source, facts.target))


def _same_namespace(facts: Facts) -> bool:
    target = facts.target
    is_own = bool(facts.ways) and facts.ways[0].is_own
    if facts.is_host and not is_own:
        return False  # be it to a port that the caller itself publishes
    if target is not None and target.namespace and target.namespace == facts.source.namespace:
        return True
    return is_own and facts.source.mode != "host"


def _containers(facts: Facts) -> Iterator[Step]:
    sides = [facts.source]
    if facts.target is not None and facts.target.name != facts.source.name:
        sides.append(facts.target)
    for side in sides:
        if side.state == "running":
            yield _good("containers", f"{side.name} runs, {_where(side)}")
        else:
            remedy = "unpause it" if side.state == "paused" else "start it"
            yield _bad("containers", f"{side.name} is {side.state}: {remedy}")


def _where(side: Side) -> str:
    if side.mode == "host":
        return "on the host's network"
    if side.mode == "none" or not side.places:
        return "without a network"
    shown = [f"{place.network} ({', '.join(place.addresses) or 'no address'})" for place in side.places]
    return "on " + ", ".join(shown)


def _names(facts: Facts) -> Iterator[Step]:
    answer = facts.answer
    if answer is None:
        return
    if answer.problem:
        yield _bad("names", f"{answer.server} {answer.problem}{_why_no_name(facts)}")
    elif facts.target is not None and not any(facts.target.has(text) for text in answer.addresses):
        if facts.target.places:
            listed = ", ".join(answer.addresses)
            yield _bad(
                "names", f"{answer.server} answers {facts.host} with {listed}, not {facts.target.name}"
            )
    else:
        yield _good("names", f"{answer.server} answers {facts.host} with {', '.join(answer.addresses)}")


def _why_no_name(facts: Facts) -> str:
    source, target = facts.source, facts.target
    if target is None:
        mine = [facts.networks[name] for name in source.networks if name in facts.networks]
        if mine and all(network.is_internal for network in mine):
            return ": all networks of the container are internal, so nobody outside is asked"
        return ""
    if source.mode == "host":
        return ": a container on the host's network knows no names of containers; use the address"
    if target.mode == "host":
        return f": {target.name} has the host's addresses and no name of its own; use the gateway's address"
    if not facts.shared:
        return f": {_apart(facts)}"
    if not any(network.has_names for network in facts.shared):
        return (
            f": on the network {facts.shared[0].name} containers have no names; "
            "use the address, or connect both to a network of your own"
        )
    return ""


def _apart(facts: Facts) -> str:
    source, target = facts.source, facts.target
    assert target is not None
    if facts.shared:
        place = next(one for one in target.places if one.network == facts.shared[0].name)
        there = place.addresses[0] if place.addresses else "without an address"
        return f"{source.name} is not on that network of {target.name}: on {place.network} it is {there}"
    if not source.places or not target.places:
        alone = source if not source.places else target
        return f"{alone.name} has no network: connect it to one"
    return (
        f"they have no network in common ({source.name}: {', '.join(source.networks)}; "
        f"{target.name}: {', '.join(target.networks)}): "
        f"use network connect {target.networks[0]} {source.name}"
    )


def _interfaces(facts: Facts) -> Iterator[Step]:
    used = facts.network_of(facts.ways[0])
    for side in (facts.source, facts.target):
        for place in side.places if side is not None else ():
            relevant = used is None or place.network == used.name
            if relevant and side is not None and place.addresses:
                if not place.interface:
                    yield _bad("interfaces", f"no interface of {side.name} has {place.addresses[0]}")
                elif not place.is_up:
                    yield _bad("interfaces", f"{place.interface} of {side.name} is down: set it up in there")
    if used is not None and used.device_problem:
        yield _bad("interfaces", f"the bridge {used.device} of {used.name} is {used.device_problem}")


def _routes(facts: Facts) -> Iterator[Step]:
    way = facts.ways[0]
    if way.problem:
        reason = ""
        mine = [facts.networks[name] for name in facts.source.networks if name in facts.networks]
        if mine and all(network.is_internal for network in mine):
            reason = ", because all of its networks are internal"
        elif not facts.source.places and facts.source.mode != "host":
            reason = ", because it has no network"
        yield _bad("routes", f"{facts.source.name} has no route to {way.address} ({way.problem}){reason}")
        return
    if way.is_own:
        return
    network = facts.network_of(way)
    through = f"{way.interface} ({network.name})" if network is not None else way.interface
    via = f" and the gateway {way.gateway}" if way.gateway else ""
    yield _good("routes", f"{way.address} is sent through {through}{via}")


def _networks(facts: Facts) -> Iterator[Step]:
    """Between two containers."""
    target = facts.target
    assert target is not None
    address = facts.address
    common = [network for network in facts.shared if _is_on(target, network.name, address)]
    if not facts.shared or (address and not common):
        yield from _across(facts, target)
        return
    network = common[0] if common else facts.shared[0]
    if network.is_talking:
        yield _good("networks", f"both are on {network.name}")
        if facts.bridged_is_judged and network.driver == "bridge":
            yield from _forwarded(facts)
    else:
        yield _bad("networks", f"containers on {network.name} may not talk to each other (its ICC is off)")


def _is_on(side: Side, network: str, address: str) -> bool:
    return any(place.network == network and address in place.addresses for place in side.places)


def _across(facts: Facts, target: Side) -> Iterator[Step]:
    """From one network to another, through the host: only what is open to everybody."""
    if target.mode == "host" or facts.source.mode == "host":
        yield _good("networks", "one of them is on the host's network, which reaches all bridges")
        return
    place = next((one for one in target.places if facts.address in one.addresses), None)
    theirs = facts.networks.get(place.network) if place is not None else None
    way = facts.ways[0] if facts.ways else None
    mine = facts.network_of(way) if way is not None else None
    if theirs is None or way is None:
        yield _bad("networks", _apart(facts))
        return
    closed = next((one for one in (mine, theirs) if one is not None and one.is_internal), None)
    if closed is not None:
        yield _bad("networks", f"{_apart(facts)}; {closed.name} is internal")
        return
    mode = theirs.mode(facts.address)
    opened = any(
        not port.host_address and (port.protocol, port.port) == (facts.protocol, facts.port)
        for port in target.published
    )
    if mode == "nat-unprotected" or (mode == "routed" and opened):
        yield _good("networks", f"{theirs.name} lets other networks in (gateway mode {mode})")
        yield from _forwarded(facts)
        return
    hint = f"; {_published_hint(facts, target)}" if target.published else ""
    yield _bad("networks", f"{_apart(facts)}{hint}")


def _forwarded(facts: Facts) -> Iterator[Step]:
    """Others see it too on its way through this machine. Their rules are not read: a chain may have some that
    accept it before its policy drops it."""
    for chain in facts.foreign_drops:
        yield _bad("rules", f"the chain '{chain}' of somebody else drops what is forwarded by default")


def _published_hint(facts: Facts, target: Side) -> str:
    listed = ", ".join(str(port) for port in target.published)
    return f"or use a port that {target.name} publishes ({listed})"


def _ports_of_host(facts: Facts) -> Iterator[Step]:
    """The address is the host's: published ports, and its own programs."""
    network = facts.network_of(facts.ways[0])
    if network is not None and network.is_internal and facts.ways[0].gateway:
        yield _bad("rules", f"{network.name} is internal: it has no way to the host's other addresses")
    if not facts.port:
        yield _good("ports", f"{facts.address} is an address of this machine")
        return
    target = facts.target
    if target is not None:
        shown = [str(port) for port in target.published if _leads(port, facts)]
        if shown:
            yield _good("ports", f"this machine leads it to {target.name} ({shown[0]})")
            if facts.rules_problem:
                yield _bad("rules", f"published ports do not work: {facts.rules_problem}")
            if facts.source.mode != "host":
                yield from _forwarded(facts)
            return
        listed = [str(port) for port in target.published if port.host_port == facts.port]
        yield _bad("ports", f"{target.name} publishes the port at another address only ({listed[0]})")
        return
    if _heard(facts.host_listening, facts):
        yield _good("ports", "a program of this machine listens there")
    else:
        found = _bound_elsewhere(facts.host_listening, facts)
        extra = f"; a program of this machine listens on {found} only" if found else ""
        yield _bad("ports", f"no container publishes {facts.port}/{facts.protocol}{extra}")


def _leads(port: Published, facts: Facts) -> bool:
    if (port.protocol, port.host_port) != (facts.protocol, facts.port):
        return False
    if port.host_address in ANY:
        return (":" in port.host_address) == (":" in facts.address)
    return port.host_address == facts.address


def _outside(facts: Facts) -> Iterator[Step]:
    way = facts.ways[0]
    if way.problem:
        return
    network = facts.network_of(way)
    if network is not None and network.is_internal:
        yield _bad("rules", f"{network.name} is internal: it has no way out")
    if facts.source.mode != "host" and network is not None and network.driver == "bridge":
        if not facts.forwards:
            yield _bad("rules", "this machine does not forward packets (sysctl ip_forward is 0)")
        if facts.rules_problem:
            yield _bad("rules", f"masquerading does not work: {facts.rules_problem}")
        yield from _forwarded(facts)
        if network.mode(way.address) == "routed":
            yield _good("rules", f"{network.name} is routed: answers need a route back to its subnet")
    if facts.host_way_problem:
        yield _bad("routes", f"this machine has no route to {way.address} ({facts.host_way_problem})")


def _sockets(facts: Facts) -> Iterator[Step]:
    target = facts.target
    if not facts.port or target is None:
        return
    port, address = facts.port, facts.address
    if facts.is_host and not _same_namespace(facts):
        found = next((one for one in target.published if _leads(one, facts)), None)
        if found is None:
            return
        port, address = found.port, ""
    asked = msgspec.structs.replace(facts, port=port, ways=(Way(address=address),))
    if _heard(target.listening, asked):
        yield _good("sockets", f"{target.name} listens on {port}/{facts.protocol}")
        return
    elsewhere = _bound_elsewhere(target.listening, asked)
    if elsewhere:
        yield _bad(
            "sockets",
            f"{target.name} listens on {elsewhere} only: let its program listen on 0.0.0.0 (or ::)",
        )
        return
    others = sorted({f"{one.port}/{one.protocol}" for one in target.listening})
    listed = f"; it listens on {', '.join(others)}" if others else ""
    yield _bad("sockets", f"nothing listens on {port}/{facts.protocol} in {target.name}{listed}")


def _heard(listening: tuple[Listener, ...], facts: Facts) -> bool:
    """``::`` takes IPv4 as well, unless the program has said otherwise, which cannot be seen; an empty
    address is any but loopback ones."""
    for one in listening:
        if (one.protocol, one.port) != (facts.protocol, facts.port):
            continue
        if one.address == "::" or (one.address == "0.0.0.0" and ":" not in facts.address):
            return True
        if one.address == facts.address or (not facts.address and not _is_loopback(one.address)):
            return True
    return False


def _bound_elsewhere(listening: tuple[Listener, ...], facts: Facts) -> str:
    wanted = (facts.protocol, facts.port)
    return ", ".join(str(one) for one in listening if (one.protocol, one.port) == wanted)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _attempt(facts: Facts) -> Iterator[Step]:
    said, where = facts.attempt, facts.address
    if said == "connected":
        yield _good("attempt", f"a connection to {where} port {facts.port} was accepted")
    elif said == "answered":
        yield _good("attempt", f"{where} answers a ping")
    elif said and not facts.port and facts.target is None:
        yield _good("attempt", f"{where} does not answer a ping, as many machines do not: name a port")
    elif said == "refused":
        yield _bad("attempt", f"a connection to {where} port {facts.port} was refused")
    elif said:
        tried = f"a connection to port {facts.port}" if facts.port else "a ping"
        yield _bad("attempt", f"{tried} of {where}: {said}")
