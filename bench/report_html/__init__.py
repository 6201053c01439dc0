# SPDX-License-Identifier: Apache-2.0
"""The report of a head-to-head run: one HTML page without anything from outside, and its figures as SVG.

markup (elements that escape by themselves) -> drawing (scales, axes, colours) -> the charts (bars, lines, layers)
-> sections, sections_more (a heading, a figure, its table, its command) -> page (style and script around them).
figures and questions are pure: they turn results into compared numbers and into sentences.
"""
import os
import sys

# The modules of bench/ (verdict, cost_model) are programs' parts, not a package: they are found beside this folder.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
