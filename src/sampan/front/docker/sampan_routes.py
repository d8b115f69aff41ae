"""What Sampan offers beside Docker's API, below ``/sampan``."""

from __future__ import annotations

ROUTES = ()
