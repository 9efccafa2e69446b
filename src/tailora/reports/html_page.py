"""The frame of an HTML report: one self-contained file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; font-size: 1.8rem; overflow-wrap: anywhere; }
h2 { line-height: 1.3; font-size: 1.3rem; margin-top: 2rem; }
p { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 8rem; padding-left: 0; }
.words td, .words th { text-align: left; }
.note { opacity: .75; font-size: .9rem; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figure svg { max-width: 100%; min-width: 38rem; height: auto; background: #fff; border-radius: .4rem; }
figcaption { opacity: .75; font-size: .9rem; }
@media (max-width: 40rem) { th, td { padding: .25rem .5rem; } h1 { font-size: 1.5rem; } }
"""


def html_page(title: str, about: Sequence[str], parts: Sequence[str], style: str = "") -> str:
    """Return a whole HTML document.

    Args:
        title: of the page.
        about: paragraphs under the title, as plain text.
        parts: HTML of the body after them.
        style: rules of CSS in addition to those that all reports share.
    """
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in about),
        *parts,
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"
