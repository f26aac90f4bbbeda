"""The figures in docs/performance.md, between two markers."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN = "<!-- bench: begin; `make bench ARGS=--write` writes what follows -->"
END = "<!-- bench: end -->"


def replace_figures(text: str, figures: str) -> str:
    """Return the page's text with *figures* between its markers.

    Raises BenchError where they do not stand there once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise BenchError(f"{PAGE.name} needs these two lines once each: {BEGIN} {END}")
    return f"{before}{BEGIN}\n\n{figures.strip()}\n\n{END}{after}"


def write_page(figures: str) -> None:
    """Put *figures* into the page. Raises BenchError where it has no place for them."""
    PAGE.write_text(replace_figures(PAGE.read_text(), figures))
