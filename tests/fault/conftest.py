# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the fault tests: those of tests/integration, and a volume under load (load.py).

Tests marked `long` run only with --long, or where ASHLAR_LONG is set (tests/run --long).
"""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from load import SEED, Load, fixtures  # noqa: E402  pylint: disable=wrong-import-position

make_cluster = fixtures.make_cluster
cluster3 = fixtures.cluster3
pytest_runtest_makereport = fixtures.pytest_runtest_makereport


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", default=bool(os.environ.get("ASHLAR_LONG")),
                     help="the long fault tests, too")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes long; runs with --long")


def pytest_report_header():
    return f"fault tests: ASHLAR_TEST_SEED={SEED}"


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    short = [item for item in items if not item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=[item for item in items if item not in short])
    items[:] = short


@pytest.fixture
def load3(cluster3):
    return Load(cluster3)
