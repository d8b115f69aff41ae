"""Where a container's files are. Two roots: data survives a reboot, the run root does not."""

from __future__ import annotations

import os
from collections.abc import Sequence


class Layout:
    """Paths below the data root and the run root; makes nothing."""

    def __init__(self, root: str, run_root: str) -> None:
        self.root = root
        self.run_root = run_root
        self.containers = os.path.join(root, "containers")
        self.layers = os.path.join(root, "layers")
        self.running = os.path.join(run_root, "containers")
        self.execs = os.path.join(run_root, "exec")

    def container(self, container_id: str) -> str:
        return f"{self.containers}/{container_id}"

    def upper(self, container_id: str) -> str:
        return f"{self.containers}/{container_id}/upper"

    def work(self, container_id: str) -> str:
        return f"{self.containers}/{container_id}/work"

    def log(self, container_id: str) -> str:
        return f"{self.containers}/{container_id}/{container_id}-json.log"

    def hostname(self, container_id: str) -> str:
        return f"{self.containers}/{container_id}/hostname"

    def hosts(self, container_id: str) -> str:
        return f"{self.containers}/{container_id}/hosts"

    def resolv_conf(self, container_id: str) -> str:
        return f"{self.containers}/{container_id}/resolv.conf"

    def layer(self, chain_id: str) -> str:
        """The directory that overlayfs stacks."""
        return f"{self.layers}/{chain_id.removeprefix('sha256:')}/diff"

    def mount_points(self, chain_id: str) -> str:
        """Beside an image's topmost layer: what every container of it has something mounted on."""
        return f"{self.layers}/{chain_id.removeprefix('sha256:')}/init"

    def lower(self, layer_ids: Sequence[str]) -> list[str]:
        """What a container's own changes are stacked on, topmost first; ``layer_ids`` are bottom first."""
        if not layer_ids:
            return []
        layers = [self.layer(chain_id) for chain_id in reversed(layer_ids)]
        return [self.mount_points(layer_ids[-1]), *layers]

    def run_dir(self, container_id: str) -> str:
        return f"{self.running}/{container_id}"

    def exec_dir(self, exec_id: str) -> str:
        return f"{self.execs}/{exec_id}"
