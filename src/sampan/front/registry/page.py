"""The web page: HTML from values. No script, nothing from elsewhere; every value is escaped.

The style is in the page and its hash in the Content-Security-Policy, so nothing that a manifest says can
become code, a style or a request.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote, urlencode

from sampan.base.clock import format_ns
from sampan.model.registry import RepositoryUsage
from sampan.registry.browsing import ManifestView, Part, TagView

Who = str | None
"""The visitor's name; "" who could log in, None where nobody logs in."""
BROWSE = "/browse/"
MARK = "/-/"
"""Between a repository's name and a reference: no name contains it."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2733;--soft:#5d6b7a;--line:#dde3ea;--page:#f6f8fa;--card:#fff;
--link:#0b63b5;--chip:#e8f1fb}
@media (prefers-color-scheme:dark){:root{--ink:#e3e9f0;--soft:#93a1b1;--line:#2a3440;--page:#10161d;
--card:#18212b;--link:#6db3f2;--chip:#20354a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
header,main,footer{max-width:72rem;margin:0 auto;padding:1rem 1.25rem}
header{display:flex;gap:1rem;align-items:center;flex-wrap:wrap}
header a.home{font-weight:700;font-size:1.15rem;color:var(--ink)}
header form{flex:1 1 16rem}
header .who:empty{display:none}
header .who{color:var(--soft);font-size:.9rem}
input{width:100%;padding:.5rem .75rem;border:1px solid var(--line);border-radius:.5rem;background:var(--card);
color:var(--ink);font:inherit}
input:focus-visible,a:focus-visible{outline:2px solid var(--link);outline-offset:2px}
a{color:var(--link);text-decoration:none}
a:hover{text-decoration:underline}
h1{font-size:1.4rem;margin:.5rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:1.75rem 0 .5rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.75rem;overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.55rem .9rem;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:last-child>*{border-bottom:0}
tbody th{width:16rem}
th{color:var(--soft);font-weight:600;font-size:.85rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.w{overflow-wrap:anywhere;white-space:pre-wrap}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
pre{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .9rem;
overflow-x:auto;user-select:all;margin:.5rem 0 1rem}
.chip{display:inline-block;background:var(--chip);border-radius:1rem;padding:0 .6rem;margin:0 .25rem .15rem 0;
font-size:.85rem;white-space:nowrap}
.soft,footer{color:var(--soft)}
.empty{padding:2.5rem 1rem;text-align:center;color:var(--soft)}
.more{margin:1rem 0}
"""
_ICON = (
    "data:image/svg+xml,"
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath fill='%230b63b5' "
    "d='M1 10h14l-2 4H3zM7 2h1v7H7zM9 3l4 5H9z'/%3E%3C/svg%3E"
)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_hash(STYLE)}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
CONTENT_TYPE = "text/html; charset=utf-8"


