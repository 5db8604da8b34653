"""What the three programs say and do: stories are told, masked, and compared with what was recorded.

A story (`tests/behaviour/stories.toml`) is a list of steps in an empty directory of its own. A step is a command
line as a user types it (`ffruntime classify cross.png`, with `< FILE` and `NAME=VALUE` in front as in a shell), or
a verb that prepares something (`@draw ring 7 ring.png`). After every command stand its exit code, its stdout, its
stderr (`!` in front) and the files that came, went or changed (`+`, `-`, `~`). A line of JSON is written out, one
line for each value. What differs from run to run or from machine to machine is masked
(`tests/behaviour/masks.toml`).

Commands run in this process, through `main()` of the three `cli` modules, which is all that is imported of the
programs here: whatever moves in them, this stays.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import click
import pictures
from filelock import FileLock
from PIL import Image
from safetensors.numpy import load_file, save_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TESTS = Path(__file__).parents[1]
FOLDER = TESTS / "behaviour"
EXPECTED = FOLDER / "expected"
FIXTURES = TESTS / "fixtures"
PROGRAMS = {"ffruntime": (), "ffexport": ("onnx", "spox"), "fftrain": ("torch", "rich")}  # and what each needs
TOLERANCE = 0.02  # relative, of numbers with a decimal point
MANY = 20  # objects in a list of JSON: of more than these the first one is written out
WIDTH = "110"
FORGOTTEN = (
    "FF_MODEL",
    "FF_STATE",
    "FF_DATA",
    "FF_TRUSTED",
    "RANK",
    "WORLD_SIZE",
)  # variables that would change what is said

Rule = dict[str, str]  # `old` -> `new`, in the stories that match `stories`


def read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text())


def stories() -> dict[str, list[str]]:
    """All stories: those of the file, and for each program one of the help of all its commands."""
    told = {story["name"]: story["steps"] for story in read_toml("stories.toml")["story"]}
    return {**{f"help-{name}": help_steps(name) for name in PROGRAMS}, **told}


def help_steps(program: str) -> list[str]:
    """`--help` of a program and of every command in it, as its command line object has them."""

    def below(command: click.Command, path: str) -> Iterator[str]:
        yield path
        if isinstance(command, click.Group):
            for name in sorted(command.commands):
                yield from below(command.commands[name], f"{path} {name}")

    return [f"{path} --help" for path in below(importlib.import_module(f"{program}.cli").cli, program)]


def reason_to_skip(story: str, steps: list[str]) -> str:
    """Why a story cannot be told on this machine, if it cannot."""
    if story.startswith("no-gpu") and find_library("cuda"):
        return "this machine has a CUDA driver"
    absent = sorted(name for name in needs(steps) if importlib.util.find_spec(name) is None)
    return f"{', '.join(absent)} is not installed" if absent else ""


def needs(steps: list[str]) -> set[str]:
    """The packages beyond ffruntime's own that a story needs; help needs none."""
    steps = [step for step in steps if not step.endswith("--help")]
    called = {word for step in steps for word in step.split()[:3]}
    return {package for program, packages in PROGRAMS.items() if program in called for package in packages}


def tell(steps: list[str], folder: Path) -> str:
    """Run the steps in `folder`, an empty directory, and say what happened, nothing masked yet but its path."""
    told = []
    with _prepared(folder):
        for step in steps:
            if step.startswith("@"):
                verb, *arguments = shlex.split(step[1:])
                VERBS[verb](*arguments)
                continue
            before = _files()
            told.append(f"$ {step}")
            told += _run(step)
            told += _changes(before, _files())
            told.append("")
    return "\n".join(told).replace(str(folder.resolve()), "<folder>")


def _forget_help(command: click.Command) -> None:
    """click remembers `--help` as its first caller had it, which may be another test that ran a command alone."""
    command._help_option = None
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        _forget_help(part)


def _run(step: str) -> list[str]:
    """Exit code, stdout and stderr of one command line."""
    words, variables, stdin = shlex.split(step), {}, b""
    while (match := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])) is not None:
        variables[match[1]] = match[2]
        words.pop(0)
    if "<" in words:
        stdin = Path(words.pop(words.index("<") + 1)).read_bytes()
        words.remove("<")
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    before = sys.argv, sys.stdin, dict(os.environ), sys.modules["__main__"].__package__
    sys.argv, sys.stdin = words, io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    sys.modules["__main__"].__package__ = None  # from which click would take the program's name
    os.environ.update(variables)
    code: object = "no exit"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program = importlib.import_module(f"{words[0]}.cli")
            _forget_help(program.cli)
            program.main()
    except SystemExit as done:
        code = done.code or 0
    except BaseException as error:
        code = f"traceback: {type(error).__name__}: {error}"
    finally:
        sys.argv, sys.stdin, environment, sys.modules["__main__"].__package__ = before
        os.environ.clear()
        os.environ.update(environment)
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    if "--help" in words:
        said[0] = _unwrapped(said[0])
    return [f"[exit {code}]", *_stdout(said[0].splitlines()), *(f"! {line}" for line in said[1].splitlines())]


