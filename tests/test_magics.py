"""%px and its family in a plain IPython shell, without a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pxcluster as ipp
import pytest
from IPython.core.interactiveshell import InteractiveShell
from pxcluster import Client
from traitlets.config import Config

pytestmark = pytest.mark.smoke


@pytest.fixture
def shell(
    rc: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[InteractiveShell]:
    """A shell in which `rc` has registered its magics."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    shell.user_ns["rc"] = rc
    rc.activate()
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def counts(rc: Client) -> list[int]:
    """The execution count that each engine gives next."""
    replies = rc[:].execute("0", silent=False, block=True).get()
    return [reply.execution_count + 1 for reply in replies]


def run(shell: InteractiveShell, code: str) -> object:
    outcome = shell.run_cell(code)
    if outcome.error_in_exec is not None:
        raise outcome.error_in_exec
    assert outcome.error_before_exec is None
    return outcome.result


def blocks(text: str) -> dict[str, str]:
    """Streamed text by its prefix: {"stdout:0": "…"}."""
    parts = re.split(r"^\[(std\w+:\d)\] \n", text, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = found.get(name, "") + content
    return found


def test_px_shows_results_by_engine(
    shell: InteractiveShell, counts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%px 6 * 7")
    wanted = [f"Out[{engine}:{count}]: 42" for engine, count in enumerate(counts)]
    assert [line for line in capsys.readouterr().out.splitlines() if line] == wanted


def test_px_streams_output(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%px print('hello')")
    assert blocks(capsys.readouterr().out) == {f"stdout:{engine}": "hello\n" for engine in range(4)}


def test_cell_magic_without_streams_groups_by_type(
    shell: InteractiveShell, counts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%%px --no-stream\nimport sys\nprint('out'); print('err', file=sys.stderr)\n'last'")
    shown = capsys.readouterr()
    assert shown.err == "".join(f"[stderr:{engine}] \nerr\n" for engine in range(4))
    results = [f"Out[{engine}:{count}]: 'last'" for engine, count in enumerate(counts)]
    wanted = [line for engine in range(4) for line in (f"[stdout:{engine}] ", "out")] + results
    assert [line for line in shown.out.splitlines() if line] == wanted


def test_targets_and_saved_result(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%px --targets ::2 -o saved\nprint('even')")
    assert sorted(blocks(capsys.readouterr().out)) == ["stdout:0", "stdout:2"]
    assert shell.user_ns["saved"].stdout == ["even\n", "even\n"]


def test_px_errors(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ipp.CompositeError) as caught:
        run(shell, "%%px --no-stream\n1/0")
    assert str(caught.value) == "one or more exceptions raised in: %px\n" + "\n".join(
        f"[{engine}:execute]ZeroDivisionError: division by zero" for engine in range(4)
    )
    capsys.readouterr()
    with pytest.raises(ipp.error.AlreadyDisplayedError, match="4 errors"):
        run(shell, "%px 1/0")
    shown = capsys.readouterr().err
    assert re.findall(r"^\[(\d):execute\]", shown, re.MULTILINE) == ["0", "1", "2", "3"]


def test_noblock_and_pxresult(shell: InteractiveShell, counts: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    result = run(shell, "%%px --noblock\n'later'")
    assert isinstance(result, ipp.AsyncResult)
    result.get(timeout=30)
    capsys.readouterr()
    run(shell, "%pxresult")
    wanted = [f"Out[{engine}:{count}]: 'later'" for engine, count in enumerate(counts)]
    assert [line for line in capsys.readouterr().out.splitlines() if line] == wanted


def test_autopx(shell: InteractiveShell, rc: Client, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%autopx")
    run(shell, "everywhere = 3")
    run(shell, "%autopx")
    run(shell, "here = 4")
    shown = capsys.readouterr().out
    assert "%autopx enabled" in shown
    assert "%autopx disabled" in shown
    assert rc[:]["everywhere"] == [3] * 4
    assert "everywhere" not in shell.user_ns
    assert rc[:].pull("'here' in globals()", block=True) == [False] * 4


def test_local_runs_here_too(shell: InteractiveShell, rc: Client) -> None:
    run(shell, "%%px --local\nboth = 5")
    assert rc[:]["both"] == [5] * 4
    assert shell.user_ns["both"] == 5


def test_magics_of_the_engines(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%px %timeit -n 1 -r 1 pass")
    shown = blocks(capsys.readouterr().out)
    assert sorted(shown) == [f"stdout:{engine}" for engine in range(4)]
    assert all("per loop" in text for text in shown.values())
    run(shell, "%px !echo shell")
    assert all("shell" in text for text in blocks(capsys.readouterr().out).values())


def test_displays_of_the_engines(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%px --no-stream\nfrom IPython.display import display\ndisplay(1)")
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [line for engine in range(4) for line in (f"[output:{engine}]", "1")]


def test_top_level_await(shell: InteractiveShell, rc: Client) -> None:
    run(shell, "%%px\nimport asyncio\nslept = await asyncio.sleep(0, 'yes')")
    assert rc[:]["slept"] == ["yes"] * 4
