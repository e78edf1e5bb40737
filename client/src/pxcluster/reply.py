"""What is known of one task or one engine's answer: its metadata, and the result of an execute."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEFAULTS: dict[str, Any] = {
    "msg_id": None,
    "submitted": None,
    "started": None,
    "completed": None,
    "received": None,
    "engine_uuid": None,
    "engine_id": None,
    "follow": None,
    "after": None,
    "status": None,
    "execute_input": None,
    "execute_result": None,
    "error": None,
    "stdout": "",
    "stderr": "",
    "outputs": [],
    "data": {},
    "label": None,
    "tries": 1,
}

#: Every key of a :class:`Metadata`.
METADATA_KEYS = frozenset(_DEFAULTS)


class Metadata(dict[str, "Any"]):
    """Metadata of one task, by key or attribute. The set of keys is fixed: others raise KeyError or AttributeError.

    `submitted`, `started`, `completed` and `received` are aware datetimes (UTC) or None, `outputs` a list of dicts
    with ``data`` and ``metadata``. `tries`: how often the task was tried, which is more than once after failures with
    ``retries=`` and after deaths of engines.
    """

    def __init__(self, **values: Any) -> None:
        super().__init__(_DEFAULTS)
        self["outputs"] = []
        self["data"] = {}
        for key, value in values.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in METADATA_KEYS:
            raise KeyError(key)
        super().__setitem__(key, value)

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        if key not in METADATA_KEYS:
            raise AttributeError(key)
        self[key] = value


class ExecuteReply:
    """The answer of one engine to an execute: its execution count, and what it displayed as ``Out[engine:count]``."""

    def __init__(self, execution_count: int, metadata: Metadata) -> None:
        self.execution_count = execution_count
        self.metadata = metadata

    @property
    def data(self) -> dict[str, Any]:
        """The mime bundle of the result, empty without one."""
        return (self.metadata["execute_result"] or {}).get("data", {})  # type: ignore[no-any-return]

    @property
    def source(self) -> str:
        """Where the result comes from; always empty."""
        return ""

    def _plaintext(self) -> str:
        """``Out[engine:count]: text``, coloured as IPython is, or nothing when there was no result."""
        text = str(self.data.get("text/plain", ""))
        if not text:
            return ""
        red, normal = ("\x1b[0;31m", "\x1b[0m") if _coloured() else ("", "")
        if "\n" in text and not text.startswith("\n"):
            text = "\n" + text
        return f"{red}Out[{self.metadata['engine_id']}:{self.execution_count}]: {normal}{text}"

    def display(self) -> None:
        """Publish the result as a display of the running IPython."""
        from .outputs import publish

        publish(self.data, {"engine": self.metadata["engine_id"]})

    def _repr_mimebundle_(self, *_args: Any, **_kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data = self.data
        if "text/plain" in data:
            data = {**data, "text/plain": self._plaintext()}
        return data, {"engine": self.metadata["engine_id"]}

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(self._plaintext())

    def __repr__(self) -> str:
        text = str(self.data.get("text/plain", ""))
        return f"<ExecuteReply[{self.execution_count}]: {text[:29] + '...' if len(text) > 32 else text}>"

    def __getitem__(self, key: str) -> Any:
        return self.metadata[key]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_repr_"):
            mime = _MIMES.get(key)
            if mime is not None and mime in self.data:
                return lambda: self.data[mime]
            raise AttributeError(key)
        metadata = self.__dict__.get("metadata")
        if metadata is None or key not in metadata:
            raise AttributeError(key)
        return metadata[key]


_MIMES = {
    "_repr_html_": "text/html",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_svg_": "image/svg+xml",
    "_repr_latex_": "text/latex",
    "_repr_markdown_": "text/markdown",
    "_repr_json_": "application/json",
    "_repr_javascript_": "application/javascript",
}


def _coloured() -> bool:
    from .outputs import shell

    ip = shell()
    return ip is not None and str(ip.colors).lower() != "nocolor"
