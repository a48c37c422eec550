import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sockethealth_cli import top_view
from sockethealth_cli.top_state import Samples, View, row_of
from unit.cli.builders import NOW, closing_first, exhausted, judged, leaking, quiet

FACTS = st.sampled_from([quiet(), exhausted(), leaking(comm="\x1b[31mred"), closing_first(), quiet(10**7)])


def samples_of(*pairs) -> Samples:
    rows = [row_of(judged(name, facts)) for name, facts in pairs]
    return Samples().followed_by(rows, NOW).followed_by(rows, NOW + 2)


def shown(samples: Samples, view: View, width: int = 80, height: int = 24, notes=()) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, highlight=False, markup=False, emoji=False)
    console.print(top_view.frame(samples, view, notes, width, height).body)
    return file.getvalue().splitlines()


@given(
    st.dictionaries(st.from_regex(r"[a-z0-9]{1,63}", fullmatch=True), FACTS, max_size=40),
    st.sampled_from(["table", "details", "help", "delay"]),
    st.sampled_from(["P", "T", "C", "E", "N"]),
    st.integers(80, 200),
    st.integers(10, 60),
)
def test_every_screen_fits_the_terminal_and_shows_no_control_character(pairs, screen, sort, width, height):
    samples = samples_of(*pairs.items())
    lines = shown(samples, View(screen=screen, sort=sort, selected=min(pairs, default=None)), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert all(char.isprintable() for line in lines for char in line)


def test_the_table_has_numbers_history_and_finding():
    header, *rows = shown(samples_of(("web", exhausted(used=25_409)), ("calm", quiet())), View())[1:4]
    assert header.split() == ["NETNS", "PORTS", "TIME-W", "CLOSE-W", "ESTAB", "NEW/S", "HISTORY", "FINDING"]
    assert rows[0].split() == ["web", "90%", "25409", "0", "0", "0", "██", "EphemeralPortExhaustion"]
    assert rows[1].split() == ["calm", "-", "0", "0", "3", "0", "▁▁", "-"]


def test_the_first_line_counts_by_health():
    assert "2 netns: 1 Critical, 1 Healthy" in shown(samples_of(("web", exhausted()), ("calm", quiet())), View())[0]


def test_a_pause_is_told():
    assert "PAUSED" in shown(samples_of(("calm", quiet())), View(paused=True))[0]


def test_what_could_not_be_read_is_told_under_the_first_line():
    note = "3 further network namespaces could not be read: run with sudo"
    assert shown(samples_of(("calm", quiet())), View(), notes=[note])[1].rstrip() == note


def test_details_end_where_they_end_however_far_they_are_scrolled():
    samples = samples_of(("web", exhausted()))
    view = View(screen="details", selected="web", scroll=10**6)
    frame = top_view.frame(samples, view, (), 80, 20)
    assert 0 < frame.scroll < 100
    assert "more lines" not in "".join(shown(samples, view, height=20))
    assert "more lines below" in "".join(shown(samples, View(screen="details", selected="web"), height=20))


def test_help_fits_a_terminal_of_24_lines():
    assert "more lines" not in "".join(shown(Samples(), View(screen="help")))


def test_a_batch_is_not_cut_at_the_height_of_a_terminal():
    samples = samples_of(*((f"n{number:03}", quiet()) for number in range(150)))
    file = io.StringIO()
    Console(file=file, width=100).print(top_view.batch(samples, View(), (), 100))
    assert len(file.getvalue().splitlines()) == 152
