"""What was measured, as it is read: medians beside each other and ratios, in a table and a plot.

The one rule: a time alone means nothing on a shared machine; what is judged is a ratio of things measured by turns in
the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Verdict:
    """A target, and what came of it."""

    target: str
    """In words, as `cold start ≤ 1.3 × its floor`."""
    value: str
    met: bool


@dataclass(frozen=True)
class Curve:
    """How something grows: `values` at `steps` of what grows."""

    name: str
    over: str
    unit: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass
class Report:
    """One measurement's table; each row begins with whose it is."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    note: str = ""

    def judge(self, target: str, value: float, most: float, form: str = "{:.2f} ×") -> None:
        """Say whether a value is at most so much."""
        self.verdicts.append(Verdict(target, form.format(value), value <= most))

    def lines(self) -> Iterator[str]:
        """Yield it in Markdown."""
        yield f"### {self.title}"
        yield ""
        if self.note:
            yield self.note
            yield ""
        yield f"| {' | '.join(self.columns)} |"
        yield f"|{'---|' * len(self.columns)}"
        for row in self.rows:
            yield f"| {' | '.join(row)} |"
        yield ""
        for each in self.verdicts:
            yield f"- {'met' if each.met else '**not met**'}: {each.target}: {each.value}"
        if self.verdicts:
            yield ""


@dataclass(frozen=True)
class Times:
    """Seconds."""

    seconds: Sequence[float]

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(len(self.seconds) * 0.99))]


def milliseconds(seconds: float) -> str:
    """Return a time as it is read."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def by_turns(rounds: int, measured: Mapping[str, Callable[[], float]], *, warm_up: int = 0) -> dict[str, Times]:
    """Measure each in every round, so that a noisy moment meets all of them; returns seconds."""
    times: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(rounds + warm_up):
        for name, measure in measured.items():
            took = measure()
            if number >= warm_up:
                times[name].append(took)
    return {name: Times(each) for name, each in times.items()}


def plot(curves: Iterable[Curve], file: Path) -> None:
    """Draw how things grow."""
    import matplotlib as mpl  # noqa: PLC0415 - slow, and only wanted in the end

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    found = list(curves)
    columns = 3
    lines = -(-len(found) // columns)
    figure, places = plt.subplots(lines, columns, figsize=(4 * columns, 3 * lines), squeeze=False)
    for place, curve in zip(places.flat, found, strict=False):
        place.plot(curve.steps, curve.values, marker="o")
        place.set(title=curve.name, xlabel=curve.over, ylabel=curve.unit)
        place.set_ylim(bottom=0, top=1.4 * max(curve.values))
        place.grid(visible=True, alpha=0.3)
    for place in list(places.flat)[len(found) :]:
        place.set_axis_off()
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    plt.close(figure)
