# SPDX-License-Identifier: Apache-2.0
"""SIGSTOP and SIGCONT: a daemon that slept must neither serve nor change anything of its past (R1, R9, R10)."""
import pytest

from load import judge
from test_kill import role


@pytest.mark.parametrize("what", ["primary", "backup", "leader"])
def test_a_daemon_that_slept_changes_nothing(cluster3, load3, what):
    load3.start(10000)
    number = role(cluster3, load3, what)
    cluster3.pause(number)
    cluster3.wait_down(number)
    cluster3.resume(number)
    load3.finish()
    judge(load3)


def test_a_sleeper_shorter_than_the_timeout_is_not_dropped(cluster3, load3):
    """A pause of a scheduler tick must not cost an epoch."""
    load3.start(3000)
    before = cluster3.ask("status")["map_version"]
    cluster3.pause(2)
    cluster3.resume(2)
    load3.finish()
    assert cluster3.ask("status")["map_version"] == before
    judge(load3)
