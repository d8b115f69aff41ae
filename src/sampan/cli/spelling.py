"""Guessing what was meant by a word that does not exist. Loaded only then."""

from __future__ import annotations

from collections.abc import Sequence


def distance(left: str, right: str) -> int:
    """Edits between two words: insert, delete, replace, swap of neighbours (optimal string alignment)."""
    rows = [list(range(len(right) + 1))]
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def nearest(wrong: str, known: Sequence[str]) -> list[str]:
    """At most three known words that a slip of the fingers turns into the wrong one, nearest first."""
    bare = wrong.lstrip("-")
    scored = sorted((distance(wrong, word), word) for word in known)
    allowed = min(1 if len(bare) <= 4 else 2, scored[0][0]) if scored else 0
    found = [
        word
        for edits, word in scored
        if edits <= allowed or (len(bare) >= 3 and word.lstrip("-").startswith(bare))
    ]
    return found[:3]
