"""The results of a run as a section of ``benchmarks/RESULTS.md``."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.peers.compare import COLUMNS
from benchmarks.timing import head, row

STEPS_OF_A_RUN = 10**6
Found = Mapping[str, Any]


def section(found: Found) -> str:
    """Markdown of the parts that there are."""
    parts = [write(found) for part, write in WRITERS.items() if found.get(part)]
    title = f"## On {found['environment'].rpartition('Device: ')[2].rstrip('.')}"
    lines = [title, f"```\n{found['command']}\n```", *parts, f"{found['environment']} {found['platform']}."]
    return "\n\n".join(lines) + "\n"


def _table(names: Iterable[str], rows: Iterable[str]) -> str:
    return "\n".join([head(*names), *rows])


def _tests(found: Found) -> str:
    return f"Tests marked `gpu` (single precision here against double on the CPU): {found['tests']['line']}."


def _steps(found: Found) -> str:
    records = sorted(found["steps"], key=lambda record: (record["preset"], record["chains"]))
    single = {record["preset"]: record["ms_per_step"] for record in records if record["chains"] == 1}

    def cells(record: Found) -> str:
        ms, preset, chains = (record[name] for name in ("ms_per_step", "preset", "chains"))
        ratio = f"{ms / single[preset]:.2f}" if preset in single else ""
        hours = f"{STEPS_OF_A_RUN * ms / 3.6e6:.2f}"
        return row(preset, chains, record["batch_size"], f"{ms:.3f}", ratio, hours, *_rates(record, ms, found))

    names = "preset", "chains", "batch", "ms/step", "/ one chain", "hours for 10^6 steps", *RATES
    return _table(names, map(cells, records))


def _predictions(found: Found) -> str:
    records = sorted(found["predictions"], key=lambda record: tuple(record[k] for k in ("preset", "atoms", "samples")))
    single = {(record["preset"], record["system"]): record["ms"] for record in records if record["samples"] == 1}

    def cells(record: Found) -> str:
        key = record["preset"], record["system"]
        ratio = f"{record['ms'] / single[key]:.2f}" if key in single else ""
        figures = record["samples"], f"{record['ms']:.3f}", ratio, f"{record['us_per_atom_and_sample']:.2f}"
        return row(*key, *figures, *_rates(record, record["ms"], found))

    names = "preset", "system", "K", "ms", "/ one sample", "us/atom/sample", *RATES
    return _table(names, map(cells, records))


RATES = "GFLOP/s", "of best, %", "GB/s", "of best, %"


def _rates(record: Found, ms: float, found: Found) -> list[str]:
    """Achieved operations and traffic a second by XLA's count, and their share of what the card can do."""
    card, cells = found.get("card", {}), []
    for count, best in (("flops", "flops_per_s_float32"), ("bytes_accessed", "bytes_per_s")):
        rate = record[count] / (1e-3 * ms) if record[count] else None
        cells.append("" if rate is None else f"{rate / 1e9:.3g}")
        cells.append("" if rate is None or best not in card else f"{100 * rate / card[best]:.2g}")
    return cells


def _card(found: Found) -> str:
    card = found["card"]
    products = " and ".join(
        f"{card[f'flops_per_s_{name}'] / 1e12:.3g} TFLOP/s in {name}" for name in ("float32", "tensorfloat32")
    )
    return (
        f"The card at best: products of large matrices {products}, copies {card['bytes_per_s'] / 1e9:.3g} GB/s. The"
        " operations are those of the traced programs, the bytes those of the compiled ones, as XLA counts them."
    )


def _peers(found: Found) -> str:
    return _table(COLUMNS, (line for record in found["peers"] for line in record["rows"]))


def _training(found: Found) -> str:
    records = found["training"]
    last = records[-1]
    per_step = last["seconds"] / last["step"] if last["step"] else float("nan")
    rows = (
        row(f"{r['seconds']:.0f}", f"{r['step']:,}", f"{r['valid_forces_mae']:.4f}", f"{r['valid_forces_rmse']:.4f}")
        for r in records
    )
    hours = per_step * STEPS_OF_A_RUN / 3600
    sentence = (
        f"Preset `{last['preset']}` on rMD17 ethanol (970 structures), chains from the start of their schedule"
        f" ({last['chains']}): {1e3 * per_step:.3g} ms a step of all, and {hours:.2f} hours for 10^6 steps."
    )
    return f"{sentence}\n\n{_table(('s', 'step', 'validation MAE of forces, eV/A', 'RMSE, eV/A'), rows)}"


WRITERS: dict[str, Callable[[Found], str]] = {
    "tests": _tests,
    "steps": _steps,
    "predictions": _predictions,
    "card": _card,
    "peers": _peers,
    "training": _training,
}
