"""One HTML page and one CSV of a comparison: everything in the file, nothing fetched, no script."""

import base64
import csv
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bnn_jax.checkpoint import write_text_atomic
from bnn_jax.comparison import FIGURES, Cell, Result, figures_of, marked, summarise
from bnn_jax.comparison.figures import OUTLIER
from bnn_jax.report.comparison_plots import Curves, calibrations, error_vs_score, retentions, rocs

TITLES = {
    "forces": "Force components (kcal/mol/Å)",
    "structures": "Structures: root mean square of their force errors (kcal/mol/Å)",
    "energy": "Energies (kcal/mol)",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: 0.25em 0.7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td small { color: #777; display: block; }
td.best { background: #dff0d8; font-weight: bold; }
img { max-width: 100%; }
"""


def write_comparison(
    out: Path, results: Sequence[Result], description: Mapping[str, str], tests: Sequence[str]
) -> tuple[Path, Path]:
    """Write ``comparison.html`` and ``comparison.csv``.

    Args:
        out: folder.
        results: of all methods and seeds.
        description: what was compared, line by line, for the head of the page.
        tests: names of the test sets.

    Returns:
        The two paths.

    Raises:
        InputError: a file cannot be written.
    """
    measured = [result.measured[test] for result in results for test in tests if test in result.measured]
    quantities = dict.fromkeys(quantity for each in measured for quantity in each)
    tables = {test: {quantity: summarise(results, test, quantity) for quantity in quantities} for test in tests}
    write_text_atomic(out / "comparison.csv", comparison_csv(tables))
    write_text_atomic(out / "comparison.html", _page(results, tables, description))
    return out / "comparison.html", out / "comparison.csv"


def comparison_csv(tables: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Cell]]]]) -> str:
    """A row for each test set, quantity, method and figure; units are kcal/mol and Angstrom.

    Args:
        tables: by test set and quantity, from :func:`bnn_jax.comparison.summarise`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("test", "quantity", "method", "figure", "mean", "lower", "upper", "std_over_seeds", "num_seeds", "is_best")
    )
    for test, quantities in tables.items():
        for quantity, table in quantities.items():
            best = {name: marked(table, name) for name in figures_of(quantity)}
            for method, row in table.items():
                for name in figures_of(quantity):
                    cell = row[name]
                    values = (f"{value:.6g}" for value in (cell.estimate, cell.lower, cell.upper, cell.spread))
                    writer.writerow((test, quantity, method, name, *values, cell.num_seeds, int(best[name] == method)))
    return text.getvalue()


def comparison_markdown(table: Mapping[str, Mapping[str, Cell]], names: Sequence[str]) -> str:
    """A table for a README: methods down, figures with their intervals across, the best in bold where these part.

    Args:
        table: of one quantity of one test set.
        names: of the figures.
    """
    best = {name: marked(table, name) for name in names}
    lines = [f"| method | {' | '.join(FIGURES[name].label for name in names)} |", "|---|" + "---:|" * len(names)]
    for method, row in table.items():
        cells = [
            f"{f'**{_value(row[name])}**' if best[name] == method else _value(row[name])}{_interval(row[name])}"
            for name in names
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _page(results: Sequence[Result], tables: Mapping, description: Mapping[str, str]) -> str:
    parts = ["<h1>Uncertainty methods compared</h1>", "<table>"]
    parts += [
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in description.items()
    ]
    parts += ["</table>", _HOW_TO_READ, *_failures(results), "<h2>Cost</h2>", _costs(results)]
    for test, quantities in tables.items():
        parts.append(f"<h2>Test set: {html.escape(test)}</h2>")
        for quantity, table in quantities.items():
            if table:
                title = TITLES.get(quantity, f"Components of the {quantity} (kcal/mol/Å)")
                parts += [f"<h3>{title}</h3>", _table(table, figures_of(quantity))]
                parts += [f"<p>{html.escape(reason)}</p>" for reason in _undefined(results, test, quantity)]
        curves = _curves(results, test)
        if curves:
            figures = [error_vs_score(curves), rocs(curves, OUTLIER), retentions(curves)]
            if any((each.stds > 0).all() for each in curves.values()):
                figures.insert(1, calibrations(curves))
            parts += [_image(figure, f"{test}: {figure.axes[0].get_ylabel()}") for figure in figures]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Uncertainty methods compared</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


_HOW_TO_READ = """<p>Each figure is the mean over seeds; below it the 95 % interval over test sets drawn from the
structures, and ± the standard deviation over seeds. A figure is marked as best only if its difference to every other
method, on the same draws, leaves out zero and exceeds the spread over seeds. ENCE, NECE and miscalibration areas are
never marked: drawing raises them. A dash: the method does not have what the figure needs, or one class is empty.
Calibrated figures use variance = a U + b fitted to the validation set (Tan et al. 2023, eq. 13).</p>"""


def _undefined(results: Sequence[Result], test: str, quantity: str) -> Iterator[str]:
    """Why there is no ROC-AUC of errors beyond the threshold."""
    if "auroc" not in figures_of(quantity):
        return
    for result in results:
        if quantity in result.arrays.get(test, {}):
            errors = result.arrays[test][quantity]["errors"]
            count = int((np.abs(errors) > OUTLIER).sum())
            if count in (0, errors.size):
                yield (
                    f"{result.method}, seed {result.seed}: {'no' if count == 0 else 'every'} error is beyond"
                    f" {OUTLIER:g} kcal/mol/Å, so that ROC-AUC and PR-AUC are not defined."
                )


def _failures(results: Sequence[Result]) -> list[str]:
    failed = [
        f"<li>{html.escape(f'{result.method}, seed {result.seed}: {result.failure}')}</li>"
        for result in results
        if result.failure is not None
    ]
    return ["<p>Failed, and left out of all means:</p><ul>", *failed, "</ul>"] if failed else []


def _costs(results: Sequence[Result]) -> str:
    head = ("method", "fit, s", "gradients of structures", "step, MB", "prediction, ms a structure")
    rows = []
    measured = [result for result in results if result.failure is None]
    for method in dict.fromkeys(result.method for result in measured):
        costs = [result.cost for result in measured if result.method == method]
        resumed = any(cost["fit_resumed"] for cost in costs)
        rows.append(
            (
                method,
                f"{'> ' if resumed else ''}{np.mean([cost['fit_seconds'] for cost in costs]):.0f}",
                f"{costs[0]['structure_gradients']:,.0f}",
                f"{costs[0]['step_bytes'] / 1e6:.0f}",
                f"{1e3 * np.mean([cost['predict_seconds'] for cost in costs]):.2f}",
            )
        )
    return _html_table(head, [[(cell, False) for cell in row] for row in rows])


def _table(table: Mapping[str, Mapping[str, Cell]], names: Sequence[str]) -> str:
    best = {name: marked(table, name) for name in names}
    arrows = {"lower": " ↓", "higher": " ↑", "nearer to one": " → 1", "none": ""}
    head = ("method", *(FIGURES[name].label + arrows[FIGURES[name].better] for name in names))
    rows = []
    for method, row in table.items():
        cells = [(html.escape(method), False)]
        for name in names:
            cell = row[name]
            text = _value(cell)
            if np.isfinite(cell.lower):
                text += f"<small>{_number(cell.lower)} to {_number(cell.upper)}</small>"
            if np.isfinite(cell.spread):
                text += f"<small>± {_number(cell.spread)}</small>"
            cells.append((text, best[name] == method))
        rows.append(cells)
    return _html_table(head, rows)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[tuple[str, bool]]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = "".join(f'<td class="best">{cell}</td>' if is_best else f"<td>{cell}</td>" for cell, is_best in row)
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _value(cell: Cell) -> str:
    return _number(cell.estimate) if np.isfinite(cell.estimate) else "-"


def _interval(cell: Cell) -> str:
    return f" [{_number(cell.lower)}, {_number(cell.upper)}]" if np.isfinite(cell.lower) else ""


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _curves(results: Sequence[Result], test: str) -> dict[str, Curves]:
    curves = {}
    for method in dict.fromkeys(result.method for result in results):
        arrays = [
            result.arrays[test]["forces"]
            for result in results
            if result.method == method and "forces" in result.arrays.get(test, {})
        ]
        if arrays:
            joined = (np.concatenate([each[name] for each in arrays]).astype(np.float64) for name in Curves._fields)
            curves[method] = Curves(*joined)
    return curves


def _image(figure: Figure, alternative: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    text = base64.b64encode(data.getvalue()).decode()
    return f'<p><img alt="{html.escape(alternative)}" src="data:image/png;base64,{text}"></p>'
