"""What a client does with calls that it has made: run them again, search them, forget them."""

from __future__ import annotations

from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Never

    from .asyncresult import AsyncResult
    from .client import Client


class ClientCalls:
    """The part of a Client that looks back."""

    def _this(self) -> Client:
        return self  # type: ignore[return-value]  # only Client is derived from this

    def resubmit(self, indices_or_msg_ids: Any = None, metadata: Any = None, block: bool | None = None) -> AsyncResult:
        """Make calls of this client again: msg_ids, indices into the history (default: the last), AsyncResults.

        The same functions and arguments go to the same engines, tasks to any. The result is a list, one per msg_id.
        The 1024 most recent calls are remembered, with at most 16 MiB of arguments, 4 MiB of each and 64 KiB of arrays.
        KeyError: a call is not remembered, or another client's. `metadata` has no effect.
        """
        from .resubmit import resubmit

        result = resubmit(self._this(), -1 if indices_or_msg_ids is None else indices_or_msg_ids)
        if self._this().block if block is None else block:
            result.wait()
        return result

    def hub_history(self) -> list[str]:
        """The msg_ids of all clients' calls, oldest first, as far as the controller remembers them.

        It remembers the most recent 131,072 calls on engines and tasks, until they are purged.
        """
        from .records import hub_history

        return hub_history(self._this())

    def db_query(self, query: dict[str, Any], keys: str | list[str] | None = None) -> list[dict[str, Any]]:
        """What is known of the calls in :meth:`hub_history` that match `query`, as dicts with `keys` (default: all).

        The controller remembers where, when and how calls ended; what they printed and returned is known of those whose
        results this client holds. ``completed`` is None of what has not ended.

        `query`: values by key, or dicts of operators, such as ``{"submitted": {"$gt": datetime}}``: ``$eq $ne $lt $lte
        $gt $gte $in $nin $all $mod $exists $glob``. What is not known is None. KeyError: no such key; ValueError: no
        such operator.
        """
        from .records import db_query

        return db_query(self._this(), query, keys)

    def purge_local_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Let :attr:`results` and :attr:`metadata` forget `jobs` (``"all"``: every call) and what ran on `targets`.

        Whole calls are forgotten. ValueError: neither is given; RuntimeError: a call has not been answered.
        """
        from .records import purge

        purge(self._this(), jobs, targets, local=True, remote=False)

    def purge_hub_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Let the controller forget calls of all clients that have ended, and :meth:`resubmit` those of this one.

        `jobs` and `targets` as of :meth:`purge_local_results`.
        """
        from .records import purge

        purge(self._this(), jobs, targets, local=False, remote=True)

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Both :meth:`purge_local_results` and :meth:`purge_hub_results`."""
        from .records import purge

        purge(self._this(), jobs, targets, local=True, remote=True)

    def purge_everything(self) -> None:
        """:meth:`purge_results` of all calls, and forget the history."""
        self.purge_results("all")
        self._forget_calls()

    def _forget_calls(self) -> None:
        this = self._this()
        this._calls.purge(None)
        this._requests.clear()
        this._targets.clear()

    def spin_thread(self, interval: float = 1) -> None:
        """Does nothing: results arrive by themselves."""

    def stop_spin_thread(self) -> None:
        """Does nothing: results arrive by themselves."""

    # -- the inside of ipyparallel's views ---------------------------------------------------------------------------

    def send_apply_request(
        self,
        socket: Any,
        f: Any,
        args: Any = None,
        kwargs: Any = None,
        metadata: Any = None,
        track: bool = False,
        ident: Any = None,
        message_future_hook: Any = None,
    ) -> AsyncResult:
        """Call f on engine `ident` (an int), or on any (None); `socket` has no effect. TypeError: not an apply."""
        from .lowlevel import send_apply_request

        return send_apply_request(self._this(), f, args, kwargs, metadata, ident, message_future_hook)

    def send_execute_request(
        self,
        socket: Any,
        code: str,
        silent: bool = True,
        metadata: Any = None,
        ident: Any = None,
        message_future_hook: Any = None,
    ) -> AsyncResult:
        """Run `code` on engine `ident` (an int); `socket` has no effect. TypeError: not an execute."""
        from .lowlevel import send_execute_request

        return send_execute_request(self._this(), code, silent, metadata, ident, message_future_hook)

    def create_message_futures(
        self, msg_id: str, header: Any, async_result: bool = False, track: bool = False, label: str | None = None
    ) -> Never:
        """NotImplementedError: requests get their msg_ids, and their futures, when a view sends them."""
        raise NotImplementedError(
            "futures for messages of one's own cannot be made: calls of views return AsyncResults, which are futures, "
            "and rc.get_result(msg_id) gives those of earlier calls"
        )
