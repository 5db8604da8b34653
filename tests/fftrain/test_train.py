"""Training runs: reproducible, and nothing lost when they end early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec import structs

from ffruntime.core.data import Examples
from ffruntime.core.errors import BundleError, StorageError, UsageError
from fftrain.checkpoint import checkpoint_path, read_checkpoint
from fftrain.clock import Costs, Limit, Watch, decision_time, free_share, steps_in_time
from fftrain.dataset import Dataset
from fftrain.epoch import epoch_batches
from fftrain.pack import pack_run
from fftrain.recipe import Recipe, load_recipe, with_epochs
from fftrain.run import Interrupted, Run, estimate, estimate_seconds, start, train
from fftrain.training import learning_rate

TINY = Path(__file__).parents[1] / "tiny.toml"


def never() -> bool:
    return False


def after(steps: int) -> Callable[[], bool]:
    """Ask to stop after so many steps."""
    asked = iter(range(steps - 1))
    return lambda: next(asked, None) is None


@pytest.fixture(scope="module")
def tiny_recipe() -> Recipe:
    """Half as wide: what is asked here has nothing to do with how well a network learns."""
    widths = {f"network.units.{unit}.ops.0.out": out for unit, out in enumerate((8, 16, 50))}
    return load_recipe(str(TINY), [*widths.items(), ("schedule.batch", 32)])


@pytest.fixture(scope="module")
def small(dataset: Dataset) -> Dataset:
    """320 training images: ten steps an epoch."""
    train_split = Examples(dataset.train.pixels[:320], dataset.train.labels[:320])
    validation = Examples(dataset.validation.pixels[:100], dataset.validation.labels[:100])
    return structs.replace(dataset, train=train_split, validation=validation)


def new_run(recipe: Recipe, small: Dataset, seed: int = 0) -> Run:
    return start(with_epochs(recipe, 2), small, seed, torch.device("cpu"), torch.float32)


def finish(run: Run, out: Path, resume: bool = False, stop: Callable[[], bool] = never) -> list[dict]:
    return [r.row for r in train(run, out, resume, stop) if r.row]


def same(one: Run, two: Run) -> bool:
    return all(torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())


@pytest.fixture(scope="module")
def whole(tiny_recipe: Recipe, small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[dict]]:
    """A run that nobody disturbed."""
    run = new_run(tiny_recipe, small)
    return run, finish(run, tmp_path_factory.mktemp("whole") / "model.ff")


@pytest.mark.slow
def test_same_seed_same_result(tiny_recipe: Recipe, small: Dataset, whole: tuple, tmp_path: Path) -> None:
    again, other = new_run(tiny_recipe, small), new_run(tiny_recipe, small, seed=1)
    assert finish(again, tmp_path / "a.ff") == whole[1]
    finish(other, tmp_path / "b.ff")
    assert same(again, whole[0])
    assert not same(other, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 7, 10, 11, 13])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    steps: int, tiny_recipe: Recipe, small: Dataset, whole: tuple, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        finish(new_run(tiny_recipe, small), tmp_path / "model.ff", stop=after(steps))
    resumed = new_run(tiny_recipe, small)
    rows = finish(resumed, tmp_path / "model.ff", resume=True)
    assert same(resumed, whole[0])
    assert rows == whole[1][-len(rows) :]


@pytest.mark.slow
def test_a_checkpoint_that_takes_long_waits_until_it_is_asked_for_or_the_end(
    tiny_recipe: Recipe, small: Dataset, whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time for it, none is written after an epoch; stopped there, nothing is lost."""
    monkeypatch.setattr("fftrain.run.CHECKPOINT_SHARE", 0.0)
    path = tmp_path / "model.ff"
    epochs_done = []
    for report in train(new_run(tiny_recipe, small), path, False, never):
        if report.row:
            epochs_done.append(read_checkpoint(checkpoint_path(path))[1].epoch)
    assert epochs_done == [0, 2]
    with pytest.raises(Interrupted):
        finish(new_run(tiny_recipe, small), path, stop=after(11))  # asked at the end of the first epoch
    assert read_checkpoint(checkpoint_path(path))[1].epoch == 1
    resumed = new_run(tiny_recipe, small)
    finish(resumed, path, resume=True)
    assert same(resumed, whole[0])
    assert resumed.history == whole[0].history


