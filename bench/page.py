"""The figures in docs/performance.md, each kind between two markers of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


@dataclass(frozen=True, slots=True)
class Place:
    """Where figures stand in the page: between these two lines."""

    begin: str
    end: str


FIGURES = Place(
    "<!-- bench: begin; `make bench ARGS=--write` writes what follows -->",
    "<!-- bench: end -->",
)
LOAD_FIGURES = Place(
    '<!-- load: begin; `make bench ARGS="--load --write"` writes what follows -->',
    "<!-- load: end -->",
)
FRESHNESS_FIGURES = Place(
    '<!-- freshness: begin; `make bench ARGS="--freshness --write"` writes what follows -->',
    "<!-- freshness: end -->",
)
STORE_FIGURES = Place(
    '<!-- store: begin; `make bench ARGS="--store --write"` writes what follows -->',
    "<!-- store: end -->",
)
LIMITS_FIGURES = Place(
    '<!-- limits: begin; `make bench ARGS="--limits --write"` writes what follows -->',
    "<!-- limits: end -->",
)


def replace_figures(text: str, place: Place, figures: str) -> str:
    """Return the page's text with *figures* in their place.

    Raises BenchError where its lines do not stand there once, in order.
    """
    before, begin, rest = text.partition(place.begin)
    _, end, after = rest.partition(place.end)
    if not (begin and end) or place.begin in rest or place.end in after:
        raise BenchError(f"{PAGE.name} needs these two lines once each: {place.begin} {place.end}")
    return f"{before}{begin}\n\n{figures.strip()}\n\n{end}{after}"


def write_page(place: Place, figures: str) -> None:
    """Put *figures* into the page. Raises BenchError where it has no place for them."""
    PAGE.write_text(replace_figures(PAGE.read_text(), place, figures))
