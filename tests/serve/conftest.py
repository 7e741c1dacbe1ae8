"""One small trained run for every test of this room."""

import pytest

from tests import small_run


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a-secret-place"
    small_run.train(path)
    return path
