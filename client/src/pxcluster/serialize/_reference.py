"""An expression that stands for a value of the engine's namespace."""

from __future__ import annotations

from ._namespace import given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_resolve: Callable[[str], object] | None = None


class Reference:
    """Stands for the value that the expression `name` has in the engine's namespace when the request arrives there.

    May be the function of an apply or a map, an argument, a member of a container, or a value of a push:
    ``view.apply(Reference("f"), [Reference("x"), 1])``.

    `name` is any Python expression, such as ``"x"`` or ``"table[3].name"``. A name that the engine does not know is a
    NameError there.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"Reference() takes an expression as a str, not {type(name).__name__}")
        self.name = name

    def get_object(self, g: dict[str, Any] | None = None) -> Any:
        """The value that the expression has in the namespace `g`, by default in an empty one."""
        return eval(self.name, {} if g is None else g)

    def __repr__(self) -> str:
        return f"<Reference: {self.name!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Reference, self.name))

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return load_reference, (self.name,)


def load_reference(expression: str) -> object:
    """What a pickled Reference becomes: the value where the loader gave a namespace or a resolver is set (in engines),
    a Reference elsewhere.
    """
    namespace = given()
    if namespace is not None:
        return eval(expression, namespace)
    return Reference(expression) if _resolve is None else _resolve(expression)


def resolve_references(resolve: Callable[[str], object] | None) -> None:
    """Let `resolve(expression)` give the value of every Reference that this process loads; None: leave them alone."""
    global _resolve
    _resolve = resolve