def _stdout(lines: list[str]) -> list[str]:
    """The lines with JSON written out; of very many objects all but two are cut to their first two values."""
    written = [_written_out(line) for line in lines]
    objects = [index for index, rows in enumerate(written) if rows[0] == "json"]
    short = set(objects[2:]) if len(objects) > MANY else set()
    return [row for index, rows in enumerate(written) for row in (rows[:3] if index in short else rows)]


def _unwrapped(text: str) -> str:
    """A help text with every paragraph, and what is said of every option, in one line; examples are as they are."""
    lines: list[str] = []
    inside = ""  # how the paragraph began
    for line in text.splitlines():
        if not line.strip():
            inside = ""
        elif inside and (re.match(r" {12}", line) or not re.match(r"Examples|Options|Commands", inside)):
            lines[-1] += f"{'' if lines[-1].endswith('-') else ' '}{line.strip()}"
            continue
        else:
            inside = inside or line.strip()
        lines.append(line)
    return "\n".join(lines)


def _written_out(line: str) -> list[str]:
    """A line of JSON as a line for each value in it; any other line as it is."""
    try:
        value = json.loads(line)
    except ValueError:
        return [line.rstrip()]
    if not isinstance(value, dict | list):
        return [line]
    return ["json", *(f"  {row}" for row in _rows(value, ""))]


def _rows(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _rows(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], list):
        shape, inner = [], value
        while isinstance(inner, list):
            shape.append(len(inner))
            inner = inner[0] if inner else None
        yield f"{path}: array {shape} of {type(inner).__name__}"
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        if len(value) > MANY:
            yield f"{path}: {len(value)} of these"
        for index, item in enumerate(value if len(value) <= MANY else value[:1]):
            yield from _rows(item, f"{path}[{index}]")
    else:
        if path == "tensors":  # whose order `ffruntime export-state` leaves to chance
            value = sorted(value)
        yield f"{path}: {json.dumps(value, ensure_ascii=False)}"


@contextlib.contextmanager
def _prepared(folder: Path) -> Iterator[None]:
    """In `folder`, with an environment in which nothing is said that a user's own settings decide."""
    before, where = dict(os.environ), Path.cwd()
    torch = sys.modules.get("torch")  # whose threads `--threads` sets for the whole process
    threads = torch.get_num_threads() if torch else 0
    for name in FORGOTTEN:
        os.environ.pop(name, None)
    os.environ.update(COLUMNS=WIDTH, LINES="40", FF_DATA="no-data", NO_COLOR="1", TERM="dumb")
    os.chdir(folder)
    try:
        yield
    finally:
        _present()
        _unlock()
        if torch:
            torch.set_num_threads(threads)
        os.chdir(where)
        os.environ.clear()
        os.environ.update(before)


def _files() -> dict[str, tuple[int, int, int]]:
    """All files in the working directory, with what changes when one is written."""
    found = {}
    for file in sorted(Path().rglob("*")):
        if file.is_file():
            about = file.stat()
            found[file.as_posix()] = (about.st_mtime_ns, about.st_size, about.st_ino)
    return found


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What became of the files, but for SQLite's own, and for changes in a database, which opening it makes."""
    gone = [f"- {name}" for name in before if name not in after]
    come = [f"{'~' if name in before else '+'} {name}" for name in after if before.get(name) != after[name]]
    return [line for line in (*gone, *come) if not re.search(r"\.db-(wal|shm|journal)$|^~ .*\.db$", line)]


# Verbs.


def _bundle(target: str = "model.ff", name: str = "shapes") -> None:
    shutil.copytree(FIXTURES / f"{name}.ff", target)


def _draw(name: str, seed: str, target: str) -> None:
    pictures.write_png(Path(target), name, int(seed))


def _draw_all(name: str, first: str, count: str, folder: str) -> None:
    for seed in range(int(first), int(first) + int(count)):
        pictures.write_png(Path(folder) / f"{seed}.png", name, seed)


def _data_set(folder: str, *counts: str) -> None:
    parts = {part: int(count) for part, count in (text.split("=") for text in counts)}
    pictures.write_folder(Path(folder), parts)


def _copy(source: str, target: str) -> None:
    """Copy a file or a folder; one that is not here is taken from the repository."""
    path = Path(source) if Path(source).exists() else TESTS.parent / source
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy(path, target)


def _remove(path: str) -> None:
    if Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink()


def _write(path: str, *lines: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(f"{line}\n" for line in lines))


def _truncate(path: str, size: str) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(size)])


def _flip(path: str, offset: str) -> None:
    """Change one byte; from the end where the offset is negative."""
    data = bytearray(Path(path).read_bytes())
    data[int(offset)] ^= 0xFF
    Path(path).write_bytes(data)


def _set(path: str, field: str, value: str) -> None:
    """Change one field of a JSON file (`a/0/b`; a `~` in it is a slash); a value of `-` takes it away."""
    data = json.loads(Path(path).read_text())
    *parents, last = (name.replace("~", "/") for name in field.split("/"))
    place = data
    for name in parents:
        place = place[_key(place, name)]
    if value == "-":
        del place[_key(place, last)]
    else:
        place[_key(place, last)] = json.loads(value)
    Path(path).write_text(json.dumps(data))


