"""A flow student beside its teacher and methods without training: the result of an evaluation, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ConfigDict

from toolkit.bundle import Provenance
from toolkit.flow_metrics import FlowReport, FlowScores
from toolkit.schema import StrictModel
from toolkit.side_by_side import RESAMPLES, SEED, Interval, bootstrap_interval, markdown_table

STUDENT, TEACHER = "student", "teacher"
EPE_COLUMNS = ("EPE px", "visible", "occluded", "< 10 px", "10-40 px", "40 px +", "Fl %")
WITHIN_COLUMNS = ("within 1 px %", "within 3 px %", "within 5 px %")
MISSING = "–"


class FlowMethod(StrictModel):
    """Figures of one source of flow. `params` is None where it has none; `interval` is that of `report.all.epe`."""

    params: int | None
    report: FlowReport
    interval: Interval | None


class PairErrors(StrictModel):
    """One pair of `size` (height, width): its `pixels` with a known truth, and the EPE over them of each method.

    `epe` is empty where there is no such pixel. Infinite values are strings in JSON.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    name: str
    size: tuple[int, int]
    pixels: int
    epe: dict[str, float]


class FlowSideBySide(StrictModel):
    """`evaluation.json` of a flow run.

    `methods` are `student`, `teacher` where it has one, and baselines by their names. `left_out` says in a line each
    what could not be had here, and how to get it. `bootstrap` is (resamples, seed).
    """

    run: str
    data: str
    pairs: list[PairErrors]
    methods: dict[str, FlowMethod]
    left_out: list[str]
    bootstrap: tuple[int, int] = (RESAMPLES, SEED)
    student_sha256: str
    provenance: Provenance


def epe_interval(pairs: Sequence[PairErrors], method: str) -> Interval | None:
    """The 95 % interval of a method's EPE by bootstrap over pairs, in which each pixel counts once, as in the mean."""
    known = [pair for pair in pairs if pair.pixels]
    return bootstrap_interval([pair.epe[method] for pair in known], [pair.pixels for pair in known])


def order(pairs: Sequence[PairErrors]) -> list[int]:
    """The numbers of the pairs with a known truth, from the student's worst EPE to its best."""
    known = [number for number, pair in enumerate(pairs) if pair.pixels]
    return sorted(known, key=lambda number: -pairs[number].epe[STUDENT])


def epe_cells(report: FlowReport) -> list[str]:
    """The figures of `EPE_COLUMNS`: EPE of all pixels, visible, occluded, and by true displacement; then Fl-all."""
    groups = (report.all, report.visible, report.occluded, report.s0_10, report.s10_40, report.s40)
    return [*(_number(group, "epe") for group in groups), _number(report.all, "fl_percent")]


def within_cells(report: FlowReport) -> list[str]:
    """The figures of `WITHIN_COLUMNS`, over all pixels."""
    return [_number(report.all, f"within_{limit}_percent") for limit in (1, 3, 5)]


def params_cell(params: int | None) -> str:
    """A number of parameters, or a dash."""
    return MISSING if params is None else f"{params:,}"


def errors_table(reports: Mapping[str, FlowReport]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of end-point errors, a row for each method."""
    return ["flow", *EPE_COLUMNS], [[name, *epe_cells(report)] for name, report in reports.items()]


def tables(result: FlowSideBySide) -> list[tuple[list[str], list[list[str]]]]:
    """Columns and rows of two tables: end-point errors, in brackets their 95 % intervals; parameters and shares."""
    columns, rows = errors_table({name: method.report for name, method in result.methods.items()})
    for row, method in zip(rows, result.methods.values(), strict=True):
        if method.interval is not None:
            row[1] += f" [{method.interval.low:.2f}, {method.interval.high:.2f}]"
    shares = [
        [name, params_cell(method.params), *within_cells(method.report)] for name, method in result.methods.items()
    ]
    return [(columns, rows), (["flow", "parameters", *WITHIN_COLUMNS], shares)]


def title(result: FlowSideBySide) -> str:
    """What was evaluated, in one line."""
    sizes = {pair.size for pair in result.pairs}
    size = "" if len(sizes) > 1 else ", {}x{}".format(*sizes.pop())
    count = len(result.pairs)
    return f"held-out: {count} pair{'s' if count > 1 else ''}{size}, {result.data}"


def markdown(result: FlowSideBySide) -> str:
    """`evaluation.md`: the tables, the two pictures and every pair."""
    found = result.provenance.versions
    packages = ("handheld", "torch", "torchvision", "opencv-python-headless")
    versions = ", ".join(f"{name} {found[name]}" for name in packages if name in found)
    pairs = [
        [pair.name, "{}x{}".format(*pair.size), *(_epe(pair.epe.get(name)) for name in result.methods)]
        for pair in result.pairs
    ]
    parts = [
        f"# {result.run}",
        title(result),
        *(markdown_table(*table) for table in tables(result)),
        "EPE is the mean length of the error in pixels, over all pixels with a known truth, over visible and occluded "
        "ones, and by true displacement; Fl is the share of errors above 3 pixels and above 5 % of the displacement. "
        f"In brackets the 95 % interval by bootstrap over pairs ({result.bootstrap[0]} resamples, seed "
        f"{result.bootstrap[1]}), which takes pairs as independent.",
        *result.left_out,
        "## Pictures\n\nFirst frame and truth; below them the student's flow, in the truth's scale of colours, and its "
        "errors: blue within the threshold of Fl, red beyond it, black without truth. By the student's EPE:",
        "The worst pair:\n\n![worst pair](worst.png)",
        "The median pair:\n\n![median pair](median.png)",
        "## Pairs\n\nEPE in pixels.",
        markdown_table(["pair", "size", *result.methods], pairs),
        f"{result.provenance.created}, {versions}",
    ]
    return "\n\n".join(parts) + "\n"


def _number(scores: FlowScores | None, figure: str) -> str:
    return _epe(None if scores is None else getattr(scores, figure))


def _epe(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"
