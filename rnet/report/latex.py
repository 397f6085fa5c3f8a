"""A table as LaTeX for papers: booktabs rules, means with their spread, everything that users named escaped.

The packages that it needs are named in a comment above it.
"""

from __future__ import annotations

import re

from rnet.report.cells import Cell, is_right, lines_of, one_line, shown_columns, title_of
from rnet.report.table import Table

LONG = 40
"""Lines above which a table may break over pages."""
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "\u00b1": r"$\pm$",
}  # fmt: skip


def latex(table: Table) -> str:
    """A table environment no wider than the text; a longtable where it has more than LONG lines."""
    columns = shown_columns(table)
    if not table.lines:
        return f"% {one_line(table.title)}: nothing to show\n"
    align = "".join("r" if is_right(column) else "l" for column in columns)
    head = _row([escaped(title_of(column)) for column in columns])
    body = "".join(_row([_text(cell) for cell in line]) for line in lines_of(table))
    caption = f"\\caption{{{escaped(table.title)}. {' '.join(escaped(note) for note in table.notes)}}}"
    label = f"\\label{{tab:{table.name}}}"
    if len(table.lines) > LONG:
        return (
            "% needs booktabs, longtable, and fontenc with T1\n"
            f"{{\\scriptsize\n\\begin{{longtable}}{{{align}}}\n{caption}{label}\\\\\n"
            f"\\toprule\n{head}\\midrule\n\\endfirsthead\n\\toprule\n{head}\\midrule\n\\endhead\n"
            f"{body}\\bottomrule\n\\end{{longtable}}}}\n"
        )
    return (
        "% needs booktabs, graphicx, and fontenc with T1\n"
        f"\\begin{{table*}}\n\\centering\n{caption}\n{label}\n"
        "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%\n"
        f"\\begin{{tabular}}{{{align}}}\n\\toprule\n{head}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}}}\n"
        "\\end{table*}\n"
    )


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    return "".join(_ESCAPES.get(c, c) for c in one_line(text))


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\" + "\n"


def _text(cell: Cell) -> str:
    if not cell.seeds:
        return escaped(cell.text) if _number(cell.text) is None else f"${_number(cell.text)}$"
    mean = _number(cell.text) or escaped(cell.text)
    spread = rf" \pm {_number(cell.spread) or cell.spread}" if cell.spread else ""
    inside = [f"${_number(end) or end}$" for end in cell.interval] if cell.interval else []
    interval = f"[{', '.join(inside)}], " if inside else ""
    return rf"${mean}{spread}$ {{\footnotesize ({interval}$n={cell.seeds.removeprefix('n=')}$)}}"


def _number(text: str) -> str | None:
    """A number as mathematics; None for what is none."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)(?:e([+-]\d+))?", text)
    if found is None:
        return None
    return found[1] if found[2] is None else rf"{found[1]} \times 10^{{{int(found[2])}}}"
