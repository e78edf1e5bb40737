"""The magics and what they print, in a plain IPython shell."""

from __future__ import annotations

import pxcluster as ipp
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from support import info_of


@pytest.fixture
def ip(monkeypatch, tmp_path):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell.instance()
    shell.run_line_magic("colors", "nocolor")
    yield shell
    shell.history_manager.end_session()
    import atexit

    atexit.unregister(shell.atexit_operations)
    InteractiveShell.clear_instance()


@pytest.fixture
def rc(ip, controller, tmp_path):
    with ipp.Client(info_of(tmp_path / "socket")) as client:
        ip.user_ns["rc"] = client
        yield client


@pytest.fixture
def run(ip, rc, capsys):
    """Run a cell; what it printed on standard output and standard error."""

    def run(cell):
        capsys.readouterr()
        run.result = ip.run_cell(cell)
        return tuple(capsys.readouterr())

    return run


def errors_of(run, kind):
    assert isinstance(run.result.error_in_exec, kind), run.result.error_in_exec
    return run.result.error_in_exec


def test_results_come_by_engine_and_count(run):
    assert run("%px engine_id * 2") == ("Out[0:1]: 0\nOut[1:1]: 2\nOut[2:1]: 4\nOut[3:1]: 6\n", "")
    assert run("%px x = 3") == ("", "")
    assert run("%px --x")[0].startswith("Out[0:3]: 3")  # a line is code, not options
    assert run("%px 'a\\nb' if engine_id else None")[0].count("Out[") == 3


def test_results_of_several_lines_begin_on_their_own_line(run):
    run("%%px\nclass A:\n    def __repr__(self): return 'a\\nb'")
    assert run("%px A()")[0].startswith("Out[0:2]: \na\nb\nOut[1:2]: \na\nb\n")


def test_streams_have_a_prefix_when_it_changes(run):
    assert run("%%px\nprint(20)")[0] == "".join(f"[stdout:{n}] \n20\n" for n in range(4))
    assert run("%%px\nprint(1); print(2)")[0].startswith("[stdout:0] \n1\n2\n[stdout:1] \n1\n2\n")
    out = run("%%px\nprint('no newline', end='')")[0]
    assert out.startswith("[stdout:0] \nno newline\n[stdout:1] \nno newline\n")
    assert run("%%px\nprint('e', file='stderr')")[1] == "".join(f"[stderr:{n}] \ne\n" for n in range(4))


def test_output_at_the_end_by_type(run):
    out, err = run("%%px --no-stream\nprint('out'); print('err', file='stderr'); 'result'")
    assert out == "".join(f"[stdout:{n}] \nout\n" for n in range(4)) + "".join(
        f"Out[{n}:1]: 'result'\n" for n in range(4)
    )
    assert err == "".join(f"[stderr:{n}] \nerr\n" for n in range(4))


def test_output_by_engine_and_by_order(run):
    out = run("%%px --group-outputs=engine --no-stream\nprint('o'); display('x'); 42")[0]
    assert out == "".join(f"[stdout:{n}] \no\n[output:{n}]\nx\nOut[{n}:1]: 42\n" for n in range(4))
    out = run("%%px --group-outputs=order --no-stream\ndisplay('1'); display('2')")[0]
    assert out == "".join(f"[output:{n}]\n{text}\n" for text in "12" for n in range(4))


def test_displays_come_as_they_are(run):
    assert run("%%px\ndisplay('x')")[0] == "".join(f"[output:{n}]\nx\n" for n in range(4))


def test_errors_of_several_engines_are_shown_once(run):
    out, err = run("%%px\n1/0")
    assert "4 errors" in out
    assert [line for line in err.splitlines() if line.startswith("[")] == [f"[{n}:execute]" for n in range(4)]
    assert repr(errors_of(run, ipp.AlreadyDisplayedError)) == "<AlreadyDisplayedError(4 errors)>"
    out, err = run("%%px --no-stream\n1/0")
    assert err == ""
    assert str(errors_of(run, ipp.CompositeError)) == "one or more exceptions raised in: %px\n" + "\n".join(
        f"[{n}:execute]ZeroDivisionError: division by zero" for n in range(4)
    )
    assert [line for line in out.splitlines() if line.startswith("[")] == [f"[{n}:execute]:" for n in range(4)]


