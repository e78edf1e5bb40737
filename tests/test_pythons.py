"""The engines' Python: other versions than the client's, and what cannot be embedded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.cluster import Cluster, Site, running_alone
from harness.environments import add_extension, make_environment, pretend_program, pretend_python, pythons
from pxcluster import Client

SCRIPT = """
import json, sys
import numpy
import pxcluster as ipp
rc = ipp.Client()
versions = rc[:].pull("__import__('sys').version_info[:2]", block=True)
prefixes = rc[:].pull("__import__('sys').prefix", block=True)
rc[:]["array"] = numpy.arange(1_000_000.0)
sums = rc[:].pull("array.sum()", block=True)
tasks = rc.load_balanced_view().map_sync(lambda n: n * n, range(10))
shown = rc[0].execute("import numpy\\nnumpy.ones(2)", silent=False, block=True).get().data["text/plain"]
try:
    rc[0].execute("1/0", block=True).get()
except ipp.RemoteError as error:
    failure = str(error)
print(json.dumps([versions, prefixes, sums, tasks, shown, failure]))
"""


def in_words(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def others() -> list[tuple[int, int]]:
    return [version for version in sorted(pythons()) if version >= (3, 11)]


@pytest.fixture(scope="module", params=others() or [None], ids=lambda version: version and in_words(version))
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[int, int], Path]:
    """An environment of another Python: its version and its interpreter."""
    if request.param is None:
        pytest.skip("this machine has no other CPython from 3.11 with a shared libpython, on PATH or under ~/.pyenv")
    interpreter = make_environment(pythons()[request.param], tmp_path_factory.mktemp("python") / "venv", "numpy")
    add_extension(interpreter)
    return request.param, interpreter


@pytest.fixture(scope="module")
def other(environment: tuple[tuple[int, int], Path]) -> Iterator[Cluster]:
    """A cluster whose engines embed that Python."""
    with running_alone(2, "--python", str(environment[1])) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_python_does_everything(other: Cluster, environment: tuple[tuple[int, int], Path]) -> None:
    version, interpreter = environment
    outcome = subprocess.run(
        [interpreter, "-c", SCRIPT], env=other.site.env, capture_output=True, text=True, timeout=120, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    versions, prefixes, sums, tasks, shown, failure = json.loads(outcome.stdout)
    assert versions == [list(version)] * 2
    assert prefixes == [str(interpreter.parents[1])] * 2
    assert sums == [499_999_500_000.0] * 2
    assert tasks == [n * n for n in range(10)]
    assert shown == "array([1., 1.])"
    assert failure == "[0:execute] ZeroDivisionError: division by zero"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_client_of_another_minor_version_is_told(other: Cluster, environment: tuple[tuple[int, int], Path]) -> None:
    theirs, ours = in_words(environment[0]), in_words(sys.version_info[:2])
    with pytest.raises(Exception, match="Python") as caught:
        Client(connection_info=str(other.connection_file), timeout=10)
    message = str(caught.value)
    assert theirs in message
    assert ours in message
    assert "\n" not in message


def refusal(site: Site, python: Path | str) -> str:
    """What a cluster with this interpreter says: one line, after which nothing remains."""
    cluster = Cluster(site, 2, "--python", str(python)).launch()
    assert cluster.wait_ended() != 0
    site.wait_until_nothing_remains()
    lines = [line for line in cluster.log().splitlines() if line.startswith("pxcluster: ")]
    assert len(lines) == 1, cluster.log()
    return lines[0]


def test_python_3_10_is_too_old(site: Site) -> None:
    if (3, 10) not in pythons():
        pytest.skip("this machine has no CPython 3.10 with a shared libpython, on PATH or under ~/.pyenv")
    sentence = refusal(site, pythons()[(3, 10)])
    assert "is Python 3.10" in sentence
    assert "engines need CPython 3.11 or newer" in sentence


@pytest.mark.smoke
def test_an_interpreter_without_the_package_is_refused(site: Site, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    python = tmp_path / "empty" / "bin" / "python"
    assert f"the pxcluster package is not installed for {python}" in refusal(site, python)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"version": [3, 10, 13]}, "engines need CPython 3.11 or newer"),
        ({"free_threaded": True}, "is a free-threaded build"),
        ({"implementation": "pypy"}, "engines embed CPython only"),
        ({"libpython": None}, "has no shared library (libpython3."),
        ({"package": False}, "the pxcluster package is not installed"),
        ({"libpython": "/nowhere/libpython.so"}, "/nowhere/libpython.so cannot be loaded"),
    ],
)
def test_what_cannot_be_embedded_is_named(site: Site, tmp_path: Path, answer: dict[str, object], words: str) -> None:
    python = pretend_python(tmp_path / "python", **answer)
    sentence = refusal(site, python)
    assert words in sentence
    assert "--python" in sentence or "install" in sentence or "build" in sentence


@pytest.mark.parametrize("script", ["", "echo nonsense", "echo oh no >&2; exit 3", "kill -9 $$"])
def test_programs_that_are_no_python(site: Site, tmp_path: Path, script: str) -> None:
    program = pretend_program(tmp_path / "python", script)
    sentence = refusal(site, program)
    assert f"{program} does not answer as a Python interpreter does" in sentence
    assert ("oh no" in sentence) == ("oh no" in script)


def test_a_python_that_does_not_exist(site: Site, tmp_path: Path) -> None:
    sentence = refusal(site, tmp_path / "missing")
    assert f"no Python can be started as {tmp_path / 'missing'}" in sentence
    assert "--python" in sentence
