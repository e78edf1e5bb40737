"""The connection file: found and checked; then the byte channel it leads to."""

from __future__ import annotations

import glob
import json
import os
import socket
import stat

from .error import VersionMismatch
from .frames import PROTOCOL_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .channel import Channel

#: How long addresses are tried, seconds.
_LONGEST = 10.0
_FIELDS = {"cluster_id": str, "key": str, "certificate": str, "addresses": list, "socket": str, "host": str, "pid": int}


def directory() -> str:
    """Where clusters keep their files: ``$PXCLUSTER_DIR``, or ``~/.pxcluster``."""
    return os.environ.get("PXCLUSTER_DIR") or os.path.join(os.path.expanduser("~"), ".pxcluster")


def cluster_id_of(cluster_id: str | None) -> str:
    """The name of a cluster; None means ``$PXCLUSTER_CLUSTER_ID``, or ``default``. ValueError: it can be none."""
    cluster_id = cluster_id or os.environ.get("PXCLUSTER_CLUSTER_ID") or "default"
    if "/" in cluster_id or cluster_id.startswith("."):
        raise ValueError(f"cluster id {cluster_id!r} is not usable: take letters, digits, '-', '_' and '.'")
    return cluster_id


def path_of(cluster_id: str | None) -> str:
    """The connection file of a cluster; None as of :func:`cluster_id_of`."""
    return os.path.join(directory(), cluster_id_of(cluster_id), "connection.json")


def shorten(path: str) -> str:
    """`path` with ``~`` for the home directory."""
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if home != "/" and path.startswith(home + os.sep) else path


def known(base: str) -> list[str]:
    """The clusters in a directory of clusters that have a connection file, by name."""
    return sorted(
        os.path.basename(os.path.dirname(path))
        for path in glob.glob(os.path.join(glob.escape(base), "*", "connection.json"))
    )


def read(path: str) -> dict[str, Any]:
    """Read and check a connection file. OSError, ValueError or VersionMismatch, one sentence each."""
    shown = shorten(path)
    try:
        with open(path, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise PermissionError(
                    f"connection file {shown} can be read by others, and whoever can read it can run code as you: "
                    f"chmod 600 {shown}, and start the cluster again if somebody may have seen it"
                )
            content = json.load(file)
    except PermissionError as problem:
        if problem.errno is None:
            raise
        raise PermissionError(f"connection file {shown} cannot be read: {problem.strerror}") from None
    except OSError as problem:
        raise type(problem)(f"connection file {shown} cannot be read: {problem.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"connection file {shown} is not JSON; remove it and start the cluster again") from None
    return check(content, shown)


def check(content: Any, shown: str = "connection info") -> dict[str, Any]:
    """The content of a connection file, if it has every field. ValueError or VersionMismatch."""
    if not isinstance(content, dict):
        raise ValueError(f"{shown} is no JSON object; remove it and start the cluster again")
    if content.get("protocol_version") != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"{shown} is of protocol version {content.get('protocol_version')} (pxcluster {content.get('version')}), "
            f"this client speaks version {PROTOCOL_VERSION}: start the cluster from the same environment"
        )
    for field, kind in _FIELDS.items():
        if not isinstance(content.get(field), kind):
            raise ValueError(f"{shown} has no usable field {field!r}; remove it and start the cluster again")
    return content


class Unreachable(ConnectionRefusedError):
    """No address answers, and not all say that nobody listens: the controller may be there."""


def connect(info: Mapping[str, Any], shown: str, timeout: float) -> Channel:
    """Open the channel that `info` describes: the Unix socket on the same host, otherwise TLS to an address.

    All within `timeout` seconds, at most ten. ConnectionRefusedError: the file, called `shown`, is stale; Unreachable:
    perhaps not.
    """
    from . import channel, stale
    from .dialing import NoAnswer, dial

    timeout = min(timeout, _LONGEST)
    problems: list[str] = []
    same_host = info["host"] == socket.gethostname()
    if same_host and info["socket"] and os.path.exists(info["socket"]):
        try:
            return channel.connect_unix(info["socket"], info["key"], timeout)
        except OSError as problem:
            problems.append(f"{info['socket']}: {problem.strerror or problem}")
    gone = stale.gone_here(info)
    if gone is not None:
        stale.check_job(info, shown)
        raise ConnectionRefusedError(f"connection file {shown} is stale: {gone}; start a cluster again")
    try:
        return dial(info["addresses"], info["certificate"], timeout, lambda: stale.check_job(info, shown))
    except NoAnswer as problem:
        stale.check_job(info, shown)
        tried = "; ".join([*problems, str(problem)] if problem.problems else problems)
        where = f"{info['host']}, process {info['pid']}"
        if problem.refused:
            raise ConnectionRefusedError(
                f"no controller answers where connection file {shown} says (started on {where}); it is stale, as "
                f"nobody listens there any more: remove it, and start a cluster again: {tried}"
            ) from None
        raise Unreachable(
            f"no controller answers where connection file {shown} says (started on {where}); it is stale, or this host "
            f"cannot reach {info['host']}: see whether that is up, and use sshserver= to go by a host that reaches it: "
            + (tried or "the file has no address")
        ) from None