def test_an_error_of_one_engine_is_shown_once(run):
    out, err = run("%%px --targets 0\n1/0")
    assert err == ""
    assert out.count("Traceback of engine 0") == 1
    assert str(errors_of(run, ipp.RemoteError)) == "[0:execute] ZeroDivisionError: division by zero"


def test_targets_and_names(run, ip):
    assert run("%%px --targets ::2 -o saved\nprint('even')")[0] == "[stdout:0] \neven\n[stdout:2] \neven\n"
    assert repr(ip.user_ns["saved"]) == "<AsyncResult(%px): finished>"
    assert ip.user_ns["saved"].stdout == ["even\n", "even\n"]
    assert run("%%px --targets [1,3]\nengine_id")[0] == "Out[1:1]: 1\nOut[3:1]: 3\n"
    assert run("%%px -t all\n1")[0].count("Out[") == 4
    run("%%px -t import_os\n1")
    assert "UsageError" in run("%%px -t import_os\n1")[1]


def test_not_waiting(run, ip):
    assert run("%pxconfig --verbose") == ("", "")
    assert run("%px a = 5")[0] == "Parallel execution on engine(s): all\n"
    out = run("%%px --noblock\nengine_id > 0")[0]
    assert out.startswith("Async parallel execution on engine(s): all\n")
    assert run.result.result is not None
    run("%pxconfig --no-verbose")
    assert run("%pxresult")[0] == "Out[0:2]: False\nOut[1:2]: True\nOut[2:2]: True\nOut[3:2]: True\n"


def test_pxresult_needs_a_result(ip, rc):
    with pytest.raises(UsageError, match=r"^%pxresult recalls last %px result, which has not yet been used\.$"):
        ip.run_line_magic("pxresult", "")


def test_local(run, ip):
    assert run("%%px --local\nhere = 1")[0] == ""
    assert ip.user_ns["here"] == 1
    assert ip.user_ns["rc"][:]["here"] == [1] * 4


def test_autopx(run, ip):
    assert run("%autopx")[0] == "%autopx enabled\n"
    assert run("b = 3\nprint(b)")[0] == "".join(f"[stdout:{n}] \n3\n" for n in range(4))
    assert run("b")[0] == "".join(f"Out[{n}:2]: 3\n" for n in range(4))
    assert run("%autopx")[0] == "%autopx disabled\n"
    assert "b" not in ip.user_ns


def test_suffixes_and_a_second_client(run, ip, rc, tmp_path):
    rc.activate(1, suffix="_one")
    assert run("%px_one engine_id")[0] == "Out[1:1]: 1\n".replace("Out[1:1]: ", "Out[1:1]: ")
    assert run("%px 5")[0].count("Out[") == 4


def test_an_interrupt_is_passed_on(run, ip, rc, controller, monkeypatch):
    from pxcluster.asyncresult import AsyncResult

    def interrupted(self, timeout=-1, return_when=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(AsyncResult, "wait", interrupted)
    _, err = run("%px 1")
    assert err == "Received Keyboard Interrupt. Sending signal SIGINT to engines...\n"
    assert controller.expect("signal")[0]["signum"] == 2


def test_progress_bar(run):
    assert "%px: 100%" in run("%%px --progress-after 0\n1")[0]


def test_load_ext(ip, controller, tmp_path, monkeypatch):
    import json

    (tmp_path / "default").mkdir()
    path = tmp_path / "default" / "connection.json"
    path.write_text(json.dumps(info_of(tmp_path / "socket")))
    path.chmod(0o600)
    monkeypatch.setenv("PXCLUSTER_DIR", str(tmp_path))
    ip.extension_manager.load_extension("pxcluster")
    ip.user_ns["rc"].close()


def test_stdout_of_remote_code_is_kept(run, ip, rc):
    result = rc[0].execute("print('x')", block=True)
    result.display_outputs()
    with pytest.raises(ValueError, match="groupby"):
        result.display_outputs("nonsense")
