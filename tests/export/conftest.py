"""One small trained run, exported by the first command of docs/deploy.md."""

import exporting
import pytest
import small_run

from fasttrain.cli import main as cli


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with a run in runs/photos, whose images are padded: the most operators."""
    where = tmp_path_factory.mktemp("deploy")
    small_run.train(where / "runs" / "photos", fit="pad", amp="off")
    return where


@pytest.fixture(scope="session")
def run(world):
    return world / "runs" / "photos"


@pytest.fixture(scope="session")
def exported(world, run):
    """The folder that the page's first command wrote: all three formats, for images."""
    with pytest.MonkeyPatch.context() as patches:
        patches.chdir(world)
        assert cli.main(exporting.commands()[0]) == 0
    return run / "export"
