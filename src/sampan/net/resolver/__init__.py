"""The name server of user-defined networks: 127.0.0.11 in every container, one process for all of them.

``wire``, ``names`` and ``cache`` are values only; ``sandboxes``, ``upstream`` and ``server`` are the process,
which outlives the daemon; ``client`` is the daemon's side.
"""
