"""The frame that all pages have shows what it is given, as text."""

import json
import re

import plotly.graph_objects as go

from tierd_bench.pages import Chart, Page, Table, Tile, render

ODD = "</script><!--<script>&"


def page_of(text: str) -> str:
    figure = go.Figure()
    figure.add_scatter(x=[1], y=[2], name=text)
    return render(
        Page(
            heading=text,
            subtitle=text,
            tiles=[Tile(text, text, text)],
            notes=[text],
            charts=[Chart(text, text, figure, text)],
            tables=[Table(text, [(text, text)], (text, text), text, colours={text: "#fff"})],
            footer=text,
        )
    )


def test_all_text_is_escaped_wherever_it_stands() -> None:
    odd, plain = page_of(ODD), page_of("zqx")
    assert ODD not in odd
    assert odd.count("</script>") == plain.count("</script>") == 2
    in_figures = 1
    assert odd.count("&lt;!--&lt;script&gt;&amp;") == plain.count("zqx") - in_figures


def test_a_figure_keeps_its_text_and_its_axes() -> None:
    match = re.search(r"^const figures = (.*);$", page_of(ODD), re.MULTILINE)
    assert match is not None
    [figure] = json.loads(match[1])
    assert figure["data"][0]["name"] == ODD
    assert {"xaxis", "yaxis"} <= figure["layout"].keys()


def test_what_looks_like_a_place_of_the_frame_is_text() -> None:
    assert "<h1>{{footer}}</h1>" in page_of("{{footer}}")
