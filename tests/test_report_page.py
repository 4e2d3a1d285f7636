"""The page of the report: what it holds without scripts, and what a real browser makes of it."""

import html.parser
import json
import re

import browser as browsers
import pytest
from traces import Story, run_of

from unirun.report import drawing as drawings
from unirun.report.advice import advice
from unirun.report.drawing import drawing
from unirun.report.figures import figures
from unirun.report.markup import text
from unirun.report.page import page

EVIL = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'><svg onload=document.title='owned'>",
    "{{constructor}} ${document.title='owned'} `owned`",
    "<!--<script>",
    "]]> &amp; \u2028 \u202e \x00 \ud800",
]


def story_of(calls=60, names=("pkg.one", "pkg.two", "pkg.three")):
    story = Story()
    for n in range(calls):
        start = 1.0 + (n // 3) * 0.1
        what = "failed" if n % 20 == 19 else "finished"
        more = {"error": "ValueError"} if what == "failed" else {}
        name = names[n % len(names)]
        story.call(start, start + 0.08, worker=201 + n % 3, task=name, what=what, cpu=0.01, **more)
    return story


def page_of(story, name="run of mine"):
    run = run_of(story) if isinstance(story, Story) else story
    found = figures(run)
    return page(run, found, advice(run, found), name)


class Elements(html.parser.HTMLParser):
    """Every element, with its attributes; what scripts hold is no element."""

    def __init__(self, source):
        super().__init__()
        self.found = []
        self.texts = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


# -- without a browser ----------------------------------------------------------------------------


def test_the_page_asks_the_network_for_nothing():
    elements = Elements(page_of(story_of())).found
    wanted = {"src", "href", "action", "data", "srcset", "poster", "xlink:href"}
    assert [(tag, attrs) for tag, attrs in elements if wanted & attrs.keys()] == []
    assert {tag for tag, _ in elements} & {"link", "iframe", "object", "embed", "base"} == set()


def test_its_policy_lets_only_its_own_script_and_style_run():
    elements = Elements(page_of(story_of())).found
    (policy,) = (a["content"] for _, a in elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    handlers = [a for _, a in elements if any(key.startswith("on") or key == "style" for key in a)]
    assert handlers == []


@pytest.mark.parametrize("evil", EVIL)
def test_a_name_of_a_task_adds_no_element_wherever_it_is_shown(evil):
    plain = Elements(page_of(story_of(names=("a", "b")))).found
    source = page_of(story_of(names=(evil, "b")), name=evil)
    assert [tag for tag, _ in Elements(source).found] == [tag for tag, _ in plain]
    source.encode("utf-8")  # no half of a pair


def test_the_data_of_the_script_is_json_that_ends_no_element():
    source = page_of(story_of(names=EVIL))
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL
    )
    assert not set("<>&") & set(data)
    assert json.loads(data)["names"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&quot;&#x27;"),
        ("a\x00\x1b\u202eb", "a���b"),
        ("\ud800", "�"),
        ("x" * 1000, "x" * 299 + "…"),
    ],
)
def test_text_is_harmless_and_has_an_end(said, shown):
    assert text(said) == shown


def test_tables_and_figures_are_there_without_scripts():
    source = page_of(story_of())
    shown = " ".join(Elements(source).texts)
    for word in ("60", "pkg.one", "ValueError", "Slowest calls", "Where the time went", "pid 201"):
        assert word in shown
    assert source.count("<svg") >= 3


def test_every_call_is_drawn_once_and_no_two_of_a_row_overlap():
    story = story_of(300)
    story.call(40.2, 40.3, task="inner")
    story.call(40.1, 40.4, task="outer")
    run = run_of(story)
    columns = drawing(run, figures(run))["calls"]
    assert sorted(columns["number"]) == sorted(call.number for call in run.calls)
    ends = {}
    for n, start in enumerate(columns["start"]):
        row = columns["lane"][n], columns["level"][n]
        assert start >= ends.get(row, 0)
        ends[row] = start + columns["took"][n]
    assert set(columns["level"]) == {0, 1}


def test_of_too_many_calls_the_long_ones_and_the_failures_are_drawn(monkeypatch):
    monkeypatch.setattr(drawings, "MOST", 10)
    story = story_of(100)
    story.call(50.0, 60.0, task="long")
    run = run_of(story)
    data = drawing(run, figures(run))
    assert data["left_out"] == 91
    assert len(data["calls"]["start"]) == 10
    failed = sum(state != 0 for state in data["calls"]["state"])
    assert failed == 5
    assert max(data["calls"]["took"]) == pytest.approx(1e8)


# -- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def window():
    if reason := browsers.missing():
        pytest.skip(reason)
    with browsers.Browser() as window:
        yield window


@pytest.fixture
def shown(window, tmp_path):
    """Shows the page of a story; after the test, nothing has gone wrong in it."""

    def show(story, name="run of mine", **how):
        path = tmp_path / "run.html"
        path.write_text(page_of(story, name), encoding="utf-8")
        window.show(path, **how)
        return window

    window.errors.clear()
    window.requests.clear()
    yield show
    assert window.errors == []
    assert {url.partition(":")[0] for url in window.requests} == {"file"}


