"""A controller and its engines in one thread of the test process, over a Unix socket or TLS.

It speaks the client link with the client's own frame codec (which golden frames check independently) and runs bodies
in-process: a namespace per engine, requests in order. A test can hold answers back and release them, kill engines and
break the connection, always at a point it chooses.
"""

from __future__ import annotations

import builtins
import json
import queue
import socket
import struct
import sys
import threading
import time
import traceback
import types
from array import array
from contextlib import contextmanager

from pxcluster import frames, serialize

KEY = "ab" * 32


class Engine:
    def __init__(self, number):
        self.id = number
        self.namespace = {"__builtins__": builtins, "__name__": "__main__"}
        self.count = 0
        self.completed = 0

    def info(self):
        return {"id": self.id, "host": "fakehost", "pid": 1000 + self.id}


class FakeController:
    """Engines 0…n-1 at `path`. `holding`: answers are kept until :meth:`release`."""

    def __init__(self, path, engines=4, python=None, tls=None):
        self.engines = {number: Engine(number) for number in range(engines)}
        self.python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
        self.received = queue.Queue()
        self.errors = []
        self.result_order = iter  # how the results of a map are ordered
        self.results_per_frame = 3
        self.past = []  # calls of all sessions, each with the rows of its parts
        self.resumes = False  # whether sessions go on over other connections
        self.last_request = 0
        self.hold = threading.Event()
        self._held = []
        self._lock = threading.Lock()
        self._closing = False
        self.tls = tls
        if tls is None:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(path))
        else:
            self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.listen()
        self.connection = None
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    # -- for tests -----------------------------------------------------------------------------------------------

    def send(self, header, buffers=()):
        with self._lock:
            self.connection.sendall(b"".join(frames.encode(header, buffers)))

    def release(self):
        """Send what was held back, and hold nothing any more."""
        with self._lock:
            self.hold.clear()
            held, self._held = self._held, []
            for data in held:
                self.connection.sendall(data)

    def lose_engine(self, number, reason="killed by signal 9"):
        del self.engines[number]
        self.send({"type": "engines", "joined": [], "lost": [{"id": number, "reason": reason}]})

    def break_connection(self):
        self.connection.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._closing = True
        for sock in (self.listener, self.connection):
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread
            except (OSError, AttributeError):
                pass  # nobody connected, or it is gone already
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.listener.close()

    def expect(self, kind):
        """The next received frame of type `kind`."""
        while True:
            header, buffers = self.received.get(timeout=10)
            if header["type"] == kind:
                return header, buffers

    # -- the link ------------------------------------------------------------------------------------------------

    def _answer(self, header, buffers=()):
        data = b"".join(frames.encode(header, buffers))
        with self._lock:
            if self.hold.is_set():
                self._held.append(data)
            else:
                self.connection.sendall(data)

    def _serve(self):
        while not self._closing:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            try:
                if self.tls is not None:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                self.connection = connection
                self._session(connection)
            except OSError:
                pass  # the client or the test broke the connection
            except Exception as error:
                self.errors.append(error)
                traceback.print_exc(file=sys.__stderr__)
            connection.close()

    def _session(self, connection):
        decoder = frames.Decoder()
        while True:
            count = connection.recv_into(decoder.space())
            if not count:
                return
            for header, buffers in decoder.received(count):
                if header["type"] == "memory":
                    connection.sendall(b"".join(frames.encode({"type": "refused", "reason": "none is shared"})))
                    return
                self.received.put((header, buffers))
                if header["type"] == "goodbye":
                    return
                getattr(self, "_on_" + header["type"])(header, buffers)

    def _on_hello(self, header, buffers):
        if header["key"] != KEY:
            self.send({"type": "refused", "reason": "the key is wrong"})
            return
        if header["session"] is not None and not self.resumes:
            self.send({"type": "refused", "reason": f"session {header['session']} is not known"})
            return
        self.send(
            {
                "type": "welcome",
                "protocol_version": 1,
                "session": "s1",
                "client_id": 1,
                "cluster_id": "default",
                "python": self.python,
                "engines": [engine.info() for engine in self.engines.values()],
                "host": "fakehost",
                "pid": 999,
                "version": "0.1.0",
                "last_request": self.last_request if header["session"] else 0,
            }
        )

    def _on_received(self, header, buffers):
        self.confirmed = header["frames"]

    def _on_fetch(self, header, buffers):
        message = "its results are not kept any more"
        self._answer({"type": "failed", "id": header["id"], "ename": "KeyError", "message": message})

    def _on_direct(self, header, buffers):
        content = serialize.loads(buffers) if buffers else None
        targets = list(self.engines) if header["targets"] is None else header["targets"]
        rows = self.remember(header, header["kind"], targets=targets)
        for slot, number in enumerate(targets):
            if number not in self.engines:
                continue  # it has died, and the client knows
            started = time.time()
            status, answer = self._run(header, self.engines[number], header["kind"], content, buffers)
            rows[slot] = (number, status, started, time.time())
            self._answer(
                {
                    "type": "reply",
                    "id": header["id"],
                    "engine": number,
                    "status": status,
                    "started": started,
                    "completed": time.time(),
                },
                answer,
            )

    def _run(self, header, engine, kind, content, buffers):
        try:
            self._printing(header["id"], engine, None)
            return 0, serialize.dumps(getattr(self, "_do_" + kind)(engine, content, buffers, header["id"]))
        except BaseException as error:
            return 1, [error_payload(error, engine.id, "execute" if kind == "execute" else "apply")]
        finally:
            engine.completed += 1

    def _do_apply(self, engine, content, buffers, number):
        with loading(engine):
            function, args, kwargs = serialize.loads(buffers)
            return bound(function, engine)(*args, **kwargs)

    def _do_push(self, engine, content, buffers, number):
        engine.namespace.update(serialize.loads(buffers))

    def _do_pull(self, engine, content, buffers, number):
        if isinstance(content, str):
            return eval(content, engine.namespace)
        return [eval(expression, engine.namespace) for expression in content]

    def _do_clear(self, engine, content, buffers, number):
        engine.namespace = {"__builtins__": builtins, "__name__": "__main__"}

    def _do_execute(self, engine, content, buffers, number):
        import ast

        if not content["silent"]:
            engine.count += 1
        tree = ast.parse(content["code"])
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)

        def display(text):
            shown = {"data": {"text/plain": text}, "metadata": {}, "transient": {}, "update": False}
            self._output(number, engine.id, None, "display", json.dumps(shown))

        engine.namespace["display"] = display
        engine.namespace["engine_id"] = engine.id
        exec(compile(tree, "<cell>", "exec"), engine.namespace)
        value = None if last is None else eval(compile(last, "<cell>", "eval"), engine.namespace)
        shown = None if value is None or content["silent"] else {"data": {"text/plain": repr(value)}, "metadata": {}}
        return {"execution_count": engine.count, "execute_result": shown}

    def _on_map(self, header, buffers):
        offsets = memoryview(buffers[1]).cast("Q")
        results = []
        engines = header["targets"] or list(self.engines)
        rows = self.remember(header, "map", tasks=header["tasks"])
        for index in range(header["tasks"]):
            engine = self.engines[engines[index % len(engines)]]
            started = time.time()
            try:
                self._printing(header["id"], engine, index)
                with loading(engine):
                    function = serialize.loads_task(buffers[0])
                    item = serialize.loads_task(memoryview(buffers[2])[offsets[index] : offsets[index + 1]])
                payload, status = serialize.dumps_task(call(function, item, engine)), 0
            except BaseException as error:
                payload, status = error_payload(error, engine.id, "apply"), 1
            rows[index] = (engine.id, status, started, time.time())
            results.append((index, engine.id, status, started, time.time(), payload))
        results = list(self.result_order(results))
        for start in range(0, len(results), self.results_per_frame):
            self._answer(
                {"type": "results", "id": header["id"]}, columns(results[start : start + self.results_per_frame])
            )

    def _on_signal(self, header, buffers):
        self._answer({"type": "done", "id": header["id"]})

    def _on_abort(self, header, buffers):
        self._answer({"type": "done", "id": header["id"]})

    _on_interrupt = _on_abort

    def _on_status(self, header, buffers):
        self._answer(
            {
                "type": "status",
                "id": header["id"],
                "cluster_id": "default",
                "host": "fakehost",
                "pid": 999,
                "version": "0.1.0",
                "uptime": 1.5,
                "clients": 1,
                "unassigned": 0,
                "engines": [
                    {**engine.info(), "queue": 0, "tasks": 0, "completed": engine.completed}
                    for engine in self.engines.values()
                ],
            }
        )

    def remember(self, header, kind, targets=(), tasks=0, session="s1"):
        """Put a call into the history; the rows of its parts, which have not ended."""
        rows = [(engine, 255, float("nan"), float("nan")) for engine in targets or [0xFFFFFFFF] * tasks]
        call = {
            "session": session,
            "request": header["id"],
            "kind": kind,
            "label": header.get("label"),
            "submitted": time.time(),
            "tasks": tasks,
            "targets": list(targets),
            "parts": len(rows),
        }
        if not header.get("unlisted"):
            self.past.append((call, rows))
        return rows

    def _on_history(self, header, buffers):
        rows = [row for _, rows in self.past for row in rows]
        count = len(rows)
        packed = [struct.pack(f"<{count}{code}", *(row[at] for row in rows)) for at, code in enumerate("IBdd")]
        calls = json.dumps([call for call, _ in self.past]).encode()
        self._answer({"type": "history", "id": header["id"]}, [calls, *packed])

    def _on_purge(self, header, buffers):
        chosen = header["requests"]
        self.past = [
            (call, rows)
            for call, rows in self.past
            if any(row[1] == 255 for row in rows)
            or (chosen is not None and [call["session"], call["request"]] not in chosen)
        ]
        self._answer({"type": "done", "id": header["id"]})

    def _on_kill(self, header, buffers):
        self._answer({"type": "done", "id": header["id"]})
        for number in header["targets"]:
            self.lose_engine(number, "killed by signal 9")

    def _on_shutdown(self, header, buffers):
        self._answer({"type": "closing", "reason": "a client asked for it"})

    # -- output --------------------------------------------------------------------------------------------------

    def _output(self, number, engine, task, name, text):
        header = {"type": "output", "id": number, "engine": engine, "task": task, "name": name}
        self._answer(header, [text.encode()])

    def _printing(self, number, engine, task):
        """Give the engine a print() that goes to the client; ``file="stderr"`` chooses the stream."""

        def remote_print(*values, sep=" ", end="\n", file="stdout"):
            self._output(number, engine.id, task, file, sep.join(map(str, values)) + end)

        engine.namespace["print"] = remote_print


