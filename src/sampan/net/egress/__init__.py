"""What containers may reach outside of their network (``sampan.egress``), and the log of what was refused.

``policy`` and ``elements`` are values only, ``rules`` is text; ``guard`` keeps it in force.
"""
