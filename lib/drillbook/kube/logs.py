"""A container's log, followed while it is written."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import urllib3

from drillbook.errors import Changed, KubernetesError, StepTimeoutError
from drillbook.kube.kinds import POD
from drillbook.kube.transport import Transport
from drillbook.kube.watching import lines


class LogStream:
    """The lines of a log as they come; ends with the container. Opened when made, closed by ``close`` or ``with``."""

    def __init__(self, transport: Transport, namespace: str, pod: str, container: str, timeout_seconds: float) -> None:
        self._what = f"follow the log of {container} in {POD.where(namespace, pod)}"
        self._transport = transport
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._closed = False
        self._response = transport.stream(
            POD.path(namespace, pod, "log"),
            what=self._what,
            query={"container": container, "follow": "true"},
            read_seconds=timeout_seconds,
        )
        self._lines = self._read()

    def _read(self) -> Iterator[str]:
        try:
            for line in lines(self._response):
                yield line.decode(errors="replace")
        except urllib3.exceptions.ReadTimeoutError as error:
            if not self._closed:
                raise StepTimeoutError(
                    f"{self._what}: nothing was written for {self._timeout_seconds:g} s",
                    changed=Changed.NOTHING,
                    todo="Look at the pod; the log so far is kept.",
                ) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # A stream that another thread has closed breaks in one of many ways.
            if not self._closed:
                raise self._lost(error) from error
        finally:
            self._response.close()

    def _lost(self, error: Exception) -> KubernetesError:
        return self._transport.no_answer(self._what, error, False)

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def __next__(self) -> str:
        return next(self._lines)

    def close(self) -> None:
        """Stop; a thread that waits for the next line is woken and sees the end. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        # Closing alone would not wake a thread that is reading.
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()
        with contextlib.suppress(ValueError, OSError):
            self._response.close()

    def __enter__(self) -> LogStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
