"""Each target on its seeds, and on what mutations make of them; `make fuzz` looks further, guided by coverage."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import targets

MUTATED = settings(
    max_examples=60,
    derandomize=True,  # the same inputs each time: what is not known yet is for `make fuzz` to find
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@st.composite
def mutated(draw, name):
    """A seed with pieces taken out, doubled, overwritten with words of the target or bytes, or put after another's."""
    text = draw(st.sampled_from(targets.seeds(name)))
    words = st.sampled_from(targets.words(name)) | st.binary(min_size=1, max_size=8)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 64)))
        kind = draw(st.sampled_from(["drop", "double", "insert", "overwrite", "truncate", "splice"]))
        if kind == "drop":
            text = text[:start] + text[end:]
        elif kind == "double":
            text = text[:end] + text[start:]
        elif kind == "insert":
            text = text[:start] + draw(words) + text[start:]
        elif kind == "overwrite":
            word = draw(words)
            text = text[:start] + word + text[start + len(word) :]
        elif kind == "truncate":
            text = text[:start]
        else:
            text = text[:start] + draw(st.sampled_from(targets.seeds(name)))[start:]
    return text[:8192]


@pytest.mark.parametrize("name", targets.NAMES)
def test_seeds_break_nothing(name):
    run = targets.harness(name)
    seeds = targets.seeds(name)
    assert len(seeds) >= 7
    for seed in seeds:
        run(seed)


@pytest.mark.parametrize("name", targets.NAMES)
def test_mutated_seeds_break_nothing(name):
    run = targets.harness(name)

    @MUTATED
    @given(mutated(name))
    def look(text):
        run(text)

    look()


@pytest.mark.parametrize("name", targets.NAMES)
def test_a_dictionary_has_words_as_libfuzzer_reads_them(name):
    words = targets.words(name)
    assert len(words) >= 20
    assert all(0 < len(word) <= 128 for word in words)
