"""A network in C, compiled for this machine under sanitizers, as a process to be spoken to: `chip.c` is its other
end. What the sanitizers find ends the process, and with it the test."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
from msgspec import structs

from ffexport.c.arena import Part, plan_arena
from ffexport.c.counting import Counting, counting
from ffexport.c.imprint import beginnings
from ffexport.c.int8 import calibrate
from ffexport.c.project import SOURCE_FOLDER as INCLUDE
from ffexport.c.project import SOURCES
from ffexport.c.tables import header, source
from ffruntime.core.architecture import Network
from ffruntime.core.bundle import CALIBRATION, Bundle
from ffruntime.core.data import Examples
from ffruntime.core.layers import tensors
from ffruntime.core.learning import ClassLoss, Learning
from ffruntime.core.manifest import GOLDEN, Manifest
from ffruntime.core.precision import Precision

SUPPORT = Path(__file__).parent
OWN = [file for file in SOURCES if file.parent == INCLUDE]  # without the examples
CLASSES = SUPPORT.parent / "fixtures" / "classes.ff"
COMPILER = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler: gcc, clang or cc")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
SANITIZED = ("-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
NAMES = re.compile(r"^    FF_(?:ERROR_)?([A-Z]+)", re.MULTILINE)
HEADER = next(file for file in SOURCES if file.name == "ffedge.h").read_text()
VERSION = int(HEADER.split("#define FF_VERSION ")[1].split()[0])  # of the tables
ERRORS = NAMES.findall(HEADER[HEADER.index("enum ff_error {") : HEADER.index("};")])  # in their order


def manifest_of(network: Network, classes: int, loss: ClassLoss | None = None) -> Manifest:
    """The fixture's manifest with another network of so many classes; without a loss it learns nothing."""
    whole, names = Bundle(CLASSES).manifest, tuple(f"class {label}" for label in range(classes))
    learning = Learning(loss) if loss else None
    return structs.replace(whole, network=network, classes=names, learning=learning, exit=None, statistics=None)


@functools.lru_cache(maxsize=2)
def _objects(flags: tuple[str, ...]) -> list[str]:
    """What is the same of all models, compiled once."""
    folder, objects = Path(tempfile.mkdtemp(prefix="ffedge-chip-")), list[str]()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in (*OWN, SUPPORT / "chip.c"):
        if file.suffix == ".c":
            objects.append(str(folder / f"{file.stem}.o"))
            compile_c([*flags, f"-I{INCLUDE}", "-c", str(file), "-o", objects[-1]])
    return objects


