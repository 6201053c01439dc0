# SPDX-License-Identifier: Apache-2.0
"""The plugin alone, over a stand-in for libashlar: what a healthy cluster does not bring about on demand.

The stand-in (fake_ashlar.c) obeys the volume's name: mem... works, fail-N fails requests with -N, open-N refuses to open.
"""
import errno
import os
import tempfile

import pytest
from nbd_cluster import BUILD, PLUGIN, nbdkit, run, sanitizer_preload

FAKE = os.path.join(BUILD, "tests", "interop")


def serve(*argv, script="true", status=0, **env):
    return nbdkit(PLUGIN, *argv, script=script, status=status, env={"LD_LIBRARY_PATH": FAKE, **env})


def counters_after(*argv, script):
    """What the stand-in counted until nbdkit ended."""
    with tempfile.TemporaryDirectory(prefix="ash-fake-") as directory:
        log = os.path.join(directory, "log")
        serve(*argv, script=script, FAKE_ASHLAR_LOG=log)
        with open(log, encoding="ascii") as file:
            return {key: int(value) for key, value in (word.split("=") for word in file.read().split())}


def environment():
    return {**os.environ, **sanitizer_preload(), "LD_LIBRARY_PATH": FAKE}


# Goal: each errno of the library becomes the NBD error that says the same; what NBD has no number for is EIO, never EINVAL.
@pytest.mark.parametrize("given, seen", [
    (errno.ENOSPC, "No space left on device"), (errno.ESTALE, "Operation not permitted"),
    (errno.EPERM, "Operation not permitted"), (errno.EROFS, "Operation not permitted"),
    (errno.ESHUTDOWN, "transport endpoint shutdown"), (errno.ENOMEM, "Cannot allocate memory"),
    (errno.EINVAL, "Invalid argument"), (errno.EIO, "Input/output error"), (errno.EILSEQ, "Input/output error"),
    (errno.ETIMEDOUT, "Input/output error"), (errno.ENOENT, "Input/output error"), (errno.EBUSY, "Input/output error")])
def test_errors_become_nbd_errors(given, seen):
    commands = ("read 0 4k", "write 0 4k", "write -z 0 4k", "discard 0 4k")
    words = " ".join(f'-c "{command}"' for command in commands)
    done = serve(f"fail-{given}", script=f'qemu-io -f raw -d unmap {words} "$uri"', status=None)
    said = [line for line in (done.stdout + done.stderr).split("\n") if seen in line and "nbdkit:" not in line]
    assert len(said) == len(commands), done.stdout + done.stderr


# Goal: what cannot be opened is refused in one sentence that says what to do.
@pytest.mark.parametrize("name, sentence", [
    (f"open-{errno.EBUSY}", "is attached elsewhere: detach it there, or take it over with force=true"),
    ("nosuch", "there is no volume 'nosuch'; see: ashlar volume ls"),
    (f"open-{errno.ETIMEDOUT}", "cannot be attached: the stand-in says no")])
def test_what_cannot_be_opened_is_told(name, sentence):
    done = serve(name, script='nbdinfo "$uri"', status=None)
    assert done.returncode != 0
    assert sentence in done.stderr


# Goal: wrong parameters end nbdkit at once, with a line that names them.
@pytest.mark.parametrize("argv, sentence", [
    (["volume=" + "x" * 64], "a name has 1 to 63 bytes"), (["volume=mem", "colour=red"], "unknown parameter 'colour'"),
    (["volume=mem", "io_timeout=soon"], "write a duration like"), (["volume=a", "volume=b"], "given twice"),
    (["volume=mem", "addresses=tcp:h:1", "cluster=/etc/passwd"], "both cluster and addresses"),
    (["volume=mem", "cluster=/no/such/file"], "/no/such/file"), (["volume=mem", "force=perhaps"], "perhaps")])
def test_wrong_parameters_end_nbdkit(argv, sentence):
    done = serve(*argv, status=None)
    assert done.returncode != 0
    assert sentence in done.stderr


# Goal: the volume is the magic parameter; connections share one handle, which stays open in between and is closed at the end;
# the library is started after fork.
def test_connections_share_one_handle():
    io = 'qemu-io -f raw -c "write 0 64k" -c flush "$uri" && '
    counted = counters_after("mem", script=io * 3 + 'nbdcopy --connections=4 /dev/null null: && nbdinfo "$uri"')
    assert (counted["opens"], counted["closes"], counted["after_fork"]) == (1, 1, 1)
    assert counted["writes"] == 3
    assert counted["flushes"] >= 3


# Goal: volumes chosen by export name come and go with their connections.
def test_exports_by_name_are_closed_with_their_connections():
    one = 'qemu-io -f raw -c "write 0 4k" "nbd+unix:///{}?socket=$unixsocket" && '
    counted = counters_after(script=one.format("mem-a") + one.format("mem-b") + one.format("mem-a") + "true")
    assert (counted["opens"], counted["closes"]) == (3, 3)


# Goal: flags arrive: FUA, trim, zero with and without hole, force, read-only.
def test_flags_reach_the_library():
    script = ('qemu-io -f raw -d unmap -c "write -f 0 4k" -c "write -z 4k 4k" -c "write -z -u 8k 4k" -c "discard 12k 4k" '
              '-c "write -z -f 16k 4k" "$uri"')
    counted = counters_after("mem", "force=true", script=script)
    assert (counted["writes"], counted["trims"], counted["zeroes"]) == (1, 1, 3)
    assert counted["no_hole"] == 2, "without -u the space is kept"
    assert counted["fua"] >= 2
    assert counted["force"] == 1
    done = serve("-r", "mem", script='nbdinfo "$uri"')
    assert "is_read_only: true" in done.stdout


# Goal: a map of a whole disk is put together from many short answers. Method: the stand-in tells a mebibyte at once.
def test_extents_are_put_together():
    done = serve("mem", script='qemu-io -f raw -c "write 1000000 5000000" "$uri" >&2 && nbdinfo --map "$uri"')
    rows = [line.split()[:3] for line in done.stdout.strip().split("\n")]
    assert rows == [["0", "999424", "3"], ["999424", "5001216", "0"], ["6000640", "61108224", "3"]]


# Goal: names that no volume has, and none at all, are refused as exports.
def test_empty_export_name_is_refused():
    done = serve(script='nbdinfo "nbd+unix:///?socket=$unixsocket"', status=None)
    assert "no volume: ask for an export by the name of a volume" in done.stderr


# Goal: nbdkit knows what it loads, and its help tells every parameter.
def test_dump_and_help_tell_all():
    dumped = run("nbdkit", "--dump-plugin", PLUGIN, env=environment()).stdout
    assert "name=ashlar\n" in dumped and "thread_model=parallel\n" in dumped and "magic_config_key=volume\n" in dumped
    helped = run("nbdkit", PLUGIN, "--help", env=environment()).stdout
    for parameter in ("volume=", "cluster=", "addresses=", "io_timeout=", "open_timeout=", "force="):
        assert parameter in helped
