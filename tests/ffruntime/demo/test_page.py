"""One page and one picture, without anything from elsewhere."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ffruntime.demo.page import Scene, Table, lines_svg, page, picture

CHART = lines_svg("A <title>", "examples", {"one & all": [(0, 0.0), (5, 0.5), (10, 0.75)], "end": [(10, 1.0)]})
SCENE = Scene(
    "Digits & <others>",
    "what was done",
    {"ACC": "95 %"},
    [CHART],
    [("a 3", np.zeros((28, 28), np.uint8))],
    [Table("figures", ("task", "ACC"), (("0 1", "<99 %"),))],
)


def test_a_chart_is_well_formed_and_says_what_it_shows() -> None:
    svg = ElementTree.fromstring(CHART)
    said = svg.attrib["aria-label"]
    assert svg.attrib["role"] == "img"
    assert said == "A <title>, over examples: one & all: from 0.0 % to 75.0 %; end: from 100.0 % to 100.0 %"
    points = [tuple(map(float, point.split(","))) for point in svg.find("polyline").attrib["points"].split()]  # type: ignore[union-attr]
    assert points == sorted(points)  # to the right
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)  # and upwards
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0])


def test_a_chart_of_one_point() -> None:
    assert "nan" not in lines_svg("one", "tasks", {"end": [(5, 0.9)]})


@pytest.mark.parametrize("quick", [False, True])
def test_nothing_comes_from_elsewhere(quick: bool) -> None:
    html = page([SCENE], {"machine": "a <b>"}, quick)
    assert not re.search(r"https?:|//|@import|<script|<link|url\(", html)
    assert set(re.findall(r'src="([^"]{22})', html)) == {"data:image/png;base64,"}
    assert all('alt="' in tag for tag in re.findall(r"<img[^>]*>", html))
    assert "Digits &amp; &lt;others&gt;" in html
    assert "&lt;99 %" in html
    assert "a &lt;b&gt;" in html
    assert "prefers-color-scheme: dark" in html
    assert ("QUICK" in html) == quick


@pytest.mark.parametrize("quick", [False, True])
def test_the_picture_holds_every_chart(quick: bool) -> None:
    text = picture([SCENE, SCENE], quick)
    svg = ElementTree.fromstring(text)
    charts = svg.findall("{http://www.w3.org/2000/svg}svg")
    assert len(charts) == 2
    tops = [float(chart.attrib["y"]) for chart in charts]
    assert tops[1] - tops[0] == float(charts[0].attrib["height"])
    assert ("QUICK" in text) == quick
