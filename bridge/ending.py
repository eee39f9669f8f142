"""The end of a server's process: on a signal to end, or when its client leaves; and on time, whatever hangs then.

The one rule: nothing is waited for without end. What is to be left is left on the event loop; a thread of its own
watches that and ends the process outright where it takes too long, or where the loop itself stands still, as it does
for a disk that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LATEST = 1.9
"""Seconds. A client that has closed us sends a signal after two, and kills after two more."""
# What is no signal's number.
_CLIENT_LEFT = 0

log = logging.getLogger(__name__)


class Ending:
    """Ends the process once it is time, by the number of the signal as shells know it; made on the event loop.

    `leave` is called once, however many signals come.
    """

    def __init__(self, leave: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._told, self._tells = os.pipe()
        os.set_blocking(self._tells, False)
        # C code writes the number, at once and also while Python's main thread waits for a disk
        signal.set_wakeup_fd(self._tells, warn_on_full_buffer=False)
        for each in SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:  # which nohup means
                signal.signal(each, lambda *_: None)
        threading.Thread(target=self._wait, name="ending", daemon=True).start()

    def client_left(self) -> None:
        """End with 0; from any thread."""
        os.write(self._tells, bytes([_CLIENT_LEFT]))

    def _wait(self) -> None:
        while (number := os.read(self._told, 1)[0]) not in (_CLIENT_LEFT, *SIGNALS):
            pass
        try:
            asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result(LATEST)
        except TimeoutError:
            log.warning("not all that was under way has ended in time; kernels live on")
        except Exception:
            log.exception("not all was left as it should be; kernels live on")
        finally:
            os._exit(128 + number if number else 0)
