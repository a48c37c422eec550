"""The page: whole, self-contained, safe whatever things are called, and readable without pictures or scripts."""

import re
from base64 import b64encode
from hashlib import sha256
from itertools import combinations

import pytest

from report_page import Document
from sockethealth_cli.report import page
from sockethealth_cli.report.page import Other, Report
from unit.cli.builders import NOW, leaking, quiet
from unit.cli.report_builders import HOSTILE, hostile, of, running_out

LOADS = {"src", "srcset", "data", "poster", "background", "action", "formaction", "style", "xlink:href"}
COLOUR = re.compile(r"--([\w-]+): (#[0-9a-f]{6});")
AA_TEXT, AA_GRAPHICS = 4.5, 3.0
TEXTS = ("text", "quiet", "link", "limit")
GRAPHICS = (
    *("l0", "l1", "l2", "l3", "l4", "limit", "since", "critical", "warning", "info"),
    *(f"{state}-edge" for state in ("established", "time-out", "time-in", "close", "fin", "opening", "closing")),
)


def rendered(*incidents, **fields) -> str:
    return page.render(Report(incidents or (running_out(),), "Read by a test.", NOW + 500, **fields))


def test_it_is_well_formed_and_tells_the_incident_first():
    document = Document(rendered())
    (heading,) = [text for _, text in document.named("h2")]
    assert "EphemeralPortExhaustion in pod shop/cart-1" in heading
    assert document.text.index("uses 26,000 of 28,232") < document.text.index("What changed")
    headings = [text for _, text in document.named("h3")]
    assert headings[0] == "Findings over time"
    assert {"Sockets by state", "Local ports in use, by destination", "What changed", "Every finding"} <= set(headings)


def test_it_tells_what_helps_and_what_does_not_from_detector_and_runbook():
    text = Document(rendered()).text
    assert "Reuse connections:" in text
    assert "What does not help" in text
    assert "does not shorten TIME_WAIT" in text


def test_it_asks_nobody_for_anything():
    html = rendered()
    document = Document(html)
    for name, attributes, _ in document.elements:
        assert not LOADS & set(attributes), f"<{name}> would load something"
        assert not any(key.startswith("on") for key in attributes), f"<{name}> has a handler"
        if name not in {"a", "link"}:
            assert "href" not in attributes
    assert [one["href"] for one, _ in document.named("link")] == ["data:,"]
    for style in (text for _, text in document.named("style")):
        assert "@import" not in style
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", style))
    links = {str(one["href"]) for one, _ in document.named("a")}
    assert all(one.startswith(("#", "https://sockethealth.io/", "data:application/json;")) for one in links)


def test_its_policy_allows_its_own_style_and_script_and_nothing_else():
    document = Document(rendered())
    (policy,) = [one["content"] for one, _ in document.named("meta") if "http-equiv" in one]
    allowed = {directive.split()[0]: directive.split()[1:] for directive in str(policy).split(";") if directive.strip()}
    assert allowed["default-src"] == ["'none'"]
    for name, directive in (("style", "style-src"), ("script", "script-src")):
        ((_, text),) = document.named(name)
        assert allowed[directive] == [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"]
    assert set(allowed) == {"default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"}
    assert allowed["img-src"] == ["data:"]


def test_a_hostile_name_is_text_wherever_it_stands():
    html = rendered(hostile(), others=(Other(HOSTILE, HOSTILE),))
    assert "<img" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert html.count("</script>") == 1
    document = Document(html)
    assert "</script><img src=x onerror=alert(1)>\\x1b[31m\\u202e" in document.text
    assert len(document.named("script")) == 1
    assert not any("onerror" in attributes for _, attributes, _ in document.elements)


def test_the_data_is_in_it_for_other_programs():
    made = running_out()
    (data,) = Document(rendered(made)).data
    assert data["format"] == page.FORMAT
    assert data["subject"] == {"kind": "pod", "namespace": "shop", "name": "cart-1"}
    assert data["times"] == list(made.times)
    series = {one["key"]: one for one in data["series"]}
    assert max(series["sockets.timeWaitOutbound"]["values"]) == 26_000
    assert all(len(one["values"]) == len(data["times"]) for one in data["series"])
    assert [one["type"] for one in data["findings"]] == ["EphemeralPortExhaustion", "OutboundTimeWait"]


def test_names_of_series_are_unique_as_the_pictures_refer_to_them():
    keys = [one.key for one in running_out().series]
    assert len(keys) == len(set(keys))
    document = Document(rendered())
    numbers = {number for one, _ in document.named("figure") for number in str(one["data-series"]).split()}
    assert numbers <= {str(number) for number in range(len(keys))}


def test_ids_are_unique_and_every_reference_has_one():
    html = rendered(running_out(), of([quiet(), leaking(100)]))
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    labelled = {one for text in re.findall(r'aria-labelledby="([^"]*)"', html) for one in text.split()}
    assert labelled <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(ids)


def test_every_picture_has_words_and_its_numbers_as_a_table():
    document = Document(rendered())
    pictures = [one for one, _ in document.named("svg") if "chart" in str(one.get("class"))]
    assert pictures
    assert all(one["role"] == "img" for one in pictures)
    described = [text for _, text in document.named("desc")]
    assert any("TIME_WAIT, outbound: 0 at first, 26,000 at most, 26,000 at last." in text for text in described)
    tables = [one for one, _ in document.named("table") if "legend" in str(one.get("class"))]
    figures = document.named("figure")
    assert len(tables) == len(figures) - 1, "the findings have a list instead"


def test_a_long_story_has_all_looks_in_the_data_and_some_in_the_table():
    made = of([quiet()] * 1000, step=1.0)
    document = Document(rendered(made))
    assert len(document.data[0]["times"]) == 1000
    rows = [one for one, text in document.named("th") if one.get("scope") == "row" and text.startswith("20")]
    assert len(rows) == page.MOST_ROWS
    assert len(rendered(made)) < 400_000


def test_several_incidents_have_a_list_of_them_and_the_others_are_named():
    document = Document(
        rendered(running_out(), of([quiet()] * 2), others=(Other("network namespace host", "Healthy"),))
    )
    links = [one["href"] for one, _ in document.named("a") if str(one["href"]).startswith("#")]
    assert links == ["#incident-0", "#incident-1"]
    assert "network namespace host (Healthy)" in document.text
    assert "no rule found anything wrong" in document.text


def test_a_report_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        page.render(Report((), "", NOW))


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture(params=["light", "dark"])
def colours(request) -> dict[str, str]:
    """The colours of a scheme."""
    light, dark, *_ = page._asset("page.css").split(":root {")[1:]
    return dict(COLOUR.findall(light if request.param == "light" else dark))


def test_text_is_readable_in_both_schemes(colours):
    for name in TEXTS:
        for ground in ("page", "panel"):
            assert contrast(colours[name], colours[ground]) >= AA_TEXT, f"{name} on {ground}"
    for severity in ("critical", "warning", "info", "healthy"):
        assert contrast(colours[f"{severity}-text"], colours[severity]) >= AA_TEXT, severity


def test_shapes_stand_out_from_the_page_in_both_schemes(colours):
    for name in GRAPHICS:
        assert contrast(colours[name], colours["page"]) >= AA_GRAPHICS, name


def test_states_that_are_often_next_to_each_other_differ_in_lightness_and_not_in_colour_alone(colours):
    often = ("established", "time-out", "time-in", "close")
    for one, other in combinations(often, 2):
        assert contrast(colours[one], colours[other]) >= 1.2, f"{one} and {other}"
