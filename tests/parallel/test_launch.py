"""torchrun's environment is read whole or not at all, and a batch is shared equally or refused."""

import pytest

from fasttrain.errors import UsageError
from fasttrain.loaders.build import evaluation_batch
from fasttrain.parallel import launch

SET = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "there",
    "MASTER_PORT": "29500",
}


def test_without_torchrun_a_process_is_alone():
    assert launch.place({"MASTER_ADDR": "left over"}) == launch.Place()


def test_under_torchrun_it_knows_its_place():
    here = launch.place(SET)
    assert (here.rank, here.world, here.node, here.address) == (3, 4, 2, "there:29500")


@pytest.mark.parametrize("name", SET)
def test_a_variable_that_is_missing_is_named(name):
    environment = {key: value for key, value in SET.items() if key != name}
    with pytest.raises(UsageError, match=rf"^{name} \(not set\): (RANK|WORLD_SIZE) is"):
        launch.place(environment)


@pytest.mark.parametrize(("name", "value"), [("RANK", "4"), ("LOCAL_RANK", "2"), ("RANK", "-1")])
def test_a_rank_outside_the_world_is_named(name, value):
    with pytest.raises(UsageError, match=rf"^{name} \({value}\)"):
        launch.place({**SET, name: value})


@pytest.mark.parametrize(
    ("batch", "world", "words"),
    [(500, 3, "Nearest: 498 or 501."), (2, 3, "Nearest: 3."), (128, 6, "Nearest: 126 or 132.")],
)
def test_a_batch_that_does_not_divide_is_refused_with_those_that_do(batch, world, words):
    with pytest.raises(UsageError, match=words):
        launch.local_batch(batch, world)
    assert launch.local_batch(batch * world, world) == batch


def test_parts_that_would_not_be_equal_are_refused():
    assert launch.local_batch(128, 2, parts=4) == 64
    with pytest.raises(UsageError, match=r"--accumulate \(4\): does not divide the 6 images in"):
        launch.local_batch(12, 2, parts=4)
    assert launch.local_batch(12, 1, parts=4) == 12  # the control
    with pytest.raises(UsageError, match=r"--accumulate \(5\): does not divide the 12 images in a"):
        launch.local_batch(12, 1, parts=5)


@pytest.mark.parametrize("world", range(1, 10))
@pytest.mark.parametrize("most", [1, 3, 250, 1000])
def test_all_processes_have_the_same_number_of_test_batches(world, most):
    for count in (*range(world, 60), 1000, 9999, 10_000):
        size = evaluation_batch(count, world, most)
        sizes = [(rank + 1) * count // world - rank * count // world for rank in range(world)]
        assert len({-(-each // size) for each in sizes}) == 1, count
    assert evaluation_batch(10_000, 1, most) == most
    with pytest.raises(UsageError, match="fewer test images"):
        evaluation_batch(world - 1, world, most)
