"""Checks what no linter knows: who may depend on whom, which file is the door to which world, sizes, versions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# Each crate of the workspace and the crates of the workspace it may use.
EDGES: dict[str, set[str]] = {
    "pxcluster-protocol": set(),
    "pxcluster-scheduler": {"pxcluster-protocol"},
    "pxcluster-transport": {"pxcluster-protocol"},
    "pxcluster-controller": {"pxcluster-protocol", "pxcluster-scheduler", "pxcluster-transport"},
    "pxcluster-rank-engine": {
        "pxcluster-protocol",
        "pxcluster-scheduler",
        "pxcluster-transport",
        "pxcluster-controller",
        "pxcluster-dial",
        "pxcluster-engine-abi",
        "slurm-env",
    },
    "pxcluster-engine-abi": set(),
    "pxengine": {"pxcluster-engine-abi"},
    "pxcluster-launcher": {"pxcluster-protocol", "pxcluster-dial", "hostfile", "allocation", "slurm-env"},
    "pxcluster-dial": set(),
    "hostfile": set(),
    "allocation": {"slurm-env"},
    "slurm-env": set(),
}

# Each foreign crate that has one door: the crates that may depend on it.
FOREIGN: dict[str, set[str]] = {
    "bincode": {"pxcluster-protocol"},
    "mpi": {"pxcluster-transport"},
    "pyo3": {"pxengine"},
    "libloading": {"pxcluster-rank-engine"},
    "rustls": {"pxcluster-controller", "pxcluster-dial"},
    "tokio": {"pxcluster-controller"},
    "tokio-rustls": {"pxcluster-controller"},
    "rcgen": {"pxcluster-controller"},
    "clap": {"pxcluster-launcher", "pxcluster-rank-engine"},
    "ratatui": {"pxcluster-launcher"},
}

# Each word that may stand in some files alone.
DOORS: list[tuple[str, list[str]]] = [
    (r"\bbincode::", ["protocol/src/codec.rs"]),
    (r"\bmpi::(ffi|traits|topology|environment|request|raw|datatype|Threading)\b", ["transport/src/mpi*"]),
    (r"\bpyo3::", ["rank-engine/extension/src/*", "rank-engine/src/engine/interpreter.rs"]),
    (r"\b(rustls|tokio_rustls|tokio::net)::", ["controller/*", "launcher/dial/*"]),
    (r"\bratatui::", ["launcher/src/top*"]),
    (r"\b(Tcp|Unix)(Stream|Listener)\b", ["controller/*", "launcher/dial/*", "transport/src/loopback.rs"]),
]

# The two ways to install the Python package.
PROJECTS = ["pyproject.toml", "client/pyproject.toml"]

LONGEST_FILE = 800
LONGEST_MAIN = 60
LONGEST_TEMPLATE = 40
MEASURED = (".rs", ".py", ".sh", ".md")


def files() -> list[str]:
    """Every file that git knows or would add, and that is still there."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def is_test(name: str) -> bool:
    """Whether a Rust file holds nothing but tests."""
    return "tests" in Path(name).parts or Path(name).name == "tests.rs"


def check_edges() -> Iterator[str]:
    """Dependencies between the crates of the workspace, and on foreign worlds."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--no-deps", "--locked"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    packages: list[dict[str, Any]] = json.loads(metadata)["packages"]
    for package in packages:
        name = package["name"]
        if name not in EDGES:
            yield f"crate {name} has no place in EDGES"
            continue
        for dependency in package["dependencies"]:
            on = dependency["name"]
            if on in EDGES and on not in EDGES[name]:
                yield f"crate {name} must not depend on {on}"
            if dependency["kind"] is None and name not in FOREIGN.get(on, {name}):
                yield f"crate {name} must not depend on {on}; {', '.join(sorted(FOREIGN[on]))} may"


def check_doors(names: list[str]) -> Iterator[str]:
    """Words that stand in a file that is not their door."""
    for name in names:
        if not name.endswith(".rs") or is_test(name):
            continue
        text = (ROOT / name).read_text()
        for pattern, doors in DOORS:
            found = re.search(pattern, text)
            if found and not any(fnmatch(name, door) for door in doors):
                line = text.count("\n", 0, found.start()) + 1
                yield f"{name}:{line}: {found[0]} may stand only in {', '.join(doors)}"


def check_sizes(names: list[str]) -> Iterator[str]:
    """Files that grew too long."""
    for name in names:
        path = ROOT / name
        template = name.startswith("slurm/templates/")
        bound = LONGEST_TEMPLATE if template else LONGEST_MAIN if path.name == "main.rs" else LONGEST_FILE
        if path.suffix in MEASURED or name.startswith("scripts/") or template:
            lines = len(path.read_bytes().splitlines())
            if lines > bound:
                yield f"{name} has {lines} lines, more than {bound}; split it"


def check_versions() -> Iterator[str]:
    """The two ways to install the Python package must agree, and be of the version of the crates."""
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    projects = [tomllib.loads((ROOT / name).read_text())["project"] for name in PROJECTS]
    for project, name in zip(projects, PROJECTS, strict=True):
        if project.get("version") != version:
            yield f"{name} is of version {project.get('version')}, Cargo.toml of {version}"
    for key in ("name", "requires-python", "dependencies", "optional-dependencies"):
        if projects[0].get(key) != projects[1].get(key):
            yield f"{' and '.join(PROJECTS)} differ in '{key}'"


def main() -> int:
    """Prints every finding; 1 if there is one."""
    names = files()
    findings = [*check_edges(), *check_doors(names), *check_sizes(names), *check_versions()]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
