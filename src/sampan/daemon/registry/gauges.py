"""What is measured when somebody looks: contents, upkeep, and the process itself."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Sequence

from sampan.registry.metrics import Gauge, Sample
from sampan.registry.policy.webhooks import Webhooks
from sampan.registry.service import Registry
from sampan.registry.upkeep.garbage import Garbage
from sampan.registry.upkeep.scrub import Scrub

_PAGE_BYTES = resource.getpagesize()


def _one(read: Callable[[], float]) -> Callable[[], Iterable[Sample]]:
    return lambda: [((), read())]


def gauges(registry: Registry, garbage: Garbage, scrub: Scrub, webhooks: Webhooks) -> Sequence[Gauge]:
    """Counted now: one look for each page of metrics."""
    repositories, tags, manifests = registry.index.repositories.totals()
    blobs, size = registry.index.blobs.totals()
    prefix = "sampan_registry"
    return (
        Gauge(f"{prefix}_repositories", "Repositories.", _one(lambda: repositories)),
        Gauge(f"{prefix}_tags", "Tags.", _one(lambda: tags)),
        Gauge(f"{prefix}_manifests", "Manifests.", _one(lambda: manifests)),
        Gauge(f"{prefix}_blobs", "Blobs.", _one(lambda: blobs)),
        Gauge(f"{prefix}_blob_bytes", "Bytes of all blobs.", _one(lambda: size)),
        Gauge(
            f"{prefix}_webhook_queue",
            "Notifications that wait.",
            lambda: [((hook.url,), hook.waiting) for hook in webhooks.hooks],
            ("url",),
        ),
        Gauge(
            f"{prefix}_gc_last_success_seconds",
            "When garbage was last collected to the end; 0: not yet.",
            _one(lambda: garbage.last.finished_ns / 1e9),
        ),
        Gauge(f"{prefix}_gc_freed_bytes", "By the last collection.", _one(lambda: garbage.last.freed_bytes)),
        Gauge(f"{prefix}_gc_running", "1 while garbage is collected.", _one(lambda: garbage.is_running)),
        Gauge(
            f"{prefix}_scrub_damaged_blobs",
            "Damaged blobs that the last pass has found.",
            _one(lambda: scrub.last.damaged_blobs),
        ),
        Gauge(f"{prefix}_scrub_running", "1 while blobs are verified.", _one(lambda: scrub.is_running)),
        Gauge("process_resident_memory_bytes", "Resident memory.", _one(_resident_bytes)),
        Gauge("process_open_fds", "Open descriptors.", _one(lambda: len(os.listdir("/proc/self/fd")))),
        Gauge("process_cpu_seconds_total", "CPU time used.", _one(_cpu_s)),
    )


def _resident_bytes() -> float:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
