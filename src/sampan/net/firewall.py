"""The daemon's one nf_tables table: publishing, masquerading, isolation; kept as it should be.

What it says is in :mod:`.ruleset`; here it is loaded, filled and repaired.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from contextlib import suppress

from sampan.kernel.conntrack import forget_flows
from sampan.kernel.links import has_bridge_netfilter6
from sampan.kernel.nftables import Element, NftSocket, run_ruleset

from .elements import PROTOCOLS, elements_of, elements_of_bridge
from .errors import PublishFailed
from .ports import PublishedPort
from .ruleset import REMOVAL, BridgeRules, render_quiet, render_rules


def forget_datagrams(published: Iterable[PublishedPort]) -> None:
    """Senders that went on while their port changed hands start anew. A kernel that cannot say which they
    are (without ctnetlink, or before 5.8) lets them time out after half a minute."""
    ports = {entry.host_port for entry in published if entry.protocol == "udp"}
    if ports:
        with suppress(OSError):
            forget_flows(PROTOCOLS["udp"], ports)


def _elements_of(published: Iterable[PublishedPort], respect: bool) -> list[Element]:
    elements = elements_of(published)
    if respect:
        elements += [
            one._replace(name=f"listed_{one.name}", data=b"")
            for one in elements
            if not one.name.startswith("open")
        ]
    return elements


class Firewall:
    """Keeps the table as it should be, and puts it back when somebody flushed it."""

    def __init__(self, table: str, *, respect: bool = False) -> None:
        """With ``respect`` the host's own rules for what comes in decide who reaches published ports."""
        self.table = table
        self._respect = respect
        self.unavailable = ""
        """Why publishing cannot work on this host; empty when it can."""
        self._bridges: dict[str, BridgeRules] = {}
        self._elements: dict[tuple[str, bytes], Element] = {}
        self._socket: NftSocket | None = None
        self._settled = False

    def open(self) -> None:
        """Connect to the kernel. A table that is already there stays as it is, so that the ports of running
        containers keep working until :meth:`settle`. Never raises: see ``unavailable``."""
        try:
            self._socket = NftSocket()
            # Without one there is nothing to keep in force, and the first bridge makes it.
            self._settled = not self._socket.has_table(self.table)
        except OSError as error:
            self._give_up(error)

    def add_bridge(self, rules: BridgeRules) -> None:
        """Or change what is known of it."""
        before = self._bridges.get(rules.name)
        self._bridges[rules.name] = rules
        self._change_bridge(before, rules)

    def remove_bridge(self, name: str) -> None:
        """Idempotent."""
        before = self._bridges.pop(name, None)
        if before is not None:
            self._change_bridge(before, None)

    def _change_bridge(self, before: BridgeRules | None, after: BridgeRules | None) -> None:
        """In the sets of the table that is there, so that a network costs the same however many there are."""
        if not self._settled or self._socket is None:
            return
        if any(one is not None and not one.talking for one in (before, after)):
            self.rebuild()  # the table of the bridge family may come or go
            return
        old = elements_of_bridge(before) if before is not None else []
        new = elements_of_bridge(after) if after is not None else []
        try:
            self._socket.delete_elements(self.table, [one for one in old if one not in new])
            self._socket.add_elements(self.table, [one for one in new if one not in old])
        except OSError:
            # there is no table yet, or somebody has changed it
            self.rebuild()

    def adopt(self, published: Iterable[PublishedPort]) -> None:
        """Ports of a running container found after a restart; in force with :meth:`settle`."""
        self._keep(_elements_of(published, self._respect))
        self._settled = False

    def _keep(self, elements: Iterable[Element]) -> None:
        self._elements.update({(element.name, element.key): element for element in elements})

    def settle(self) -> None:
        """Make the table exactly what is known here. Idempotent; the first container does it otherwise."""
        if not self._settled and not self.unavailable:
            self.rebuild()

    def publish(self, published: list[PublishedPort]) -> None:
        """One transaction. Raises PublishFailed, and nothing is published then."""
        if not published:
            return
        self._require_available()
        self.settle()
        self._require_available()
        elements = _elements_of(published, self._respect)
        try:
            self._add(elements)
        except OSError as error:
            raise PublishFailed(f"cannot publish ports: {error.strerror}") from error
        self._keep(elements)
        forget_datagrams(published)

    def _add(self, elements: list[Element]) -> None:
        nft = self._require_socket()
        try:
            nft.add_elements(self.table, elements)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise
            # Somebody flushed the rule set (ENOENT) or added to our table: put it right, try once more.
            self.rebuild()
            self._require_socket().add_elements(self.table, elements)

    def withdraw(self, published: Sequence[PublishedPort]) -> None:
        """Idempotent. Raises PublishFailed when the kernel refuses even to rebuild the table."""
        elements = _elements_of(published, self._respect)
        gone = [element for element in elements if self._elements.pop(element[:2], None) is not None]
        if not gone or self.unavailable or not self._settled:
            return
        try:
            self._require_socket().delete_elements(self.table, gone)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise PublishFailed(f"cannot withdraw ports: {error.strerror}") from error
            self.rebuild()
        forget_datagrams(published)

    def rebuild(self) -> None:
        """Replace the table by what is known here, in one transaction for the rules and one for the ports."""
        if self._socket is None:
            return
        try:
            loopback6 = not has_bridge_netfilter6()
            text = render_rules(
                self.table, self._bridges.values(), loopback6=loopback6, respect=self._respect
            )
            run_ruleset(text)
            self._load_bridge_table()
            self._socket.add_elements(self.table, list(self._elements.values()))
        except OSError as error:
            self._give_up(error)
            return
        self._settled = True

    def repair(self) -> bool:
        """Somebody else has changed the table, or deleted it: put it right."""
        if not self._settled or self.unavailable:
            return False
        self.rebuild()
        return True

    def _load_bridge_table(self) -> None:
        bridges = self._bridges.values()
        try:
            run_ruleset(render_quiet(self.table, bridges))
        except OSError:
            # Kernels are built without the bridge family too; only --icc=false needs it.
            if not all(bridge.talking for bridge in bridges):
                raise

    def foreign_drops(self) -> list[str]:
        """Base chains of others (``table chain``) that drop forwarded packets by default: containers can
        then neither reach nor be reached from other machines until their owner lets them."""
        if self._socket is None or self.unavailable:
            return []
        own = f"{self.table} "
        return [name for name in self._socket.dropping_forward_chains() if not name.startswith(own)]

    def remove(self) -> None:
        """Delete the table. Idempotent. Raises OSError."""
        if self._socket is not None and not self.unavailable:
            run_ruleset(REMOVAL.format(table=self.table))
            self._bridges.clear()
            self._load_bridge_table()
        self._settled = False

    def close(self) -> None:
        """The table stays in force."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _give_up(self, error: OSError) -> None:
        self.unavailable = error.strerror or str(error)

    def _require_available(self) -> None:
        if self.unavailable:
            raise PublishFailed(
                f"cannot publish ports: nf_tables does not work on this host ({self.unavailable}); "
                "use --network host, or a kernel with nf_tables NAT and the package libnftables1"
            )

    def _require_socket(self) -> NftSocket:
        if self._socket is None:
            raise PublishFailed("cannot publish ports: the firewall is not open")
        return self._socket
