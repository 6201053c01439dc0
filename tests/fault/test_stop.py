# SPDX-License-Identifier: Apache-2.0
"""SIGSTOP and SIGCONT: a daemon that slept must neither serve nor change anything of its past (R1, R9, R10)."""
import time

import pytest

from load import fixtures, judge, role


@pytest.mark.parametrize("seconds", [0, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.parametrize("what", ["primary", "backup", "leader", "local"])
def test_a_daemon_that_slept_changes_nothing(cluster3, load3, what, seconds):
    """It wakes as soon as it was noticed, or after some seconds in which the others went on."""
    load3.start()
    number = role(cluster3, load3, what)
    slept_since = time.monotonic()
    cluster3.pause(number)
    cluster3.wait_down(number)
    load3.wait_more()
    fixtures.wait_for(lambda: time.monotonic() - slept_since >= seconds, "its sleep to end")
    cluster3.resume(number)
    cluster3.wait_up(number)
    load3.wait_more()
    load3.finish()
    judge(load3)


def test_a_sleeper_shorter_than_the_timeout_is_not_dropped(cluster3, load3):
    """A pause of a scheduler tick must not cost an epoch."""
    load3.start()
    before = cluster3.ask("status")["map_version"]
    cluster3.pause(2)
    cluster3.resume(2)
    load3.wait_more()
    load3.finish()
    assert cluster3.ask("status")["map_version"] == before
    judge(load3)
