"""Keeps in force what containers may reach outside of their networks."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from sampan.kernel.nftables import Element, NftSocket, run_ruleset
from sampan.model.container import Endpoint
from sampan.model.network import Network

from ..errors import EgressFailed, InvalidNetworkSetting
from ..options import OPTION_NAME
from .elements import elements_of, name_rules, text_of
from .policy import Policy, restricts
from .rules import render, render_anew, render_elements, render_removal, table_of


@dataclass(frozen=True, slots=True)
class Restricted:
    """One container's place in one network."""

    container_id: str
    network: Network
    endpoint: Endpoint
    policy: Policy

    @property
    def addresses(self) -> list[str]:
        return [text for text in (self.endpoint.ip_address, self.endpoint.global_ipv6_address) if text]


class EgressGuard:
    """Nothing is in the kernel while nobody is restricted. Used from the event loop's thread."""

    def __init__(self, table: str, unavailable: Callable[[], str] = lambda: "") -> None:
        """``table`` is the daemon's; ``unavailable`` says why there is no nf_tables, "" when there is."""
        self.table = table_of(table)
        self._unavailable = unavailable
        self._restricted: dict[str, Restricted] = {}
        self._by_address: dict[str, Restricted] = {}
        self._elements: dict[str, list[Element]] = {}
        self._settled = False
        self.repaired: Callable[[], None] = lambda: None
        """Called when what was learnt from DNS answers may be lost."""

    def require_possible(self, network: Network, policy: Policy | None) -> None:
        """Raises InvalidNetworkSetting, EgressFailed."""
        if policy is None:
            return
        if network.driver != "bridge":
            raise InvalidNetworkSetting(
                f"sampan.egress works on bridge networks only: {network.name} is {network.driver}"
            )
        named = next((entry for entry in policy if entry.name), None)
        if named is not None and network.name == "bridge":
            raise InvalidNetworkSetting(
                f"sampan.egress: {named}: names are for networks of the user's, whose containers ask the "
                "daemon's name server; list addresses on the default bridge"
            )
        if why := self._unavailable():
            raise EgressFailed(f"sampan.egress: nf_tables does not work on this host ({why})")

    def restrict(self, restricted: Restricted) -> None:
        """In force when it returns, at the latest with :meth:`settle`. Raises EgressFailed; nothing is
        changed then. An endpoint that is restricted already gets the new list."""
        before = self._restricted.get(restricted.endpoint.endpoint_id)
        guarded = self._guarded()
        self._forget(restricted.endpoint.endpoint_id)
        self._keep(restricted)
        elements = self._elements[restricted.endpoint.endpoint_id]
        try:
            if before is not None:
                self._load()
            else:
                self._apply(lambda nft: nft.add_elements(self.table, elements, exclusive=False), guarded)
        except OSError as error:
            self._forget(restricted.endpoint.endpoint_id)
            if before is not None:
                self._keep(before)
            raise EgressFailed(f"cannot restrict what the container reaches: {error.strerror}") from error

    def adopt(self, restricted: Restricted) -> None:
        """Of a container found running: the rules of an earlier daemon hold until :meth:`settle`."""
        self._keep(restricted)
        self._settled = False

    def _keep(self, restricted: Restricted) -> None:
        subnets = [ipaddress.ip_network(pool.subnet) for pool in restricted.network.pools if pool.subnet]
        key = restricted.endpoint.endpoint_id
        self._restricted[key] = restricted
        self._elements[key] = [
            element
            for address in restricted.addresses
            for element in elements_of(address, restricted.policy, subnets)
        ]
        self._by_address.update(dict.fromkeys(restricted.addresses, restricted))

    def _forget(self, endpoint_id: str) -> None:
        gone = self._restricted.pop(endpoint_id, None)
        self._elements.pop(endpoint_id, None)
        for address in gone.addresses if gone is not None else ():
            self._by_address.pop(address, None)

    def release(self, endpoint_id: str) -> None:
        """Its address may be another container's next. Idempotent. Raises EgressFailed."""
        if endpoint_id not in self._restricted:
            return
        guarded, elements = self._guarded(), self._elements[endpoint_id]
        self._forget(endpoint_id)
        try:
            self._apply(lambda nft: nft.delete_elements(self.table, elements), guarded)
        except OSError as error:
            raise EgressFailed(f"cannot lift a container's restrictions: {error.strerror}") from error

    def settle(self) -> None:
        """Every running container is known again. Raises EgressFailed."""
        if self._settled or self._unavailable():
            return
        try:
            if self._restricted:
                self._load()
            else:
                self.remove()  # of an earlier daemon whose containers have ended meanwhile
        except OSError as error:
            raise EgressFailed(f"cannot restrict what containers reach: {error.strerror}") from error
        self._settled = True

    def repair(self) -> bool:
        """Somebody else has changed or deleted the table. Whether it is needed. Raises OSError."""
        if not self._restricted or self._unavailable():
            return False
        self._load()
        self.repaired()
        return True

    def _apply(self, change: Callable[[NftSocket], None], guarded: list[str]) -> None:
        """One container more or less: its elements alone, whatever the number of others; all of it where
        that does not do. ``guarded`` are those before. Raises OSError."""
        if self._settled and self._restricted and guarded == self._guarded():
            nft = NftSocket()
            try:
                change(nft)
                return
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
                    raise
            finally:
                nft.close()
        self._load()

    def _load(self) -> None:
        """All of it in one transaction: no packet ever meets a half of it."""
        if not self._restricted:
            run_ruleset(render_removal(self.table))
            return
        by_set: dict[str, list[str]] = {}
        for elements in self._elements.values():
            for element in elements:
                by_set.setdefault(element.name, []).append(text_of(element))
        by_set["guarded"] = [f'"{name}"' for name in self._guarded()]
        filled = "".join(render_elements(self.table, name, texts) for name, texts in by_set.items())
        try:
            run_ruleset(render(self.table) + filled)
        except OSError:
            run_ruleset(render_anew(self.table) + filled)
            self.repaired()
        self._settled = True

    def _guarded(self) -> list[str]:
        """Bridges on which every container is restricted."""
        networks = {one.network.id: one.network for one in self._restricted.values()}
        return [
            network.options.get(OPTION_NAME) or f"br-{network.id[:12]}"
            for network in networks.values()
            if restricts(network.options)
        ]

    def remove(self) -> None:
        """Delete the table where there is one. Idempotent. Raises OSError."""
        nft = NftSocket()
        try:
            if nft.has_table(self.table):
                run_ruleset(render_removal(self.table))
        finally:
            nft.close()
        self._settled = False

    def at(self, address: str) -> Restricted | None:
        """Whose address it is."""
        return self._by_address.get(address)

    def learns(self, container_id: str) -> list[dict[str, object]]:
        """For the name server: names whose addresses the container may reach, by its own address."""
        return [
            {
                "table": self.table,
                "address4": one.endpoint.ip_address,
                "address6": one.endpoint.global_ipv6_address,
                "names": rules,
            }
            for one in self._restricted.values()
            if one.container_id == container_id and (rules := name_rules(one.policy))
        ]
