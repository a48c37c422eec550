"""What programs show to Prometheus, held against the table of series and against Prometheus' own conventions."""

import shutil
import subprocess
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from harness import packages
from harness.plugin import skip_or_fail
from sockethealth_core.metrics import Program, Series, exposed_by

_OF_HISTOGRAM = ("_bucket", "_count", "_sum")


@dataclass(frozen=True)
class Shown:
    """One scrape, as text."""

    text: str

    @property
    def families(self):
        return {
            family.name + ("_total" if family.type == "counter" else ""): family for family in text_families(self.text)
        }

    def samples(self, series: Series):
        """Values of a series by its further labels: all but namespace, pod and node, in the table's order."""
        further = [label for label in series.labels if label not in ("namespace", "pod", "node")]
        return {
            tuple(sample.labels[label] for label in further): sample.value
            for sample in self.families[series.name].samples
        }

    def value(self, series: Series, **labels):
        """The one value with these labels, or None."""
        found = [
            sample.value
            for sample in self.families[series.name].samples
            if labels.items() <= sample.labels.items() and sample.name == series.name
        ]
        assert len(found) <= 1, f"{series.name}{labels}: {len(found)} samples"
        return found[0] if found else None


def scraped(registry: CollectorRegistry) -> Shown:
    """A scrape in the text format; that of OpenMetrics has to have the same families."""
    shown = Shown(generate_latest(registry).decode())
    other = [family.name for family in openmetrics_families(generate_openmetrics(registry).decode())]
    assert sorted(other) == sorted(family.name for family in shown.families.values())
    return shown


def assert_as_in_the_table(shown: Shown, program: Program, *, without: frozenset[Series] = frozenset()) -> None:
    """Every series of the program is there with samples, and nothing else: names, kinds, help texts and labels."""
    expected = {one.name: one for one in exposed_by(program) if one not in without}
    assert sorted(shown.families) == sorted(expected)
    for name, family in shown.families.items():
        series = expected[name]
        assert (family.type, family.documentation) == (series.kind, series.help)
        assert family.samples, f"{name} has no sample"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(series.labels), sample
            assert sample.name in ([name + part for part in _OF_HISTOGRAM] if series.kind == "histogram" else [name])


def lint(shown: Shown) -> None:
    """`promtool check metrics` has nothing to say."""
    if shutil.which("promtool") is None:
        why = packages.missing_sentence(packages.MONITORING)
        if why is not None:
            skip_or_fail(why)
        packages.ensure(packages.MONITORING)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=shown.text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
