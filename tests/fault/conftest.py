# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the fault tests: those of tests/integration, and a volume under load (load.py)."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from load import Load, fixtures  # noqa: E402  pylint: disable=wrong-import-position

make_cluster = fixtures.make_cluster
cluster3 = fixtures.cluster3
pytest_runtest_makereport = fixtures.pytest_runtest_makereport


@pytest.fixture
def load3(cluster3):
    return Load(cluster3)
