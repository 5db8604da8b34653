"""Fields of a recipe set from the command line and in files that extend another recipe."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert, to_builtins

from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import UsageError
from fftrain.cli import cli
from fftrain.override import Override, parse_override, parse_value, set_fields
from fftrain.recipe import Recipe, load_recipe

LOADED = load_recipe("paper")
PAPER = to_builtins(LOADED)


def paper_with(*texts: str) -> Recipe:
    return load_recipe("paper", [parse_override(text) for text in texts])


def get(data: object, field: str) -> object:
    for name in field.split("."):
        data = data[int(name)] if isinstance(data, (list, tuple)) else data[name]  # type: ignore[index]
    return data


FIELDS = {
    "schedule.lr": st.floats(1e-6, 1.0),
    "schedule.batch": st.integers(1, 1000),
    "schedule.falls": st.sampled_from(["step", "epoch"]),
    "patterns.intensity": st.floats(0, 1),
    "network.units.1.ops.0.out": st.integers(1, 1000),
    "network.units.2.inputs.0.normalise": st.sampled_from(["none", "batch", "divisive"]),
    "network.units.0.scored": st.booleans(),
    "augment.flip": st.booleans(),
}


@pytest.mark.slow
@given(st.data(), st.lists(st.sampled_from(sorted(FIELDS)), unique=True))
def test_what_is_set_is_there_and_nothing_else_has_changed(data: st.DataObject, fields: list[str]) -> None:
    """Through the text of the command line, into the recipe; and back again, to the recipe as it was."""
    values = {field: data.draw(FIELDS[field]) for field in fields}
    texts = [
        f"{field}={str(value).lower() if isinstance(value, bool) else value}" for field, value in values.items()
    ]
    changed = to_builtins(paper_with(*texts))
    assert {field: get(changed, field) for field in fields} == values
    back: list[Override] = [(field, get(PAPER, field)) for field in fields]
    assert convert(set_fields(changed, back, Recipe), Recipe) == LOADED


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(["schedule.lr", "patterns.intensity"]), st.floats(0.01, 1))))
def test_the_last_one_counts_and_the_data_given_are_left_alone(overrides: list[Override]) -> None:
    before = to_builtins(LOADED)
    changed = set_fields(before, overrides, Recipe)
    assert before == PAPER
    assert changed == set_fields(before, dict(overrides).items(), Recipe)


@given(st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_toml_values_are_read_as_toml(value: float) -> None:
    assert parse_value(str(value).lower()) == value


@pytest.mark.parametrize("text", ["range", "a b", "1\nother = 2", "", "max_pool"])
def test_anything_else_is_a_string(text: str) -> None:
    assert parse_value(text) == text


def test_every_element_that_has_the_field() -> None:
    recipe = paper_with("network.units.*.ops.*.out=32")  # the ReLUs have none
    assert [unit.ops[0].out for unit in recipe.network.units] == [32, 32, 32]  # type: ignore[union-attr]


def test_a_table_sets_the_fields_it_names() -> None:
    recipe = paper_with("schedule={ epochs = 3, batch = 8 }")
    assert (recipe.schedule.epochs, recipe.schedule.batch, recipe.schedule.lr) == (3, 8, 5e-5)


def test_another_kind_begins_with_its_own_defaults() -> None:
    recipe = paper_with("loss.kind=ratio", "optimizer.kind=sgd", "optimizer.momentum=0.5", "patterns.kind=fourier")
    assert to_builtins(recipe.loss) == {"kind": "ratio", "alpha": 20.0}
    assert to_builtins(recipe.optimizer) == {"kind": "sgd", "momentum": 0.5, "weight_decay": 0.0}
    assert recipe.patterns == LOADED.patterns  # the kind it was
    assert (
        paper_with('loss={ alpha = 3, kind = "symmetric" }').loss
        == paper_with("loss.kind=symmetric", "loss.alpha=3").loss
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schedule.epoch=3", ("unknown field 'schedule.epoch'", "did you mean 'schedule.epochs'?")),
        ("lr=3", ("did you mean 'schedule.lr'?",)),
        ("network.unit.0.trained=true", ("did you mean 'network.units.0.trained'?",)),
        ("network.units.3.trained=true", ("unknown field", "network.units.2.trained", "network.units.*.trained")),
        ("network.units.0.ops.1.out=3", ("did you mean 'network.units.*.ops.*.out'?",)),
        ("schedule.lr.x=3", ("schedule.lr is a value",)),
        ("loss.momentum=3", ("unknown field 'loss.momentum'", "loss.theta")),
        ("loss.kind=rato", ("unknown kind 'rato'", "did you mean 'ratio'?")),
        ("schedule.batch=many", ("recipe paper", "Expected `int`, got `str`", "$.schedule.batch")),
        ("schedule.batch=0", ("`int` >= 1", "$.schedule.batch")),
        ("network.units=3", ("Expected `array`", "$.network.units")),
        ("network.units.0.ops.0.op=linear", ("missing required field `out`",)),
        ("schedule.lr", ("expected FIELD=VALUE",)),
        ("=3", ("expected FIELD=VALUE",)),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_field(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as raised:
        paper_with(text)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.slow
@given(st.text(alphabet="abcdelu.*01", max_size=20), st.sampled_from(["1", "x", "{}", "[]"]))
def test_any_field_at_all_is_set_or_refused_with_a_line(field: str, value: str) -> None:
    with suppress(UsageError):
        assert isinstance(paper_with(f"{field}={value}"), Recipe)


def extend(folder: Path, name: str, base: str, rest: str) -> str:
    (folder / name).write_text(f'extends = "{base}"\n{rest}')
    return str(folder / name)


def test_a_file_extends_a_shipped_recipe_and_another_file_that_one(tmp_path: Path) -> None:
    extend(
        tmp_path, "one.toml", "paper", 'about = "one"\n[set]\nschedule.lr = 1e-3\n"network.units.*.ops.0.out" = 8\n'
    )
    two = extend(tmp_path, "two.toml", "one.toml", 'about = "two"\n[set]\nschedule.batch = 10\n')
    texts = ("schedule.lr=1e-3", "network.units.*.ops.0.out=8", "schedule.batch=10", "about=two")
    assert load_recipe(two) == paper_with(*texts)
    assert load_recipe(two, [("schedule.batch", 20)]).schedule.batch == 20


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("[set]\nschedule.lr = 1\n", ("missing required field `about`",)),
        ('about = ""\n[schedule]\nlr = 1\n', ("unknown field `schedule`",)),
        ('about = ""\n[set]\nschedule.rl = 1\n', ("unknown field", "schedule.lr")),
        ('about = ""\n[set]\nschedule.lr = "fast"\n', ("Expected `float`", "$.schedule.lr")),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_name(rest: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = extend(tmp_path, "mine.toml", "paper", rest)
    with pytest.raises(UsageError) as raised:
        load_recipe(path)
    for word in ("mine.toml", *words):
        assert word in str(raised.value)


def test_loops_and_missing_files_are_refused(tmp_path: Path) -> None:
    extend(tmp_path, "a.toml", "b.toml", 'about = "a"\n')
    path = extend(tmp_path, "b.toml", "a.toml", 'about = "b"\n')
    with pytest.raises(UsageError, match=r"extends itself: b\.toml -> a\.toml -> b\.toml"):
        load_recipe(path)
    with pytest.raises(UsageError, match=r"c\.toml.*nothing\.toml.*No such file"):
        load_recipe(extend(tmp_path, "c.toml", "nothing.toml", 'about = "c"\n'))
    with pytest.raises(UsageError, match=r"d\.toml: unknown recipe 'papr': did you mean 'paper'"):
        load_recipe(extend(tmp_path, "d.toml", "papr", 'about = "d"\n'))


@pytest.mark.slow
def test_a_run_is_of_the_recipe_as_set(tmp_path: Path) -> None:
    """`fftrain mnist --set`: the bundle's manifest has the recipe as it was resolved."""
    tiny, out = str(Path(__file__).parents[1] / "tiny.toml"), tmp_path / "model.ff"
    command = ["mnist", "--offline", "--recipe", tiny, "--out", str(out), "--device", "cpu"]
    done = CliRunner().invoke(
        cli, [*command, "--epochs", "0", "--set", "schedule.lr=0.5", "--set", "augment.shift=1"]
    )
    assert done.exit_code == 0, done.output
    training = Bundle(out).manifest.training
    assert (training.recipe["schedule"]["lr"], training.recipe["augment"]["shift"]) == (0.5, 1)
    wrong = CliRunner().invoke(cli, [*command, "--set", "schedule.rl=1", "--force"])
    assert isinstance(wrong.exception, UsageError)
    assert "did you mean 'schedule.lr'" in str(wrong.exception)