def human_size(size_bytes: int) -> str:
    """With 1000 to the kilobyte, as Docker shows images."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def moment(time_ns: int) -> str:
    """To the minute, UTC."""
    return format_ns(time_ns)[:16].replace("T", " ") if time_ns else "—"


def repository_url(name: str) -> str:
    return BROWSE + quote(name)


def manifest_url(repository: str, reference: str) -> str:
    return f"{BROWSE}{quote(repository)}{MARK}{quote(reference)}"


def _link(url: str, content: str) -> str:
    """``content`` is HTML."""
    return f'<a href="{escape(url)}">{content}</a>'


def _short(digest: str) -> str:
    algorithm, _, text = digest.partition(":")
    return f"{algorithm}:{text[:12]}"


def _page(title: str, body: str, who: Who, query: str = "") -> bytes:
    visitor = '<a href="/login">Log in</a>' if who == "" else escape(who or "")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="{_ICON}"><style>{STYLE}</style></head><body>'
        '<header><a class="home" href="/">Registry</a><form action="/" role="search">'
        '<input type="search" name="q" placeholder="Search repositories" aria-label="Search repositories" '
        f'value="{escape(query)}"></form><span class="who">{visitor}</span></header>'
        f"<main>{body}</main><footer>Sampan registry</footer></body></html>"
    ).encode("utf-8", "replace")


def _table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """``heads``: text and class of each column; cells are HTML."""
    kinds = [kind for _, kind in heads]
    head = "".join(f'<th class="{kind}">{escape(text)}</th>' for text, kind in heads)
    lines = (
        "<tr>"
        + "".join(f'<td class="{kind}">{cell}</td>' for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    body = "".join(lines)
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _more(url: str) -> str:
    return f'<p class="more">{_link(url, "More")}</p>'


def repositories_page(
    found: Sequence[RepositoryUsage], query: str, who: Who, *, more: bool, after: str = ""
) -> bytes:
    """The list of repositories."""
    title = f"Repositories with “{query}”" if query else "Repositories"
    body = f"<h1>{escape(title)}</h1>"
    if not found:
        text = (
            "Nothing matches." if query or after else "Nothing has been pushed yet, or nothing you may see."
        )
        return _page(title, f'{body}<div class="card empty">{text}</div>', who, query)
    rows = [
        (
            _link(repository_url(one.repository), escape(one.repository)),
            str(one.tags),
            human_size(one.size_bytes),
            moment(one.updated_ns),
        )
        for one in found
    ]
    body += _table([("Name", ""), ("Tags", "n"), ("Size", "n"), ("Last push", "n")], rows)
    if more:
        body += _more("/?" + urlencode({"q": query, "after": found[-1].repository}))
    return _page(title, body, who, query)


def _chips(texts: Iterable[str]) -> str:
    return "".join(f'<span class="chip">{escape(text)}</span>' for text in texts)


def repository_page(repository: str, tags: Sequence[TagView], host: str, who: Who, *, more: bool) -> bytes:
    """A repository's tags."""
    body = f"<h1>{escape(repository)}</h1>"
    if not tags:
        return _page(repository, f'{body}<div class="card empty">No tags.</div>', who)
    newest = max(tags, key=lambda one: one.info.updated_ns).info.name
    body += f"<pre>docker pull {escape(f'{host}/{repository}:{newest}')}</pre>"
    rows = []
    for one in tags:
        tag, digest = one.info, one.info.digest
        rows.append(
            (
                _link(manifest_url(repository, tag.name), escape(tag.name)),
                _link(manifest_url(repository, digest), f"<code>{escape(_short(digest))}</code>"),
                _chips(one.platforms),
                human_size(tag.size_bytes),
                moment(tag.updated_ns),
                moment(tag.pulled_ns),
            )
        )
    heads = [("Tag", ""), ("Digest", ""), ("Platforms", ""), ("Size", "n"), ("Pushed", "n"), ("Pulled", "n")]
    body += _table(heads, rows)
    if more:
        body += _more(f"{repository_url(repository)}?" + urlencode({"after": tags[-1].info.name}))
    return _page(repository, body, who)


def _parts(repository: str, title: str, head: str, parts: Sequence[Part], *, links: bool) -> str:
    if not parts:
        return ""
    rows = []
    for one in parts:
        digest = f"<code>{escape(one.digest if not links else _short(one.digest))}</code>"
        if links and one.is_here:
            digest = _link(manifest_url(repository, one.digest), digest)
        elif not one.is_here:
            digest += ' <span class="soft">not here</span>'
        rows.append((escape(one.name), digest, human_size(one.size_bytes)))
    return f"<h2>{escape(title)}</h2>" + _table([(head, ""), ("Digest", ""), ("Size", "n")], rows)


def _facts(title: str, facts: dict[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td class="w">{escape(value)}</td></tr>'
        for key, value in facts.items()
    )
    return f'<h2>{escape(title)}</h2><div class="card"><table><tbody>{rows}</tbody></table></div>'


def manifest_page(view: ManifestView, reference: str, host: str, who: Who) -> bytes:
    """An image, index or artifact."""
    joint = "@" if ":" in reference else ":"
    name = f"{view.repository}{joint}{reference}"
    shown = _short(reference) if joint == "@" else reference
    body = (
        f"<h1>{_link(repository_url(view.repository), escape(view.repository))}{joint}{escape(shown)}</h1>"
        f"<pre>docker pull {escape(f'{host}/{name}')}</pre>"
    )
    facts = {
        "Digest": view.digest,
        "Media type": view.media_type,
        # of an image it is its configuration's type, which says nothing
        "Artifact type": "" if view.settings else view.artifact_type,
        "Size": human_size(view.size_bytes),
        "Pushed": moment(view.pushed_ns),
        "Tags": ", ".join(view.tags),
    }
    body += _facts("Manifest", {key: value for key, value in facts.items() if value})
    body += _parts(view.repository, "Platforms", "Platform", view.platforms, links=True)
    body += _facts("Configuration", view.settings)
    body += _parts(view.repository, "Layers", "Media type", view.layers, links=False)
    body += _parts(view.repository, "Referrers", "Type", view.referrers, links=True)
    body += _facts("Annotations", view.annotations)
    return _page(name, body, who)


def problem_page(title: str, text: str, who: Who) -> bytes:
    return _page(title, f'<h1>{escape(title)}</h1><div class="card empty">{escape(text)}</div>', who)