def test_reports_and_history(whole: tuple) -> None:
    row = whole[1][-1]
    assert row["epoch"] == 2
    assert len(row["loss"]) == len(row["discrimination_accuracy"]) == 3
    assert all(0.5 < a <= 1 for a in row["discrimination_accuracy"])
    assert set(row["validation"]) == {"goodness", "classifier"}


@pytest.mark.parametrize(
    ("change", "message"), [("seed", "another seed"), ("recipe", "another recipe"), ("classes", "another classes")]
)
def test_a_checkpoint_of_another_run_is_refused(
    change: str, message: str, tiny_recipe: Recipe, small: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        finish(new_run(tiny_recipe, small), tmp_path / "model.ff", stop=after(1))
    run = new_run(tiny_recipe, small, seed=int(change == "seed"))
    if change == "recipe":
        run.recipe = with_epochs(tiny_recipe, 9)
    if change == "classes":
        run.dataset = msgspec.structs.replace(small, classes=("a", "b"))
    with pytest.raises(UsageError, match=message):
        finish(run, tmp_path / "model.ff", resume=True)


@pytest.mark.parametrize("harm", ["truncated", "empty", "flipped header"])
def test_a_damaged_checkpoint_is_refused(harm: str, tiny_recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        finish(new_run(tiny_recipe, small), tmp_path / "model.ff", stop=after(1))
    file = checkpoint_path(tmp_path / "model.ff")
    data = file.read_bytes()
    file.write_bytes({"truncated": data[:-1], "empty": b"", "flipped header": data[:9] + b"\xff" + data[10:]}[harm])
    with pytest.raises(BundleError, match=r"model\.ff\.checkpoint: damaged checkpoint"):
        finish(new_run(tiny_recipe, small), tmp_path / "model.ff", resume=True)


def test_an_unwritable_place_is_said_before_the_work(tiny_recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run = new_run(tiny_recipe, small)
    with pytest.raises(StorageError, match="cannot be written"):
        next(iter(train(run, tmp_path / "file" / "model.ff", False, never)))


def test_batches_cover_the_epoch_without_repeating(tiny_recipe: Recipe, small: Dataset) -> None:
    noise = [batch.noise for batch in epoch_batches(small.train, tiny_recipe, 0, 0, skip=0)]
    assert sum(len(n) for n in noise) == 320
    assert len(torch.cat(noise).unique(dim=0)) == 320
    skipped = [batch.noise for batch in epoch_batches(small.train, tiny_recipe, 0, 0, skip=4)]
    assert all(torch.equal(a, b) for a, b in zip(noise[4:], skipped, strict=True))


def test_learning_rate_is_constant_then_falls_to_zero() -> None:
    assert [learning_rate(p, 0.5) for p in (0, 0.25, 0.5, 0.75, 1)] == [1, 1, 1, 0.5, 0]
    assert [learning_rate(p, 0.0) for p in (0, 0.25, 1)] == [1, 0.75, 0]


def test_an_estimate_leaves_the_run_untouched(tiny_recipe: Recipe, small: Dataset) -> None:
    run, untouched = new_run(tiny_recipe, small), new_run(tiny_recipe, small)
    assert estimate_seconds(run, estimate(run)) > 0
    assert same(run, untouched)
    assert not any(optimizer.state for optimizer in run.optimizers.values())


def cut(recipe: Recipe, small: Dataset, total: int | None) -> Run:
    """A run of so many steps; None: the clock decides."""
    run = new_run(recipe, small)
    run.total = total
    return run


def test_a_number_of_steps_ends_within_an_epoch(tiny_recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    """The learning rate falls to zero at the end of those steps, and the last row is of a part of an epoch."""
    run = cut(tiny_recipe, small, 13)
    rates = []

    def watched() -> bool:
        (group,) = run.optimizers["unit1"].param_groups
        rates.append(group["lr"] / group["base_lr"])
        return False

    rows = finish(run, tmp_path / "model.ff", stop=watched)
    per_step = rates[:10] + rates[11:14]
    assert per_step == [pytest.approx(learning_rate(step / 13, 0.5)) for step in range(13)]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (run.cut, run.epochs) == (13, 2)
    assert new_run(tiny_recipe, small).cut is None
    packed = pack_run(tmp_path / "model.ff", run, "tiny", "cpu", "fp32", {}).manifest
    assert packed.training.steps == 13
    assert packed.training.epochs == 2


def clock_of(seconds: float, most: int | None = None) -> Limit:
    return Limit(seconds, Costs(step=0.01, epoch=0.0, end=0.0), most)


@pytest.mark.slow
def test_what_the_clock_decides_is_repeated_by_its_steps(
    tiny_recipe: Recipe, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, also where the run was interrupted before the decision, or after it."""
    monkeypatch.setattr(Watch, "decide", lambda self, done: 17 if done >= 8 and self._limit else None)
    recipe = structs.replace(tiny_recipe, negatives=structs.replace(tiny_recipe.negatives, warmup=0.5))
    by_clock, repeated = cut(recipe, small, None), cut(recipe, small, 17)
    statuses = list(train(by_clock, tmp_path / "a.ff", False, never, clock_of(60)))
    assert {status.total for status in statuses} == {17}  # the first status comes later
    finish(repeated, tmp_path / "b.ff")
    assert same(by_clock, repeated)
    for steps in (4, 12):
        out = tmp_path / f"{steps}.ff"
        with pytest.raises(Interrupted):
            list(train(cut(recipe, small, None), out, False, after(steps), clock_of(60)))
        assert read_checkpoint(checkpoint_path(out))[1].total == (None if steps < 8 else 17)
        resumed = cut(recipe, small, None)
        list(train(resumed, out, True, never, clock_of(60)))
        assert resumed.total == 17
        assert same(resumed, repeated)
    with pytest.raises(UsageError, match="is of a run of 17 steps, not of 20"):
        finish(new_run(recipe, small), out, resume=True)


def test_the_clock_decides_once_from_the_steps_it_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 steps of 0.2 s, an epoch of 10 steps that takes 1 s besides: 300 s have time for 1,000 steps."""
    now = 1000.0
    monkeypatch.setattr("fftrain.clock.time.monotonic", lambda: now)
    limit = Limit(300.0, Costs(step=9.0, epoch=1.0, end=0.0))
    watch = Watch(limit, 0.5, 10, now, torch.device("cpu"))
    done, decided = 0, None
    while decided is None:
        if done % 10 == 0:
            watch.pauses()
            now += 1.0
        watch.steps()
        now += 0.2
        watch.stepped()
        done += 1
        decided = watch.decide(done)
    assert watch.seconds() == pytest.approx(60, abs=1.3)
    assert decided == pytest.approx(1000, abs=5)
    assert watch.decide(done) is None
    assert steps_in_time(limit, limit.costs, 299.0, 40, 10, 0.1) == 400  # those that are done have to be free


def test_when_the_clock_decides(tiny_recipe: Recipe, small: Dataset) -> None:
    """After a minute; sooner where the constant part, the first unit's turn or the warmup of that training ends."""
    network = new_run(tiny_recipe, small).network

    def share(constant: float, warmup: float, hard: float, order: str) -> float:
        schedule = structs.replace(tiny_recipe.schedule, constant=constant, order=order)
        negatives = structs.replace(tiny_recipe.negatives, warmup=warmup, hard=hard)
        return free_share(structs.replace(tiny_recipe, schedule=schedule, negatives=negatives), network)

    assert share(0.3, 0.1, 0.5, "together") == 0.1
    assert share(0.3, 0.1, 0.0, "together") == 0.3
    assert share(0.3, 0.0, 0.5, "together") == 0.3
    assert share(0.3, 0.2, 0.5, "sequential") == pytest.approx(0.1)
    assert decision_time(clock_of(900), 0.3) == 60
    assert decision_time(clock_of(120), 0.3) == pytest.approx(28.8)
    assert decision_time(clock_of(900), 0.0) == 0


def test_at_most_the_recipes_epochs(tiny_recipe: Recipe, small: Dataset, tmp_path: Path) -> None:
    """However much time there is; and with no time left, the run ends soon and is whole."""
    free = structs.replace(tiny_recipe, schedule=structs.replace(tiny_recipe.schedule, constant=0.0))
    run = cut(free, small, None)
    list(train(run, tmp_path / "a.ff", False, never, clock_of(3600, most=20)))
    assert (run.total, run.cut) == (20, None)
    late = cut(free, small, None)
    list(train(late, tmp_path / "b.ff", False, never, clock_of(0)))
    assert late.total == 1
