import os
import signal
import subprocess
import sys
import warnings

import pytest

from fasttrain.errors import Stopped
from fasttrain.parallel import signals
from fasttrain.parallel.signals import Signals

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_outside_the_loop_a_signal_raises_at_once(number):
    with Signals(), pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number


def test_inside_the_loop_a_signal_waits_for_the_next_check():
    with Signals() as signals, signals.polled():
        signals.check()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # a second one changes nothing
        with pytest.raises(Stopped) as caught:
            signals.check()
    assert caught.value.code == 143


def test_the_handlers_of_before_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def unwind() -> None:
    with Signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            warnings.warn("while it unwinds", UserWarning, stacklevel=1)


def test_what_is_unwound_by_a_signal_warns_of_nothing_and_warnings_come_back():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(Stopped):
            unwind()
        warnings.warn("after", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["after"]


SWALLOWED = """
import os, signal, time
from fasttrain.parallel import signals
signals.UNWOUND_SECONDS = 0.2
with signals.Signals():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        time.sleep(30)
"""


def test_a_stop_that_something_swallowed_still_ends_the_process():
    command = [sys.executable, "-c", SWALLOWED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 143
    assert done.stderr == f"fasttrain: error: stopped by SIGTERM{signals.UNSAVED}\n"
