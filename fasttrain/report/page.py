"""The parts of every page: document, sections, tables, charts, escaping.

A page is one file that needs no network: styles, scripts and data are inside, and its content
security policy forbids everything else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
ASSETS = ("scales.js", "charts.js", "page.js")
WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|\\.|\S)+""")  # a word of a command, as a shell splits it

Cell = tuple[str, float | None]  # a cell's HTML, and the number to sort it by


def esc(value: object) -> str:
    """Escape text for HTML content and quoted attributes."""
    return escape(str(value), quote=True)


def asset(name: str) -> str:
    """Return the text of a style sheet or script of this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def document(title: str, body: str, charts: dict[str, Any]) -> str:
    """Return a whole page; `charts` maps names to the data of charts."""
    script = "\n".join(asset(name) for name in ASSETS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{esc(title)}</title>
<style>
{asset("page.css")}</style>
<script>document.documentElement.classList.add("js");</script>
</head>
<body>
{body}
<script type="application/json" id="charts">{embedded(charts)}</script>
<script>
{script}</script>
</body>
</html>
"""


def embedded(data: object) -> str:
    """Return JSON that is safe in a script element; NaN and infinities become null."""
    text = json.dumps(_finite(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def section(name: str, title: str, lead: str, content: str) -> str:
    """Return a section: a heading, a `lead` sentence (text) and `content` (HTML)."""
    lead = f'<p class="lead">{esc(lead)}</p>' if lead else ""
    return f'<section id="{name}">\n<h2>{esc(title)}</h2>\n{lead}\n{content}\n</section>'


def chart(name: str, title: str, note: str = "") -> str:
    """Return the element in which the script draws the chart `name`."""
    note = f"<p>{esc(note)}</p>" if note else ""
    return f"""<figure><figcaption><h3>{esc(title)}</h3>{note}</figcaption>
<div class="chart" data-chart="{esc(name)}"></div></figure>"""


def scrolled(label: str, content: str) -> str:
    """Put wide content into a box that scrolls, by keyboard too."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(label)}">{content}</div>'
    )


def captioned(caption: str, content: str) -> str:
    """Put wide content into a box that scrolls, under a fixed caption."""
    return f'<p class="caption">{esc(caption)}</p>\n{scrolled(caption, content)}'


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], *, sortable: bool = False
) -> str:
    """Return a table in a box that scrolls, under its caption.

    The first column names the rows. A cell with a number is aligned right and sorted by it. `rows`
    must not be empty.
    """
    kind = ' class="sortable"' if sortable else ""
    cells = list(rows)
    body = "\n".join(f"<tr>{_row(row)}</tr>" for row in cells)
    right = {i for i, (_, value) in enumerate(cells[0]) if i and value is not None}
    names = "".join(_head(name, i in right, sortable) for i, name in enumerate(head))
    return captioned(
        caption,
        f'<table{kind} aria-label="{esc(caption)}">\n'
        f"<thead><tr>{names}</tr></thead>\n<tbody>\n{body}\n</tbody></table>",
    )


def _head(name: str, number: bool, sortable: bool) -> str:
    kind = ' class="number"' if number else ""
    if not sortable:
        return f'<th scope="col"{kind}>{esc(name)}</th>'
    button = f'<button type="button">{esc(name)}</button>'
    return f'<th scope="col"{kind} aria-sort="none">{button}</th>'


def _row(row: Sequence[Cell]) -> str:
    (name, _), *others = row
    return f'<th scope="row">{name}</th>' + "".join(_cell(*cell) for cell in others)


def _cell(shown: str, value: float | None) -> str:
    if value is None:
        return f"<td>{shown}</td>"
    return f'<td class="number" data-value="{_sortable(value)}">{shown}</td>'


def _sortable(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else "-1"


def entries(title: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and values as a table that opens on a press."""
    rows = "\n".join(
        f'<tr><th scope="row">{esc(name)}</th><td>{esc(value)}</td></tr>' for name, value in pairs
    )
    return (
        f"<details><summary>{esc(title)}</summary>\n"
        f'<table class="plain"><tbody>\n{rows}\n</tbody></table></details>'
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a few names and values in columns."""
    items = [f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in pairs]
    some, many = (columns(len(items), most) for most in (4, 5))
    return f'<dl class="facts" style="--some:{some};--many:{many}">{"".join(items)}</dl>'


def columns(count: int, most: int) -> int:
    """Return how many columns, up to `most`, put `count` items into few and full rows.

    A single item in the last row is avoided where possible.
    """

    def cost(n: int) -> tuple[bool, int, int]:
        return count % n == 1 and count > 1, -(-count // n), -count % n

    return min(range(2, most + 1), key=cost)


def command_line(command: str) -> str:
    """Return a command that wraps between words, preferably before a flag."""
    groups: list[list[str]] = []
    for word in WORD.findall(command):
        flag = groups[-1][0] if groups and len(groups[-1]) == 1 else ""
        if flag.startswith("-") and "=" not in flag and not word.startswith("-"):
            groups[-1].append(word)
        else:
            groups.append([word])
    shown = (" ".join(f"<span>{esc(word)}</span>" for word in group) for group in groups)
    return f'<p class="command">{" ".join(f"<span>{group}</span>" for group in shown)}</p>'