def _key(place: Any, name: str) -> Any:
    return int(name) if isinstance(place, list) else name


def _edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text, f"{path}: no {old!r}"
    Path(path).write_text(text.replace(old, new))


def _image(kind: str, path: str) -> None:
    """A picture that is not as it should be."""
    if kind == "wide":
        Image.new("L", (20, 16)).save(path)
    elif kind == "blank":
        Image.new("L", (16, 16), 90).save(path)
    elif kind == "huge":  # few bytes, and pixels without end
        Image.new("1", (20_000, 20_000)).save(path)


def _falsify(bundle: str, file: str) -> None:
    """Change the largest numbers in a file of a bundle, and its hash in the manifest with it."""
    path = Path(bundle) / file
    tensors = load_file(path)
    save_file({n: t + 1 if t.dtype.kind == "f" else t for n, t in tensors.items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _set(f"{bundle}/manifest.json", f"files/{file}/sha256", json.dumps(digest))
    _set(f"{bundle}/manifest.json", f"files/{file}/size", str(path.stat().st_size))


def _overwrite(pattern: str) -> None:
    """Overwrite every file that matches, from its beginning, as a failing disk might."""
    for file in Path().glob(pattern):
        file.write_bytes(b"\xa5" * 512 + file.read_bytes()[512:])


def _remove_all(pattern: str) -> None:
    for file in list(Path().glob(pattern)):
        file.unlink()


ABSENT: dict[str, Any] = {}  # modules that are made absent, and what they were


def _absent(name: str) -> None:
    """From here to the story's end, nobody can import that package."""
    ABSENT[name] = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]


def _present() -> None:
    for name, module in ABSENT.items():
        del sys.modules[name]
        if module is not None:
            sys.modules[name] = module
    ABSENT.clear()


LOCKS: list[FileLock] = []


def _lock(path: str) -> None:
    LOCKS.append(FileLock(path, timeout=0))
    LOCKS[-1].acquire()


def _unlock() -> None:
    while LOCKS:
        LOCKS.pop().release()


VERBS: dict[str, Callable[..., None]] = {
    "bundle": _bundle,
    "draw": _draw,
    "draw-all": _draw_all,
    "data-set": _data_set,
    "copy": _copy,
    "remove": _remove,
    "mkdir": lambda path: Path(path).mkdir(parents=True),
    "write": _write,
    "absent": _absent,
    "edit": _edit,
    "image": _image,
    "falsify": _falsify,
    "overwrite": _overwrite,
    "remove-all": _remove_all,
    "lock": _lock,
    "unlock": _unlock,
    "truncate": _truncate,
    "flip": _flip,
    "set": _set,
}


# Comparing.


def apply(rules: list[Rule], story: str, text: str) -> str:
    """The text with every rule applied to each line, in their order, where its `stories` match the story's name."""
    for rule in rules:
        if re.fullmatch(rule.get("stories", ".*"), story):
            text = re.sub(rule["old"], rule["new"], text, flags=re.MULTILINE)
    return text


def masked(story: str, text: str) -> str:
    """The text without what differs from run to run; the space between columns is two blanks."""
    text = re.sub(r"(?<=\S) {2,}(?=\S)", "  ", text)
    return re.sub(r" +$", "", apply(read_toml("masks.toml")["mask"], story, text), flags=re.MULTILINE)


def renamed(story: str, text: str) -> str:
    """What was recorded, in the words of today."""
    return apply(read_toml("renames.toml").get("rename", []), story, text)


def expected(story: str) -> str:
    return (EXPECTED / f"{story}.txt").read_text()


NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?|-?\d+e[-+]?\d+")


def in_numbers_of(reference: str, text: str) -> str:
    """The text with the reference's number in place of every one that is as good as equal to it."""
    ours, theirs = text.splitlines(), reference.splitlines()
    shapes = [[NUMBER.sub("#", line) for line in lines] for lines in (theirs, ours)]
    for what, i1, i2, j1, _ in difflib.SequenceMatcher(a=shapes[0], b=shapes[1], autojunk=False).get_opcodes():
        if what == "equal":
            for i in range(i1, i2):
                ours[j1 + i - i1] = _near(theirs[i], ours[j1 + i - i1])
    return "\n".join(ours)


def _near(reference: str, line: str) -> str:
    wanted = iter(NUMBER.findall(reference))

    def choose(match: re.Match[str]) -> str:
        other = next(wanted)
        last = 10.0 ** -len(other.partition("e")[0].partition(".")[2])  # one unit in the last place printed
        if "e" in other:
            last *= 10.0 ** int(other.partition("e")[2])
        near = abs(float(match[0]) - float(other)) <= max(TOLERANCE * abs(float(other)), 1.01 * last)
        return other if near else match[0]

    return NUMBER.sub(choose, line)
