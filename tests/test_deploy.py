"""What is deployed to devices: commands, options, users and folders of image and unit are there, and agree."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from commands import in_process_text

from ffruntime.cli import cli
from ffruntime.core.shipped import MODEL
from ffruntime.start import TERMINATED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy" / "ffruntime.service"
PROGRAM, STATE = "/opt/ffedge/bin/ffruntime", "/var/lib/ffedge"


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: the word of each, and what follows it."""
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest) for word, _, rest in (s.partition(" ") for s in lines if s and not s.startswith("#"))]


def settings() -> dict[str, list[str]]:
    """Of the unit: all values of each."""
    found = defaultdict(list)
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


@pytest.fixture
def image() -> dict[str, str]:
    """Of the Dockerfile's last stage: the last instruction of each word."""
    asked = instructions()
    last = max(index for index, (word, _) in enumerate(asked) if word == "FROM")
    return dict(asked[last:])


def assert_known(words: list[str]) -> None:
    """`ffruntime` has the command and its options."""
    command = cli.commands[words[0]]
    command.make_context(words[0], words[1:])


@pytest.mark.slow
def test_commands_of_the_image(image: dict[str, str]) -> None:
    assert json.loads(image["ENTRYPOINT"]) == ["ffruntime"]
    assert_known(json.loads(image["CMD"]))
    check = json.loads(image["HEALTHCHECK"].partition(" CMD ")[2])
    assert check[0] == "ffruntime"
    done = in_process_text(*check, env={"FF_MODEL": str(MODEL)})
    assert done.returncode == 0, done.stderr


def test_folders_and_users_of_the_image(image: dict[str, str]) -> None:
    made = image["RUN"]
    assert image["VOLUME"] == image["WORKDIR"] == STATE
    assert f"FF_STATE={STATE}/" in image["ENV"]
    assert f"useradd --system --uid {image['USER']} --home-dir {STATE} " in made
    assert int(image["USER"]) > 0
    inbox = json.loads(image["CMD"])[2]
    assert made.endswith(f" {STATE} {STATE}/{inbox}")
    assert image["COPY"] == "--from=build /opt/ffedge /opt/ffedge"


def test_what_the_image_is_built_of() -> None:
    """The wheel needs no more than `.dockerignore` lets through."""
    asked = instructions()
    assert ("COPY", ". /src") in asked
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        *wheel["packages"],
        *wheel["force-include"],
        "pyproject.toml",
        "LICENSE",
        project["project"]["readme"],
    }
    assert let_through == needed
    extras = dict(asked)["ARG"].removeprefix("EXTRAS=")
    assert extras in project["project"]["optional-dependencies"]


def test_commands_and_folders_of_the_unit(image: dict[str, str]) -> None:
    unit = settings()
    command = next(value for value in unit["Environment"] if "FF_COMMAND=" in value)
    words = shlex.split(command)[0].removeprefix("FF_COMMAND=").split()
    assert_known(words)
    assert words == json.loads(image["CMD"])
    assert unit["ExecStart"] == [f"{PROGRAM} $FF_COMMAND"]
    assert unit["ExecStartPre"] == [f"{PROGRAM} verify"]
    assert unit["WorkingDirectory"] == [STATE]
    assert unit["StateDirectory"] == ["ffedge ffedge/inbox"]
    assert f"FF_STATE={STATE}/model.state" in unit["Environment"]
    assert unit["User"] == unit["Group"] == ["ffedge"]


def test_how_the_unit_ends_and_starts_again() -> None:
    unit = settings()
    assert unit["SuccessExitStatus"] == [str(TERMINATED)]
    assert unit["Restart"] == ["always"]
    assert unit["ProtectSystem"] == ["strict"]


def test_systemd_finds_no_fault_in_it(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("no systemd-analyze here")
    there = tmp_path / UNIT.name
    there.write_text(UNIT.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true"), encoding="utf-8")
    done = subprocess.run([analyze, "verify", str(there)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    safe = [analyze, "security", "--offline=yes", "--threshold=10", "--no-pager", str(there)]  # of 100
    done = subprocess.run(safe, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
