"""Routes of images."""

from __future__ import annotations

ROUTES = ()
