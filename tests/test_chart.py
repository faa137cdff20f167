"""Charts: pictures of numbers that are in no log."""

from pathlib import Path

import pandas as pd
import pytest

from nbtcp.trace.chart import bars, chart

SQUARES = pd.Series([1.0, 4.0, 9.0], index=[1, 2, 3])


def test_a_chart_has_a_line_for_each_series() -> None:
    picture = chart({"squares": SQUARES, "halves": SQUARES / 2}, "number", "size (B)")
    [ax] = picture.figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["squares"] == [[1, 1], [2, 4], [3, 9]]
    assert drawn["halves"] == [[1, 0.5], [2, 2], [3, 4.5]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("number", "size (B)")
    assert repr(picture) == "<chart of squares, halves>"
    assert picture.data[picture.data["line"] == "halves"]["y"].to_list() == [0.5, 2, 4.5]


def test_a_chart_for_xplot_has_its_lines_but_no_logarithms(tmp_path: Path) -> None:
    chart({"squares": SQUARES}, "number", "size (B)").save(tmp_path / "a.xpl")
    lines = (tmp_path / "a.xpl").read_text().splitlines()
    assert lines[3:7] == ["xlabel", "number", "ylabel", "size (B)"]
    assert lines[8:10] == ["line 1.000000000 1 2.000000000 4", "line 2.000000000 4 3.000000000 9"]
    with pytest.raises(ValueError, match="xplot draws lines over two linear axes"):
        chart({"a": SQUARES}, "x", "y", logarithmic=True).save(tmp_path / "b.xpl")


def test_the_columns_of_a_table_are_lines() -> None:
    picture = chart(pd.DataFrame({"a": SQUARES, "b": SQUARES}), "x", "y")
    assert len(picture.figure.axes[0].lines) == 2


def test_the_lines_differ_without_colour() -> None:
    lines = chart({"a": SQUARES, "b": SQUARES}, "x", "y").figure.axes[0].lines
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_axes_may_be_logarithmic_or_alike() -> None:
    [ax] = chart({"squares": SQUARES}, "x", "y", logarithmic=True).figure.axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    [ax] = chart({"squares": SQUARES}, "x", "y", square=True).figure.axes
    assert ax.get_aspect() == 1


def test_a_chart_of_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="nothing to plot: a chart is of one line or more"):
        chart({}, "x", "y")


def test_bars_say_their_values() -> None:
    picture = bars(pd.Series({"struct": 9.5, "scapy": 1487.0}), "time (µs)")
    [ax] = picture.figure.axes
    assert [bar.get_width() for bar in ax.patches] == [9.5, 1487.0]
    assert [text.get_text() for text in ax.texts] == ["9.5", "1,490"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["struct", "scapy"]
    assert repr(picture) == "<bars: struct 9.5, scapy 1,490>"
    assert picture.data["value"].to_list() == [9.5, 1487.0]


def test_no_bars_without_values() -> None:
    with pytest.raises(ValueError, match="nothing to plot: there are no bars without values"):
        bars(pd.Series(dtype=float), "time")
