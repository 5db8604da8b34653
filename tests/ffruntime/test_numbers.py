"""Options and fields that are numbers take numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ffruntime.cli import cli
from ffruntime.command import Count, Number
from ffruntime.core.devices import load_profile, profiles_folder, read_toml
from ffruntime.core.errors import UsageError


def options(command: click.Command) -> Iterator[click.Parameter]:
    """Every option and argument of a command and those below it."""
    for one in getattr(command, "commands", {}).values():
        yield from options(one)
    yield from command.params


def test_every_number_option_takes_numbers_alone() -> None:
    kinds = {type(parameter.type) for parameter in options(cli)}
    assert kinds & {Count, Number}
    assert not kinds & {click.FloatRange, type(click.FLOAT), type(click.INT)}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("option", ["--tolerance", "--lr"])
def test_no_number_is_refused(option: str, value: str) -> None:
    result = CliRunner().invoke(cli, ["learn", option, value])
    assert result.exit_code == 2
    assert "no number to compute with" in result.output or "is not in the range" in result.output


def test_too_many_threads_are_refused() -> None:
    result = CliRunner().invoke(cli, ["classify", "--threads", "99999999999", "x.png"])
    assert result.exit_code == 2
    assert "too large" in result.output


@pytest.mark.parametrize(
    "text",
    ["x = nan", "x = [1.0, inf]", "x = { y = -inf }", "x = " + 5000 * "9", "x = " + 5000 * "[", "x = 1\nx = 2"],
)
def test_toml_that_holds_no_numbers_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_toml(tmp_path / "a.toml", dict)
    assert str(caught.value).startswith(f"{tmp_path / 'a.toml'}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_toml_as_windows_writes_it(encoding: str, tmp_path: Path) -> None:
    text = (profiles_folder() / "raspberry-pi-5.toml").read_text(encoding="utf-8")
    (tmp_path / "own.toml").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert load_profile(str(tmp_path / "own.toml")) == load_profile("raspberry-pi-5")
