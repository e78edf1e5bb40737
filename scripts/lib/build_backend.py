"""The build backend of `pip install .`: setuptools, after a look at what the build needs.

A missing compiler, MPI or libclang ends the build at once with one sentence, not with a page of cargo's. Every MPI
has a cargo target directory of its own, because cargo does not notice that mpicc became another one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from setuptools import build_meta
from setuptools.build_meta import (
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parents[2]
LIBCLANG = re.compile(r"libclang(-[0-9.]+)?\.so(\.[0-9]+)*")


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Setuptools' requirements, and libclang where the system has none."""
    check_programs()
    requires: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    return requires if system_has_libclang() else [*requires, "libclang"]


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Builds everything with the MPI of $MPICC."""
    prepare_environment()
    # Setuptools packs whatever an earlier build left there; cargo's own directory keeps what is worth keeping.
    leftovers = ROOT / "build"
    shutil.rmtree(leftovers, ignore_errors=True)
    name: str = build_meta.build_wheel(wheel_directory, with_stable_abi(config_settings), metadata_directory)
    shutil.rmtree(leftovers, ignore_errors=True)
    return name


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """The same for `pip install -e .`."""
    check_programs()
    prepare_environment()
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    return name


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """An archive of the sources."""
    name: str = build_meta.build_sdist(sdist_directory, config_settings)
    return name


def with_stable_abi(config_settings: dict[str, Any] | None) -> dict[str, Any]:
    """One wheel serves every CPython from 3.11."""
    settings = dict(config_settings or {})
    options = settings.get("--build-option", [])
    settings["--build-option"] = [*([options] if isinstance(options, str) else options), "--py-limited-api=cp311"]
    return settings


def check_programs() -> None:
    """Ends the build when cargo, mpicc or a C compiler are missing."""
    wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    said = output(["cargo", "--version"])
    if said is None:
        fail(f"building pxcluster needs cargo {wanted} or newer on PATH; get one with rustup (https://rustup.rs)")
    found = re.search(r"(\d+)\.(\d+)", said)
    if found and tuple(map(int, found.groups())) < tuple(map(int, wanted.split("."))):
        fail(f"building pxcluster needs cargo {wanted} or newer, this is {found[0]}; run `rustup update`")
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CC", "cc"), "gcc", "clang")):
        fail("building pxcluster needs a C compiler; on Debian run `apt install gcc`")
    show_mpicc()


def show_mpicc() -> str:
    """What mpicc would run; the same text means the same MPI."""
    mpicc = os.environ.get("MPICC", "mpicc")
    said = output([mpicc, "-show"])
    if said is None:
        fail(
            f"building pxcluster needs an MPI, and {mpicc} does not work: on Debian run `apt install libopenmpi-dev "
            "openmpi-bin` (or `libmpich-dev mpich`), elsewhere `module load openmpi` or set MPICC"
        )
    return said


def prepare_environment() -> None:
    """Chooses the target directory, and tells bindgen where libclang is if only pip has one."""
    if "CARGO_TARGET_DIR" not in os.environ:
        os.environ["CARGO_TARGET_DIR"] = str(target_directory(show_mpicc()))
    if not system_has_libclang():
        use_packaged_libclang()


def target_directory(shown: str) -> Path:
    """`target/openmpi` or `target/mpich`, emptied when it was made with another mpicc of that name."""
    open_mpi = output([os.environ.get("MPICC", "mpicc"), "--showme:version"]) is not None
    target = ROOT / "target" / ("openmpi" if open_mpi else "mpich")
    stamp = target / "mpicc-show.txt"
    if stamp.exists() and stamp.read_text() != shown:
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    stamp.write_text(shown)
    return target


def system_has_libclang() -> bool:
    """Whether bindgen will find a libclang by itself."""
    named = os.environ.get("LIBCLANG_PATH")
    prefix = os.environ.get("CONDA_PREFIX")
    folders = [Path(named)] if named else []
    folders += [Path(prefix, "lib")] if prefix else []
    folders += [Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"), *Path("/usr/lib").glob("*-linux-gnu")]
    folders += [*Path("/usr/lib").glob("llvm*/lib"), *Path("/usr/lib64").glob("llvm*/lib*")]
    said = output(["llvm-config", "--libdir"])
    folders += [Path(said.strip())] if said else []
    files = [file for folder in folders for file in ([folder] if folder.is_file() else folder.glob("libclang*"))]
    return any(LIBCLANG.fullmatch(file.name) and file.is_file() for file in files)


def use_packaged_libclang() -> None:
    """The package libclang has no headers of its own; the C compiler's serve."""
    try:
        import clang
    except ImportError:
        fail("building pxcluster needs libclang; on Debian run `apt install libclang-dev`, or set LIBCLANG_PATH")
    os.environ["LIBCLANG_PATH"] = str(Path(next(iter(clang.__path__)), "native"))
    headers = output([os.environ.get("CC", "cc"), "-print-file-name=include"])
    if headers:
        known = os.environ.get("BINDGEN_EXTRA_CLANG_ARGS", "")
        os.environ["BINDGEN_EXTRA_CLANG_ARGS"] = f"{known} -isystem {headers.strip()}".strip()


def output(command: list[str]) -> str | None:
    """Standard output of a program; None when it is missing or fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def fail(sentence: str) -> NoReturn:
    """Ends the build with one sentence and no traceback."""
    sys.exit(f"pxcluster: {sentence}")
