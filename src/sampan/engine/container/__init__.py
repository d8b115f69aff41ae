"""Containers: their records, their lives, and the verbs that change them."""
