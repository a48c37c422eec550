"""What the pages say to type in a cluster, typed in one: install, look around, the kinds, upgrade, uninstall."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pages
from harness.binaries import client_path
from harness.images import REPOSITORY
from product_lab import CHART, DEFINITIONS

pytestmark = pytest.mark.node

FIRST = "docs/install.md"
# Images of tests are tagged by what is in them, and not with the chart's version.
PRELUDE = """
helm() {
  case "$1" in
    install) command helm "$@" --set-string image.tag="$TAG" ;;
    *) command helm "$@" ;;
  esac
}
"""


@pytest.fixture
def typed(product, tmp_path):
    """Types a block into a shell, in a checkout, with the command line on the PATH."""
    cluster = product.cluster
    repository, _, tag = cluster.image.rpartition(":")
    folders = [Path(sys.executable).parent, client_path("kubectl").parent, client_path("helm").parent]
    environment = {
        **os.environ,
        "PATH": ":".join([*map(str, folders), os.environ["PATH"]]),
        "KUBECONFIG": str(cluster.kubeconfig),
        "REPOSITORY": repository,
        "TAG": tag,
        "HOME": str(tmp_path),
    }
    for folder in ("charts", "crds"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    examples = [block for block in pages.blocks(REPOSITORY / "docs/sysctl-profiles.md") if block.language == "yaml"]
    (profile,) = [block for block in examples if yaml.safe_load(block.text).get("kind") == "SysctlProfile"]
    (tmp_path / "wider-ports.yaml").write_text(profile.text)

    def run(text):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", PRELUDE + text],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_newcomer_gets_through_all_pages_and_the_demo(product, demo, typed):
    if product.is_installed():
        product.uninstall()
    said = {}

    def type_in(blocks):
        for block in blocks:
            done = typed(block.script)
            said[block.text] = done.stdout + done.stderr
            assert done.returncode == block.exit_code, f"{block.page}:{block.line}\n{block.text}\n{said[block.text]}"

    everything = pages.that_run("cluster")
    # Its workloads are there already; the policy it brings is not, as it went with the definitions.
    product.cluster.kubectl("apply", "--server-side", "-f", str(CHART / "crds"))
    demo.start_workloads(product.cluster, product.cluster.image)
    type_in(block for block in everything if block.page == FIRST)
    type_in(block for block in everything if block.page != FIRST)
    demo.await_findings(product.cluster)
    shown = [
        line.strip() for line in demo.what_to_look_at(product.cluster).splitlines() if line.startswith("  kubectl")
    ]
    type_in(pages.Block("demo", "sh", "", line, 0) for line in shown if not line.endswith(" -w"))
    product.cluster.kubectl("delete", "namespace", demo.NAMESPACE, "--wait=false")
    type_in(pages.that_run("cluster, last"))
    (refused,) = [text for command, text in said.items() if "tcp_tw_recycle" in command]
    assert "4.12" in refused
    assert not product.is_installed()
    left = product.cluster.get("customresourcedefinitions")["items"]
    assert not {item["metadata"]["name"] for item in left} & set(DEFINITIONS)