@contextmanager
def loading(engine):
    """References that are loaded here have their values in the namespace of `engine`."""
    serialize.resolve_references(lambda expression: eval(expression, engine.namespace))
    try:
        yield
    finally:
        serialize.resolve_references(None)


def bound(function, engine):
    """`function` with the engine's namespace as its globals, if it was defined interactively or in a test."""
    if isinstance(function, types.FunctionType) and function.__globals__.get("__name__") == "__main__":
        return types.FunctionType(
            function.__code__, engine.namespace, function.__name__, function.__defaults__, function.__closure__
        )
    return function


def call(description, item, engine):
    function = bound(description["function"], engine)
    if description["chunked"]:
        return [function(*each) if description["star"] else function(each) for each in item]
    return function(*item) if description["star"] else function(item)


def error_payload(error, engine, method):
    text = "".join(traceback.format_exception_only(error)).rstrip()
    content = {
        "ename": type(error).__name__,
        "evalue": str(error),
        "traceback": f"Traceback of engine {engine}\n{text}",
        "engine_id": engine,
        "engine_uuid": f"uuid-{engine}",
        "method": method,
    }
    return json.dumps(content).encode()


def columns(results):
    """The buffers of a results frame."""
    offsets = array("Q", (0,))
    for result in results:
        offsets.append(offsets[-1] + len(result[5]))
    return [
        array("I", [result[0] for result in results]).tobytes(),
        array("I", [result[1] for result in results]).tobytes(),
        bytes(result[2] for result in results),
        array("d", [result[3] for result in results]).tobytes(),
        struct.pack(f"<{len(results)}d", *(result[4] for result in results)),
        offsets.tobytes(),
        b"".join(result[5] for result in results),
    ]
