"""%px and its family, in a shell in this process: what they do, and what they print."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.gates import Gate, pass_gate
from IPython.core.error import UsageError

from .functions import shout_behind_a_gate
from .notebook import Notebook, Shown, notebook
from .peers import Peer

IN_ORDER = "`%px` results and errors"
CUT_LINES = "a line that another engine's output cuts short"
PATIENT = "--progress-after 60"
BOTH_STREAMS = "import sys\nprint('out'); print('err', file=sys.stderr)\n'result'"
DISPLAYS = "from IPython.display import display\nprint('o'); display(1); display(2)\n42"


@pytest.fixture
def ip(peer: Peer, rc: Any, ipp: Any, capsys: pytest.CaptureFixture[str]) -> Iterator[Notebook]:
    """A shell in which `rc` has registered its magics.

    ipyparallel waits for output only as long as for the progress bar: a slow machine needs more than two seconds.
    """
    with notebook(capsys, doubles_ends=not peer.differs(CUT_LINES)) as ip:
        ip.names.update(rc=rc, ipp=ipp)
        rc.activate()
        ip.run(f"%pxconfig {PATIENT}")
        yield ip


def on_all(text: str, source: str = "stdout:{}") -> dict[str, str]:
    return {source.format(engine): text for engine in range(4)}


@pytest.mark.smoke
def test_a_line(peer: Peer, ip: Notebook) -> None:
    shown = ip.run("%px 6 * 7")
    assert shown.by_source == on_all("42\n", "Out[{}]")
    if peer.differs(IN_ORDER):
        assert shown.out == "".join(f"Out[{engine}:_]: 42\n" for engine in range(4))
    assert shown.value is None
    assert ip.run("%px assigned = 3") == ("", "", None, None)
    assert ip.names["rc"][:]["assigned"] == [3] * 4


def test_a_line_is_code_and_nothing_else(ip: Notebook) -> None:
    ip.run("%px x = 5")
    assert ip.run("%px --x").by_source == on_all("5\n", "Out[{}]")
    ip.names["x"] = "here"
    assert ip.run("%px '{x} $x'").by_source == on_all("'{x} $x'\n", "Out[{}]")


def test_results_of_several_lines(ip: Notebook) -> None:
    ip.run("%%px\nclass Tall:\n    def __repr__(self): return 'a\\nb'")
    out = ip.run("%px Tall()").out
    assert sorted(out.split("Out[")[1:]) == [f"{engine}:_]: \na\nb\n" for engine in range(4)]


@pytest.mark.smoke
def test_streams(ip: Notebook) -> None:
    assert ip.run("%px print(20)").by_source == on_all("20\n")
    assert ip.run("%%px\nprint(1)\nprint(2)").by_source == on_all("1\n2\n")
    shown = ip.run("%%px\nimport sys; print('e', file=sys.stderr)")
    assert (shown.out, shown.by_source) == ("", on_all("e\n", "stderr:{}"))
    out = ip.run("%px print('no newline', end='')").out
    lines = out.splitlines()
    assert sorted(zip(lines[::2], lines[1::2], strict=True)) == [(f"[stdout:{n}] ", "no newline") for n in range(4)]


def test_displays_as_they_come(ip: Notebook) -> None:
    shown = ip.run("%%px\nfrom IPython.display import display\ndisplay('x')")
    assert shown.by_source == on_all("'x'\n", "output:{}")


@pytest.mark.parametrize(
    "option", ["--no-stream", "--no-stream --group-outputs type", "--no-stream --group-outputs=type"]
)
def test_outputs_by_type(ip: Notebook, option: str) -> None:
    shown = ip.run(f"%%px {option}\n{BOTH_STREAMS}")
    assert shown.err == "".join(f"[stderr:{engine}] \nerr\n" for engine in range(4))
    streams = "".join(f"[stdout:{engine}] \nout\n" for engine in range(4))
    assert shown.out == streams + "".join(f"Out[{engine}:_]: 'result'\n" for engine in range(4))
    shown = ip.run(f"%%px {option}\n{DISPLAYS}")
    assert shown.out == "".join(f"[stdout:{engine}] \no\n" for engine in range(4)) + "".join(
        f"[output:{engine}]\n1\n2\n" for engine in range(4)
    ) + "".join(f"Out[{engine}:_]: 42\n" for engine in range(4))


@pytest.mark.parametrize("option", ["-e", "--group-outputs engine"])
def test_outputs_by_engine(ip: Notebook, option: str) -> None:
    shown = ip.run(f"%%px --no-stream {option}\n{DISPLAYS}")
    assert shown.out == "".join(f"[stdout:{n}] \no\n[output:{n}]\n1\n2\nOut[{n}:_]: 42\n" for n in range(4))


@pytest.mark.parametrize("option", ["-r", "--group-outputs order"])
def test_outputs_by_order(ip: Notebook, option: str) -> None:
    shown = ip.run(f"%%px --no-stream {option}\n{DISPLAYS}")
    assert shown.out == (
        "".join(f"[stdout:{engine}] \no\n" for engine in range(4))
        + "".join(f"[output:{engine}]\n{number}\n" for number in (1, 2) for engine in range(4))
        + "".join(f"Out[{engine}:_]: 42\n" for engine in range(4))
    )


@pytest.mark.parametrize(
    ("targets", "engines"),
    [
        ("all", [0, 1, 2, 3]),
        ("::2", [0, 2]),
        ("1:3", [1, 2]),
        (":", [0, 1, 2, 3]),
        (":2", [0, 1]),
        ("[1,3]", [1, 3]),
        ("1,3", [1, 3]),
        ("[2]", [2]),
        ("$chosen", [3]),
    ],
)
def test_targets(ip: Notebook, targets: str, engines: list[int]) -> None:
    ip.names["chosen"] = "[3]"
    for flag in ("-t", "--targets"):
        shown = ip.run(f"%%px {flag} {targets}\nprint('there')")
        assert sorted(shown.by_source) == [f"stdout:{engine}" for engine in engines]
    assert ip.run("%px 1").by_source == on_all("1\n", "Out[{}]")


@pytest.mark.parametrize(("targets", "engine"), [("2", 2), ("-1", 3)])
def test_one_target(peer: Peer, ip: Notebook, targets: str, engine: int) -> None:
    shown = ip.run(f"%%px -t={targets}\nprint('there'); 5")
    assert shown.by_source == {f"stdout:{engine}": "there\n", f"Out[{engine}]": "5\n"}
    assert ip.run(f"%%px --no-stream -t={targets}\nprint('there'); 5").out == f"there\nOut[{engine}:_]: 5\n"


def test_targets_that_are_none(ip: Notebook) -> None:
    assert ip.run("%%px --targets nonsense\n1").error is not None
    assert isinstance(ip.run("%%px --targets 99\n1").error, IndexError)


def test_a_result_gets_a_name(ip: Notebook, ipp: Any) -> None:
    ip.run("%%px -o saved\nprint('kept')")
    saved = ip.names["saved"]
    assert isinstance(saved, ipp.AsyncResult)
    assert repr(saved) == "<AsyncResult(%px): finished>"
    assert saved.stdout == ["kept\n"] * 4
    ip.run("%%px --out again\n5")
    assert [reply.data["text/plain"] for reply in ip.names["again"].get()] == ["5"] * 4
    ip.run("%pxresult -o third")
    assert ip.names["third"] is ip.names["again"]


@pytest.mark.smoke
@pytest.mark.parametrize("option", ["-a", "--noblock"])
def test_not_waiting(ip: Notebook, ipp: Any, option: str) -> None:
    shown = ip.run(f"%%px {option}\nprint('later'); 'value'")
    assert isinstance(shown.value, ipp.AsyncResult)
    assert re.fullmatch(r"Out\[\d+\]: <AsyncResult\(%px\): (pending|finished)>\n", shown.out)
    shown.value.get(timeout=60)
    shown.value.wait_for_output(timeout=60)
    streams = "".join(f"[stdout:{engine}] \nlater\n" for engine in range(4))
    wanted = streams + "".join(f"Out[{engine}:_]: 'value'\n" for engine in range(4))
    assert ip.run("%pxresult").out == wanted
    assert ip.run("%result").out == wanted
    by_engine = "".join(f"[stdout:{n}] \nlater\n[output:{n}]\nOut[{n}:_]: 'value'\n" for n in range(4))
    for flag in ("-e", "--group-outputs=engine"):
        assert ip.run(f"%pxresult {flag}").out == by_engine
    for flag in ("-r", "--group-outputs=order"):
        assert ip.run(f"%pxresult {flag}").out == wanted


def test_waiting_when_the_view_does_not(ip: Notebook) -> None:
    ip.run("%pxconfig --noblock")
    assert ip.run("%px 1").value is not None
    assert ip.run("%%px --block\n2").by_source == on_all("2\n", "Out[{}]")
    assert ip.run("%%px -b\n3").by_source == on_all("3\n", "Out[{}]")
    ip.run("%pxconfig --block")
    assert ip.run("%px 4").by_source == on_all("4\n", "Out[{}]")


def test_verbose(peer: Peer, ip: Notebook) -> None:
    assert ip.run("%pxconfig --verbose") == ("", "", None, None)
    assert ip.run("%px a = 5").out == "Parallel execution on engine(s): all\n"
    assert ip.run("%%px --targets [0,1]\na = 5").out == "Parallel execution on engine(s): [0, 1]\n"
    shown = ip.run("%%px --noblock\na = 5")
    assert shown.out.startswith("Async parallel execution on engine(s): all\n")
    shown.value.get(timeout=60)
    ip.run("%pxconfig --no-verbose")
    assert ip.run("%px a = 5").out == ""
    of_the_cell = peer.differs("`%%px --verbose`, `--no-verbose`")
    text = "Parallel execution on engine(s): all\n"
    assert ip.run("%%px --verbose\na = 5").out == (text if of_the_cell else "")
    ip.run("%pxconfig --verbose")
    assert ip.run("%%px --no-verbose\na = 5").out == ("" if of_the_cell else text)
    assert ip.run("%px a = 5").out == text


def test_configured_targets(ip: Notebook) -> None:
    ip.run("%pxconfig --targets [1,2]")
    assert sorted(ip.run("%px print(1)").by_source) == ["stdout:1", "stdout:2"]
    assert sorted(ip.run("%%px -t ::3\nprint(1)").by_source) == ["stdout:0", "stdout:3"]
    assert sorted(ip.run("%px print(1)").by_source) == ["stdout:1", "stdout:2"]
    ip.run("%pxconfig --targets all")
    assert sorted(ip.run("%px print(1)").by_source) == sorted(on_all(""))


def test_configured_streaming(ip: Notebook) -> None:
    ip.run("%pxconfig --no-stream")
    assert ip.run("%px print(1)").out == "".join(f"[stdout:{engine}] \n1\n" for engine in range(4))
    assert ip.run("%%px --stream\nprint(1)").by_source == on_all("1\n")
    ip.run("%pxconfig --stream --signal-on-interrupt SIGINT")
    assert ip.run("%px print(1)").by_source == on_all("1\n")


def test_pxresult_needs_a_result(ip: Notebook) -> None:
    with pytest.raises(UsageError, match=r"^%pxresult recalls last %px result, which has not yet been used\.$"):
        ip.shell.run_line_magic("pxresult", "")


@pytest.mark.parametrize("cell", ["%pxresult --bad", "%pxconfig --bad", "%%px --bad\n1", "%%px --group-outputs bad\n1"])
def test_unknown_options(ip: Notebook, cell: str) -> None:
    ip.run("%px 1")
    shown = ip.run(cell)
    assert isinstance(shown.error, UsageError)
    text = str(shown.error)
    assert text == "unrecognized arguments: --bad" or "invalid choice: 'bad'" in text


@pytest.mark.smoke
def test_autopx(ip: Notebook, rc: Any) -> None:
    assert ip.run("%autopx").out == "%autopx enabled\n"
    assert ip.run("everywhere = 3\nprint(everywhere)").by_source == on_all("3\n")
    assert ip.run("everywhere").by_source == on_all("3\n", "Out[{}]")
    assert ip.run("%autopx").out == "%autopx disabled\n"
    ip.run("here = 4")
    assert ip.names["here"] == 4
    assert "everywhere" not in ip.names
    assert rc[:]["everywhere"] == [3] * 4
    assert rc[:].pull("'here' in globals()", block=True) == [False] * 4


def test_autopx_with_errors(ip: Notebook) -> None:
    ip.run("%autopx")
    try:
        assert ip.run("1 / 0").out.splitlines()[-1] == "4 errors"
        assert ip.run("2").by_source == on_all("2\n", "Out[{}]")
    finally:
        assert ip.run("%autopx").out == "%autopx disabled\n"


def test_suffixes(peer: Peer, ip: Notebook, rc: Any) -> None:
    rc.activate(targets=1, suffix="_one")
    rc[::2].activate("_even")
    for suffix in ("_one", "_even"):
        ip.run(f"%pxconfig{suffix} {PATIENT}")
    assert ip.run("%px_one 5").by_source == {"Out[1]": "5\n"}
    assert ip.run("%%px_one\nprint('x')").by_source == {"stdout:1": "x\n"}
    assert ip.run("%pxresult_one").out == "x\n"
    ip.run("%pxconfig_one --verbose")
    assert ip.run("%px_one a = 5").out == "Parallel execution on engine(s): 1\n"
    assert ip.run("%px a = 5").out == ""
    ip.run("%pxconfig_even --block")
    assert ip.run("%px_even 6").by_source == {"Out[0]": "6\n", "Out[2]": "6\n"}
    assert ip.run("%autopx_one").out == "%autopx enabled\n"
    assert ip.run("print(7)").by_source == {"": "Parallel execution on engine(s): 1\n", "stdout:1": "7\n"}
    off = ip.run("%autopx_one")
    assert (off.out == "%autopx disabled\n") is peer.differs("`%autopx` with a suffix")


def test_local(ip: Notebook, rc: Any) -> None:
    shown = ip.run("%%px --local\nhere_too = 1\nprint('both')")
    assert shown.out == "both\n" + "".join(f"[stdout:{engine}] \nboth\n" for engine in range(4))
    assert ip.names["here_too"] == 1
    assert rc[:]["here_too"] == [1] * 4


@pytest.mark.smoke
def test_errors_of_all(peer: Peer, ip: Notebook, ipp: Any) -> None:
    shown = ip.run("%px 1 / 0")
    assert isinstance(shown.error, ipp.error.AlreadyDisplayedError)
    assert str(shown.error) == "4 errors"
    marks = [line for line in shown.err.splitlines() if line.startswith("[")]
    assert sorted(marks) == [f"[{engine}:execute]" for engine in range(4)]
    if peer.differs(IN_ORDER):
        assert marks == sorted(marks)
    assert shown.err.count("ZeroDivisionError: division by zero") == 4
    assert shown.out.splitlines()[-1] == "4 errors"


def test_errors_of_all_at_the_end(ip: Notebook, ipp: Any) -> None:
    shown = ip.run("%%px --no-stream\nprint('before')\n1 / 0")
    assert type(shown.error) is ipp.CompositeError
    assert str(shown.error) == "one or more exceptions raised in: %px\n" + "\n".join(
        f"[{engine}:execute]ZeroDivisionError: division by zero" for engine in range(4)
    )
    assert shown.err == ""
    assert [line for line in shown.out.splitlines() if line.startswith("[stdout")] == [
        f"[stdout:{n}] " for n in range(4)
    ]
    assert [line for line in shown.out.splitlines() if line.endswith(":execute]:")] == [
        f"[{n}:execute]:" for n in range(4)
    ]


def test_errors_of_one(peer: Peer, ip: Notebook, ipp: Any) -> None:
    shown = ip.run("%%px --targets 0\n1 / 0")
    assert type(shown.error) is ipp.RemoteError
    assert str(shown.error) == "[0:execute] ZeroDivisionError: division by zero"
    times = 1 if peer.differs("error on a single engine") else 2
    assert (shown.out + shown.err).count("ZeroDivisionError: division by zero") == times


def test_errors_on_some(ip: Notebook, ipp: Any, rc: Any) -> None:
    for engine in rc.ids:
        rc[engine]["number"] = engine
    shown = ip.run("%px print(1 / (number - 2))")
    assert str(shown.error) == "1 errors"
    assert [line for line in shown.err.splitlines() if line.startswith("[")] == ["[2:execute]"]
    assert set(shown.by_source) >= {"stdout:0", "stdout:1", "stdout:3"}


def test_magics_of_the_engines(ip: Notebook) -> None:
    shown = ip.run("%px %timeit -n 1 -r 1 pass")
    assert sorted(shown.by_source) == sorted(on_all(""))
    assert all("per loop" in text for text in shown.by_source.values())
    assert all(text.split() == ["shell"] for text in ip.run("%px !echo shell").by_source.values())
    ip.run("%%px\n%%capture captured\nprint('inside')")
    assert ip.run("%px captured.stdout").by_source == on_all("'inside\\n'\n", "Out[{}]")


def test_top_level_await(peer: Peer, ip: Notebook, rc: Any) -> None:
    if peer.differs("top-level `await` in a cell"):
        ip.run("%%px\nimport asyncio\nslept = await asyncio.sleep(0, 'yes')")
        assert rc[:]["slept"] == ["yes"] * 4


def test_a_progress_bar(ip: Notebook) -> None:
    shown = ip.run("%%px --progress-after 0\nimport time; time.sleep(0.3)", raw=True)
    assert "%px: 100%" in shown.out + shown.err
    assert "4/4" in shown.out + shown.err
    shown = ip.run("%%px --progress-after -1\n1", raw=True)
    assert "%|" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("", "Received Keyboard Interrupt. Sending signal SIGINT to engines...\n"),
        ("--signal-on-interrupt 2", "Received Keyboard Interrupt. Sending signal 2 to engines...\n"),
    ],
)
def test_interrupts(ip: Notebook, ipp: Any, tmp_path: Path, option: str, text: str) -> None:
    with Gate(tmp_path / "gate") as gate:
        shown = run_interrupted(ip, gate, option)
        assert (shown.error, text in shown.err) == (None, True)
        result = ip.names["interrupted"]
        assert result.wait(timeout=60)
    assert [type(each) for each in result.get(return_exceptions=True)] == [ipp.RemoteError] * 4
    assert str(result.exception()).count("KeyboardInterrupt") == 4


def test_an_interrupt_that_engines_are_not_told_of(peer: Peer, ip: Notebook, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        shown = run_interrupted(ip, gate, "--signal-on-interrupt 0")
        if peer.differs("`--signal-on-interrupt 0`"):
            assert isinstance(shown.error, KeyboardInterrupt)
            assert "Received Keyboard Interrupt" not in shown.err
        else:
            assert shown.err == "Received Keyboard Interrupt. Sending signal 0 to engines...\n"
    ip.names["interrupted"].get(timeout=60)


def run_interrupted(ip: Notebook, gate: Gate, option: str) -> Shown:
    """Ctrl-C while a cell runs on all engines."""
    ip.names["rc"][:].push({"pass_gate": pass_gate}, block=True)

    def interrupt() -> None:
        gate.wait_for_marks(4)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    shown = ip.run(f"%%px {option} -o interrupted\npass_gate(None, {gate.folder!r})")
    thread.join()
    return shown


def test_views_of_replies(ip: Notebook) -> None:
    shown = ip.run("rc[0].execute('1 + 1', silent=False, block=True).get()")
    assert shown.out.endswith("Out[0:_]: 2\n")
    shown = ip.run("rc[:], ipp.Reference('x')")
    assert shown.out.endswith("(<DirectView [0, 1, 2, 3]>, <Reference: 'x'>)\n")


def test_output_of_results(ip: Notebook, rc: Any) -> None:
    ip.names["result"] = rc[:2].execute(DISPLAYS, silent=False, block=True)
    ip.names["result"].wait_for_output(timeout=60)
    assert ip.run("result.display_outputs()").out == (
        "[stdout:0] \no\n[stdout:1] \no\n[output:0]\n1\n2\n[output:1]\n1\n2\nOut[0:_]: 42\nOut[1:_]: 42\n"
    )
    assert ip.run("result.display_outputs('engine')").out == "".join(
        f"[stdout:{n}] \no\n[output:{n}]\n1\n2\nOut[{n}:_]: 42\n" for n in range(2)
    )
    assert ip.run("result.display_outputs(result_only=True)").out == "Out[0:_]: 42\nOut[1:_]: 42\n"


def test_streaming_any_call(ip: Notebook, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        ip.names.update(gate=gate, result=ip.names["rc"][:].apply_async(shout_behind_a_gate, "streamed", gate.folder))
        shown = ip.run("with result.stream_output():\n    gate.open()\n    _ = result.wait_for_output(timeout=60)")
    assert shown.by_source == on_all("streamed\n")
