"""The pages of docs/api: a page for each class, which names all that is public of it, and what pages show happens."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pxcluster
import pytest
from harness.cluster import Cluster
from pxcluster import Client
from pxcluster.imap import LazyMapIterator
from pxcluster.reply import ExecuteReply

PAGES = Path(__file__).parents[1] / "docs" / "api"
NAMES = sorted(path.name for path in PAGES.glob("*.md") if path.name != "README.md")
EXPORTED = [getattr(pxcluster, name) for name in pxcluster.__all__]
#: Public classes, and those of what `execute` and `imap` give.
CLASSES = [thing for thing in EXPORTED if inspect.isclass(thing)] + [ExecuteReply, LazyMapIterator]


def page_of(made: type) -> str:
    """``direct-view.md`` for DirectView; all exceptions have one page."""
    if issubclass(made, BaseException):
        return "errors.md"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", made.__name__).lower() + ".md"


def code_of(page: str) -> str:
    """What stands in a page's examples, without their comments, in indented lines and in code spans."""
    text = (PAGES / page).read_text()
    fence = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    examples = re.sub(r"  # .*", "", "\n".join(fence.findall(text)))
    prose = fence.sub("", text)
    return "\n".join([examples, *re.findall(r"^ {4}.*", prose, re.MULTILINE), *re.findall(r"`[^`]+`", prose)])


def missing_from(code: str, names: set[str]) -> list[str]:
    return sorted(name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", code))


def set_by(made: type) -> Iterator[str]:
    """The attributes that a class's own methods set."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(made)))):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def documented_bases(made: type) -> list[type]:
    """The nearest bases that have a page of their own, to which the page of `made` refers for what it inherits."""
    bases = [base for base in made.__mro__[1:] if base in CLASSES and page_of(base) != page_of(made)]
    return [base for base in bases if not any(issubclass(other, base) for other in bases if other is not base)]


def public_names(made: type) -> set[str]:
    """Attributes and methods, those of instances included, without those of documented bases and of built-in types."""
    elsewhere = {base for documented in documented_bases(made) for base in documented.__mro__}
    names: set[str] = set()
    for base in made.__mro__:
        if base.__module__ == "builtins" or base in elsewhere:
            continue
        names |= {*vars(base), *inspect.get_annotations(base)}
        if base.__module__.partition(".")[0] == "pxcluster":
            names |= set(set_by(base))
    builtin = [base for base in made.__mro__ if base.__module__ == "builtins" and base is not object]
    return {name for name in names if not name.startswith("_") and not any(hasattr(base, name) for base in builtin)}


def test_names_of_pages() -> None:
    assert [page_of(made) for made in (pxcluster.Client, pxcluster.LoadBalancedView, pxcluster.depend)] == [
        "client.md",
        "load-balanced-view.md",
        "depend.md",
    ]
    assert page_of(pxcluster.RemoteError) == "errors.md"


def test_what_is_public() -> None:
    view = public_names(pxcluster.DirectView)
    assert view >= {"push", "apply", "targets", "client"}  # its own, its base's, those of instances
    assert public_names(pxcluster.BroadcastView) == {"is_coalescing"}
    assert "ename" in public_names(pxcluster.RemoteError)
    assert "args" not in public_names(pxcluster.RemoteError)


@pytest.mark.parametrize("made", CLASSES, ids=lambda made: made.__name__)
def test_a_class_has_a_page_that_names_everything_public(made: type) -> None:
    page = page_of(made)
    assert page in NAMES, f"docs/api/{page} is missing"
    assert missing_from(code_of(page), {made.__name__, *public_names(made)}) == []
    if page != "errors.md":
        assert (PAGES / page).read_text().startswith(f"# {made.__name__}\n")
    for base in documented_bases(made):
        assert f"({page_of(base)})" in (PAGES / page).read_text(), f"no link to the page of {base.__name__}"


def test_every_exported_name_is_on_a_page() -> None:
    assert missing_from("\n".join(map(code_of, NAMES)), set(pxcluster.__all__)) == []


def test_every_page_is_listed() -> None:
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (PAGES / "README.md").read_text())
    assert sorted(listed) == NAMES


def test_links_between_pages_lead_somewhere() -> None:
    links = {(page, link) for page in NAMES for link in re.findall(r"\]\(([^):#]+)[^)]*\)", (PAGES / page).read_text())}
    assert [link for link in sorted(links) if not link[1].startswith("http") and not (PAGES / link[1]).exists()] == []


@pytest.mark.parametrize("page", NAMES)
def test_the_examples_of_a_page_are_true(cluster: Cluster, rc: Client, page: str) -> None:
    program = Path(__file__).parent / "harness" / "examples.py"
    done = subprocess.run(
        [sys.executable, program, PAGES / page],
        env=cluster.site.env,
        cwd=cluster.site.base,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 3
