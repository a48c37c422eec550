"""What tests on an API server share."""

import json

import pytest

from harness.errors import HarnessError


@pytest.fixture
def dry_run(control_plane, crds):
    """Ask the API server what it would do with an object: (accepted, what it answers)."""

    def ask(document):
        try:
            (made,) = control_plane.add(document, dry_run=True)
        except HarnessError as error:
            return False, str(error)
        return True, json.dumps(made)

    return ask
