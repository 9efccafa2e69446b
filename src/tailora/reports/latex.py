"""A table of the scores of several systems in LaTeX, with the packages that every installation has."""

from __future__ import annotations

from collections.abc import Sequence

from tailora.reports.systems import Cell, ScoreTable, letter

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "\u00a0": "~",
}
_ESCAPES |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def latex(tables: Sequence[ScoreTable], signatures: Sequence[tuple[str, str]], note: str) -> str:
    """Return one `tabular` for each table, with systems in rows and scores in columns.

    The best value of a column is bold, and superscripts name the systems that are significantly worse. Signatures and
    the note are comments, since they belong into a caption in the author's words.

    Args:
        tables: the scores on each part of the data.
        signatures: label and signature of each score.
        note: on tests and intervals.
    """
    comments = [f"% {line}" for line in (note, *(f"{label}: {text}" for label, text in signatures))]
    return "\n\n".join(["\n".join(comments), *map(_tabular, tables)]) + "\n"


def escaped(text: str) -> str:
    """Return a text in which the signs with a meaning in LaTeX are escaped."""
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


def _tabular(table: ScoreTable) -> str:
    head = " & ".join(["", *(escaped(label) for label, _ in table.rows)])
    lines = [
        " & ".join([f"{letter(place)} {escaped(name)}", *(_cell(cells[place]) for _, cells in table.rows)])
        for place, name in enumerate(table.systems)
    ]
    columns = "l" + "r" * len(table.rows)
    body = " \\\\\n".join(lines)
    title = " ".join(table.title.split())
    begin = f"% {title}\n\\begin{{tabular}}{{{columns}}}"
    return f"{begin}\n\\hline\n{head} \\\\\n\\hline\n{body} \\\\\n\\hline\n\\end{{tabular}}"


def _cell(cell: Cell) -> str:
    value = escaped(cell.value)
    value = f"\\textbf{{{value}}}" if cell.is_best else value
    return f"{value}$^{{\\mathrm{{{cell.beats.replace(' ', '')}}}}}$" if cell.beats else value