CANVAS = "document.getElementById('canvas')"


def place_of(window, number, lane=0):
    """Where a call of that row is on the screen, in its middle."""
    window.look("document.getElementById('view').scrollIntoView({block: 'center'})")
    box = json.loads(window.look(f"JSON.stringify({CANVAS}.getBoundingClientRect())"))
    left, right = (float(window.look(f"{CANVAS}.dataset.{side}")) for side in ("left", "right"))
    at = (number * 0.1 + 0.04) * 1e7
    x = 150 + (at - left) / (right - left) * (box["width"] - 150)
    return box["x"] + x, box["y"] + 22 + 5 + lane * 23 + 9


def test_the_timeline_is_drawn_and_says_of_a_call_what_is_known(shown):
    window = shown(story_of())
    assert window.look("document.documentElement.dataset.calls") == "60"
    assert int(window.look(f"{CANVAS}.dataset.drawn")) == 60
    colors = f"new Set({CANVAS}.getContext('2d').getImageData(160, 30, 600, 40).data).size"
    assert window.look(colors) > 5
    x, y = place_of(window, 4)
    window.mouse("mouseMoved", x, y)
    tip = window.look("document.getElementById('tip').innerText")
    assert "pkg.one" in tip
    assert "80 ms" in tip
    window.mouse("mouseMoved", 5, 5)
    assert window.look("document.getElementById('tip').hidden")


def test_the_timeline_zooms_moves_and_shows_all_again(shown):
    window = shown(story_of())

    def seen():
        window.frame()
        return [float(window.look(f"{CANVAS}.dataset.{side}")) for side in ("left", "right")]

    whole = seen()
    x, y = place_of(window, 10)
    window.mouse("mouseWheel", x, y, deltaX=0, deltaY=-500, modifiers=2)
    near = seen()
    assert near[1] - near[0] < 0.6 * (whole[1] - whole[0])
    window.mouse("mousePressed", x, y, button="left", clickCount=1)
    window.mouse("mouseMoved", x - 200, y, button="left", buttons=1)
    window.mouse("mouseReleased", x - 200, y, button="left", clickCount=1)
    moved = seen()
    assert moved[0] > near[0]
    assert moved[1] - moved[0] == pytest.approx(near[1] - near[0])
    window.look("document.querySelector('[data-do=all]').click()")
    assert seen() == pytest.approx(whole)


def test_a_slow_call_of_the_table_leads_to_its_place(shown):
    window = shown(story_of())
    window.look("document.querySelector('tr[data-call]').click()")
    window.frame()
    left, right = (float(window.look(f"{CANVAS}.dataset.{side}")) for side in ("left", "right"))
    assert right - left < 2e6


def test_tables_can_be_sorted(shown):
    window = shown(story_of())
    first = "document.querySelector('#tasks tbody th').textContent"
    window.look("document.querySelectorAll('#tasks thead th')[0].click()")
    one = window.look(first)
    window.look("document.querySelectorAll('#tasks thead th')[0].click()")
    assert {one, window.look(first)} == {"pkg.one", "pkg.two"}


def test_no_name_of_a_task_runs_as_a_script(shown):
    window = shown(story_of(names=EVIL), name=EVIL[0])
    x, y = place_of(window, 4)
    for lane in range(3):
        window.mouse("mouseMoved", x, y + 23 * lane)
        window.frame()
    assert "owned" not in window.look("document.title").replace(EVIL[0], "")
    assert window.look("document.querySelectorAll('img').length") == 0
    assert "<script>" in window.look("document.querySelector('h1').textContent")


def test_the_page_is_readable_without_scripts_and_in_the_dark(shown):
    back = "getComputedStyle(document.body).backgroundColor"
    light = shown(story_of(), scripts=False).look(back)
    assert "pkg.one" in shown(story_of(), scripts=False).look("document.body.innerText")
    visible = "document.getElementById('still').getBoundingClientRect().height > 20"
    assert shown(story_of(), scripts=False).look(visible)
    assert shown(story_of(), dark=True).look(back) != light


def test_a_hundred_thousand_calls_are_drawn_in_a_moment(shown):
    run = run_of(story_of(4))
    one = run.calls[0]
    for n in range(100_000 - len(run.calls)):
        start = 2.0 + (n // 4) * 1e-3
        lane = run.calls[n % 3].lane
        where = {"number": n + 10, "name": f"pkg.{n % 12}", "lane": lane}
        run.calls.append(one._replace(start=start, end=start + 8e-4, **where))
    window = shown(run)
    assert window.look("document.documentElement.dataset.calls") == "100000"
    took = "(() => { const t = performance.now(); dispatchEvent(new Event('resize'));"
    took += " return performance.now() - t; })()"
    assert min(window.look(took) for _ in range(5)) < 300  # ms; a tenth of that where it is quiet
    for _ in range(12):
        window.look("document.querySelector('[data-do=in]').click()")
    window.frame()
    assert 0 < int(window.look(f"{CANVAS}.dataset.drawn")) < 500


def test_a_run_without_calls_is_a_page_too(shown):
    window = shown(Story())
    assert "No call ran" in window.look("document.body.innerText")
