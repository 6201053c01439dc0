# SPDX-License-Identifier: Apache-2.0
"""The rules of tests/tidy. A module's RULES maps a rule's name to (what it says, check); a check
takes the Tree and yields (path, line, message)."""