def compile_c(arguments: Sequence[str], compiler: str | None = COMPILER) -> None:
    """Run a C compiler; what it says is the failure's message."""
    assert compiler
    done = subprocess.run([compiler, *arguments], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


class Chip:
    """One network in C. Methods are the functions of ffedge.h; an error is its name without `FF_ERROR_`."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        weights: Mapping[str, np.ndarray],
        golden: Mapping[str, np.ndarray] | None = None,
        part: Part = "all",
        precision: Precision = "fp32",
        flags: tuple[str, ...] = SANITIZED,
        told: Counting | None = None,
        calibration: Examples[np.ndarray] | None = None,
    ) -> None:
        self.manifest, self.arena = manifest, plan_arena(manifest, part, precision)
        rows, units = manifest.network.label.patterns, len(manifest.network.units)
        if golden is None:
            images = np.zeros((1, *manifest.network.image.shape), np.uint8)
            golden = {"images": images, "goodness": np.zeros((1, rows, units)), "total": np.zeros((1, rows))}
        folder.mkdir(exist_ok=True)
        (folder / "model.h").write_text(header(manifest, self.arena, None))
        self.int8 = None
        if self.arena.int8_units:
            assert calibration
            self.int8 = calibrate(manifest.network, weights, calibration, self.arena.int8_units)
        begin = beginnings(manifest.network, weights, calibration) if calibration else None
        text = source(manifest, weights, golden, self.arena, precision, told, self.int8, begin)
        (folder / "model.c").write_text(text)
        program = folder / "chip"
        model = [f"-I{INCLUDE}", str(folder / "model.c"), *_objects(flags)]
        compile_c([*flags, *model, "-lm", "-o", str(program)])
        self._process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.begin(self.arena.learn_bytes) == "OK"

    @classmethod
    def of(
        cls,
        folder: Path,
        bundle: Bundle,
        part: Part = "all",
        precision: Precision = "fp32",
        flags: tuple[str, ...] = SANITIZED,
    ) -> Chip:
        """A bundle's."""
        golden, told, calibration = bundle.tensors(GOLDEN), counting(bundle), bundle.exemplars(CALIBRATION)
        return cls(folder, bundle.manifest, bundle.weights(), golden, part, precision, flags, told, calibration)

    def __enter__(self) -> Chip:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(20) == 0 or error

    def _ask(self, command: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(command)
        self._process.stdin.flush()

    def _bytes(self, count: int) -> bytes:
        assert self._process.stdout
        found = self._process.stdout.read(count)
        assert len(found) == count, "the process ended: a sanitizer says why on stderr"
        return found

    def _int(self) -> int:
        (value,) = struct.unpack("<i", self._bytes(4))
        return int(value)

    def _floats(self, *shape: int) -> np.ndarray:
        return np.frombuffer(self._bytes(4 * int(np.prod(shape))), "<f4").reshape(shape).copy()

    def _error(self) -> str:
        return ERRORS[self._int()]

    def begin(self, size: int, shift: int = 0, version: int = VERSION) -> str:
        """ff_init with an arena of `size` bytes, `shift` bytes beyond what malloc gave."""
        self._ask(b"i" + struct.pack("<iii", size, shift, version))
        return self._error()

    def settings(self, rate: float, momentum: float = 0.0, frozen: bool = False) -> None:
        self._ask(b"r" + struct.pack("<ffi", rate, momentum, frozen))
        self._int()

    def classify(self, image: np.ndarray) -> tuple[int, np.ndarray]:
        """Label, and the goodness of every row."""
        label, _, goodness = self._answer(b"c", image)
        return label, goodness

    def classify_exit(self, image: np.ndarray) -> tuple[int, int, np.ndarray]:
        """Label, how many units were computed, and the goodness of every row."""
        return self._answer(b"e", image)

    def _answer(self, command: bytes, image: np.ndarray) -> tuple[int, int, np.ndarray]:
        self._ask(command + image.astype(np.uint8).tobytes())
        assert self._error() == "OK"
        label, units = self._int(), self._int()
        return label, units, self._floats(self.manifest.network.label.patterns)

    def learn(self, image: np.ndarray, label: int) -> str:
        self._ask(b"l" + struct.pack("<i", label) + image.astype(np.uint8).tobytes())
        return self._error()

    def count(self, image: np.ndarray, label: int) -> str:
        self._ask(b"C" + struct.pack("<i", label) + image.astype(np.uint8).tobytes())
        return self._error()

    def new_replay(self, room: int, shift: int = 0, sector: int = 0, unit: int = 1) -> int:
        """A reservoir for so many images, empty; with a sector's size in flash. Returns its sectors there."""
        self._ask(b"P" + struct.pack("<iiii", room, shift, sector, unit))
        assert self._error() == "OK"
        return self._int()

    def learn_replayed(self, image: np.ndarray, label: int, others: int) -> str:
        self._ask(b"p" + struct.pack("<iiii", others, label, -1, 0) + image.astype(np.uint8).tobytes())
        return self._error()

    def offer(self, image: np.ndarray, label: int, operations: int = -1, part: int = 0) -> str:
        """ff_replay_offer, where power is lost after so many operations, `part` bytes into the next one."""
        self._ask(b"p" + struct.pack("<iiii", -1, label, operations, part) + image.astype(np.uint8).tobytes())
        return self._error()

    def rehearse(self, steps: int) -> str:
        self._ask(b"h" + struct.pack("<i", steps))
        return self._error()

    def replay_begin(self) -> str:
        """ff_replay_flash_begin, as when power is back."""
        self._ask(b"B")
        return self._error()

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and images of the reservoir."""
        self._ask(b"I")
        count, size = self._int(), int(np.prod(self.manifest.network.image.shape))
        rows = np.frombuffer(self._bytes(count * (size + 1)), np.uint8).reshape(count, size + 1)
        return rows[:, 0], rows[:, 1:].reshape(count, *self.manifest.network.image.shape)

    def new_class(self, name: str | bytes) -> tuple[str, int]:
        data = name.encode() if isinstance(name, str) else name
        self._ask(b"n" + struct.pack("<i", len(data)) + data)
        return self._error(), self._int()

    def save(self, calls: int = -1) -> tuple[str, bytes]:
        """Error and file; after so many calls the callback fails."""
        self._ask(b"s" + struct.pack("<i", calls))
        error = self._error()
        return error, self._bytes(self._int())

    def load(self, data: bytes, calls: int = -1) -> str:
        self._ask(b"L" + struct.pack("<ii", calls, len(data)) + data)
        return self._error()

    def new_flash(self, sector: int, unit: int) -> int:
        """Two empty slots, which are erased and programmed so many bytes at a time. Returns a slot's bytes."""
        self._ask(b"F" + struct.pack("<iii", sector, unit, self.arena.state_bytes))
        return self._int()

    def flash_save(self, operations: int = -1, part: int = 0) -> str:
        """ff_flash_save, where power is lost after so many operations, `part` bytes into the next one."""
        self._ask(b"S" + struct.pack("<ii", operations, part))
        return self._error()

    def flash_load(self) -> str:
        self._ask(b"R")
        return self._error()

    def scribble(self, offset: int, data: bytes) -> None:
        """Change what is in flash."""
        self._ask(b"X" + struct.pack("<ii", offset, len(data)) + data)
        self._int()

    def golden(self) -> tuple[str, float]:
        self._ask(b"g")
        return self._error(), float(self._floats(1)[0])

    def weights(self) -> dict[str, np.ndarray]:
        """The tensors that learn, by name."""
        own = sorted(
            (tensor for tensor in tensors(self.manifest.network) if tensor.name in self.arena.places),
            key=lambda tensor: tensor.name,
        )
        self._ask(b"w")
        return {tensor.name: self._floats(*tensor.shape) for tensor in own}

    def told(self) -> tuple[int, int, list[str]]:
        """Updates, examples, names of classes."""
        self._ask(b"t")
        classes, updates, examples = self._int(), self._int(), self._int()
        return updates, examples, [self._bytes(self._int()).decode() for _ in range(classes)]
