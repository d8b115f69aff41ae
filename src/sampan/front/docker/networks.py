"""Routes of networks."""

from __future__ import annotations

ROUTES = ()
