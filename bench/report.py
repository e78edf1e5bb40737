"""The table, bench.json and bench.png."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from measure import cores
from rows import Row, Samples

HEAD = ("what", "ours", "peer", "ratio", "must reach", "ok?")
SOUGHT = ("pxcluster", "ipyparallel", "mpi4py", "distributed", "ray")


def load() -> float:
    """Load average of the last minute."""
    return os.getloadavg()[0]


def describe_machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "cores": str(cores()),
        "processor": processor(),
        "load before": f"{load():.2f}",
        "mpi": mpi_version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        **{name: package_version(name) for name in SOUGHT},
    }


def processor() -> str:
    """The model, as the kernel names it."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def mpi_version() -> str:
    """What the mpirun on PATH says of itself."""
    try:
        said = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return "no mpirun on PATH"
    if "HYDRA" in said:
        found = re.search(r"Version:\s*(\S+)", said)
        return f"MPICH {found[1]}" if found else "MPICH"
    found = re.search(r"\((?:Open MPI|OpenRTE)\) (\S+)", said)
    return f"Open MPI {found[1]}" if found else "unknown"


def package_version(name: str) -> str:
    """Version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def show_figure(value: float | None, unit: str) -> str:
    """A figure with three digits that matter and its unit; seconds become ms or us where they are short."""
    if value is None:
        return "failed"
    if unit == "s" and value < 1:
        value, unit = (value * 1e3, "ms") if value >= 1e-3 else (value * 1e6, "us")
    if unit == "% of a core":
        unit = "%"
    if unit == "x":
        return f"{value:.3f} x"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def show_peer(row: Row) -> str:
    """The peer's figure and name; of a cost, what lies between the quartiles of its pairs."""
    if row.quartiles is not None:
        return f"quartiles {row.quartiles[0]:.3f} to {row.quartiles[1]:.3f}"
    return f"{show_figure(row.peer, row.spec.unit)} {row.spec.peer}" if row.spec.peer else "-"


def show_verdict(row: Row) -> str:
    """Whether the requirement is met."""
    if row.ok is None:
        return "failed" if row.quartiles is None else "too noisy"
    if not row.spec.is_required:
        return "-"
    return "yes" if row.ok else "NO"


def show_ratio(ratio: float | None) -> str:
    """Times better than the peer."""
    if ratio is None:
        return "-"
    if math.isinf(ratio):
        return "> 999 x"
    return f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.3g} x"


def table(rows: Sequence[Row]) -> str:
    """The table as text."""
    cells = [HEAD] + [
        (
            row.spec.what,
            show_figure(row.ours, row.spec.unit),
            show_peer(row),
            show_ratio(row.ratio),
            row.spec.must(),
            show_verdict(row),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    right = {1, 3}
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def write_json(
    path: Path, machine: dict[str, str], rows: Sequence[Row], samples: Samples, failures: Sequence[str]
) -> None:
    """Everything that was measured, every round of it."""
    content = {
        "machine": machine,
        "rows": [row.to_json() for row in rows],
        "samples": samples,
        "failures": list(failures),
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_png(path: Path, machine: dict[str, str], rows: Sequence[Row]) -> bool:
    """Bars of the ratios on a logarithmic axis, with a mark where each must reach; whether there was one to draw."""
    drawn = [row for row in rows if row.ratio is not None and 0 < row.ratio < math.inf]
    if not drawn:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.42 * len(drawn)), layout="constrained")
    for place, row in enumerate(drawn):
        assert row.ratio is not None
        axes.barh(place, row.ratio - 1, left=1, color="tab:green" if row.ok else "tab:red", height=0.6)
        end = max(row.ratio, row.required or 1, 1)
        axes.annotate(show_ratio(row.ratio), (end, place), (5, 0), textcoords="offset points", va="center")
        if row.required is not None:
            axes.plot([row.required] * 2, [place - 0.42, place + 0.42], color="black", linewidth=2.5)
    axes.plot([], [], color="black", linewidth=2.5, label="must reach")
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(drawn)), [f"{row.spec.what}\nbeside {row.spec.peer}" for row in drawn], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times better than the peer")
    axes.set_title(f"{machine['cores']} cores, {machine['processor']}, {machine['mpi']}", fontsize=9)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True
