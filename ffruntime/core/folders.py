"""What the names in a folder of pictures say: a class, a part of a data set, or what programs leave behind."""

from __future__ import annotations

import re
import unicodedata

# Words for the parts of a data set. Two programs mean different parts by UNCLEAR ones.
UNCLEAR = "unclear"
PARTS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "validating", "dev", "devel"), "validation"),
    **dict.fromkeys(("test", "tests", "testing", "tst", "holdout"), "test"),
    **dict.fromkeys(("eval", "evaluate", "evaluation"), UNCLEAR),
}
# Words beside them that change nothing: `train_set`, `test-images`, `seg_train`, `val2017`.
BESIDE = frozenset(
    {"set", "data", "dataset", "images", "imgs", "pictures", "photos", "split", "folder", "part", "seg"}
)

# Folders that no person made for a class: of network storage, operating systems and desktops, version control and
# notebooks, and those in which data sets keep what is said of the pictures. In lower case.
LEFT_BEHIND = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@recycle", "@recently-snapshot"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "lost+found"),
        *("__macosx", "__pycache__", "network trash folder", "temporary items"),
        *("annotation", "annotations", "metadata", "bounding_boxes", "bboxes"),
        *("segmentation_masks", "trimaps", "xmls"),
    }
)


def class_name(name: str) -> str:
    """The name of a class as it is written everywhere: composed (Unicode's NFC), without blanks around it."""
    return unicodedata.normalize("NFC", name).strip()


def is_hidden(name: str) -> bool:
    """Whether programs do not show a file or folder of that name."""
    return name.startswith(".") or name == "__MACOSX"  # which macOS adds to what it packs


def is_left_behind(name: str) -> bool:
    """Whether a folder of that name is most likely no class."""
    return name.casefold() in LEFT_BEHIND


def part_of(name: str) -> str | None:
    """The part of a data set that a folder's name says, or `UNCLEAR`; None where it says none."""
    words = [word for word in re.findall(r"[^\W\d_]+", name.casefold()) if word not in BESIDE]
    if len(words) != 1:
        return None
    word = words[0]
    for beside in ("set", "data", "images"):
        if word not in PARTS:
            word = word.removesuffix(beside)
    return PARTS.get(word)
