import os
import signal

import pytest

from fasttrain.errors import Stopped
from fasttrain.signals import Signals


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
