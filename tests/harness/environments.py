"""Virtual environments of other Pythons, and programs that only claim to be one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[2] / "client"


def pythons() -> dict[tuple[int, int], str]:
    """CPython programs of this machine with a shared libpython, other than the running one: minor version -> path."""
    roots = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"]
    programs = sorted(path for root in roots if root.is_dir() for path in root.glob("*/bin/python3"))
    names = [f"python3.{minor}" for minor in range(10, 15)]
    folders = [Path(folder) for folder in os.get_exec_path() if "shims" not in folder]
    programs += [folder / name for name in names for folder in folders if (folder / name).exists()]
    found: dict[tuple[int, int], str] = {}
    for program in programs:
        question = "import sys, sysconfig; print(*sys.version_info[:2], sysconfig.get_config_var('Py_ENABLE_SHARED'))"
        answer = subprocess.run([program, "-c", question], capture_output=True, text=True, check=False).stdout
        if match := re.fullmatch(r"(\d+) (\d+) 1\n", answer):
            version = (int(match[1]), int(match[2]))
            if version[0] == 3 and version != sys.version_info[:2]:
                found.setdefault(version, str(program))
    return found


def make_environment(python: str, path: Path, *packages: str) -> Path:
    """A virtual environment with the Python package alone; its interpreter."""
    source = path.parent / "client-source"
    if not source.exists():
        unwanted = shutil.ignore_patterns("*.so", "__pycache__", "build", "*.egg-info", "tests")
        shutil.copytree(CLIENT, source, ignore=unwanted)
    subprocess.run([python, "-m", "venv", path], check=True)
    interpreter = path / "bin" / "python"
    install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    env = {"PATH": str(interpreter.parent), "HOME": str(path), **_pip_settings()}
    subprocess.run([*install, source, *packages], check=True, env=env)
    return interpreter


def add_extension(interpreter: Path) -> None:
    """Gives an environment the engines' extension of the running one: it serves every CPython from 3.11."""
    specification = importlib.util.find_spec("pxcluster._engine._pxengine")
    assert specification is not None
    assert specification.origin is not None
    question = "import pxcluster._engine as package; print(package.__path__[0])"
    answer = subprocess.run([interpreter, "-c", question], capture_output=True, text=True, check=True)
    shutil.copy(specification.origin, answer.stdout.strip())


def pretend_python(path: Path, **answer: object) -> Path:
    """A program that answers as an interpreter does when it is asked what it is."""
    usual = {
        "executable": str(path),
        "implementation": "cpython",
        "version": sys.version_info[:3],
        "free_threaded": False,
        "libpython": "/lib/libpython.so",
        "package": True,
    }
    return pretend_program(path, f"echo '{json.dumps(usual | answer)}'")


def pretend_program(path: Path, script: str) -> Path:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _pip_settings() -> dict[str, str]:
    kept = ("PIP_", "SSL_", "REQUESTS_", "HTTP", "http", "no_proxy", "NO_PROXY")
    return {name: value for name, value in os.environ.items() if name.startswith(kept)}
