"""Files of a checkpoint folder that are damaged, or are not what their name says."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spatten.host.models.checkpoint import load
from spatten.host.models.checkpoint_files import INDEX, WEIGHTS, read_json, read_object
from tests.host.models.test_checkpoint import BERT_CONFIG, GPT2_CONFIG, says, write, write_raw

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db\n"
    b"size 90868376\n"
)
KINDS = {"config.json": "JSON", "model.safetensors": "safetensors", "tokenizer.json": "tokenizer"}


def zipped(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"")
    return path.read_bytes()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (POINTER, "it is a Git LFS pointer, which stands for the real file: run `git lfs pull` in the folder's repos"),
        (b"/annex/objects/SHA256E-s9--1f.safetensors\n", "it is a git-annex pointer: run `git annex get` on it"),
        (b"\n<!DOCTYPE html>\n<html>", "it is a web page: the download failed, repeat it"),
        (b"<HTML>", "it is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "it is a web page"),
        (zipped, "it is a ZIP archive, as PyTorch writes: convert it with transformers"),
        (pickle.dumps({"a": 1}), "it is a Python pickle, as PyTorch writes: convert it with transformers"),
        (gzip.compress(b"{}"), "it is compressed by gzip: run `gunzip` on it"),
        (b"GGUF\x03\0\0\0", "it is a GGUF file of llama.cpp"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, as TensorFlow writes"),
        (b"", "it is empty"),
    ],
    ids=["lfs", "annex", "html", "HTML", "xml", "zip", "pickle", "gzip", "gguf", "hdf5", "empty"],
)
def test_another_kind_of_file(tmp_path: Path, name: str, content: bytes | Callable[[Path], bytes], reason: str) -> None:
    path = write(tmp_path / "model", GPT2_CONFIG) / name
    path.write_bytes(content if isinstance(content, bytes) else content(tmp_path / "archive"))
    with says(f"{path} is not a {KINDS[name]} file: {reason}") as caught:
        load(path.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer_config.json",
        "modules.json",
        "1_Pooling/config.json",
        "2_Normalize/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    ],
)
def test_a_pointer_in_place_of_a_file_that_may_be_absent(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, BERT_CONFIG)
    types = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in types]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}", encoding="utf-8")
    load(folder)
    (folder / name).write_bytes(POINTER)
    with says(f"{folder / name} is not a JSON file: it is a Git LFS pointer"):
        load(folder)


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_in_place_of_a_file(tmp_path: Path, name: str) -> None:
    (write(tmp_path, GPT2_CONFIG) / name).unlink()
    (tmp_path / name).mkdir()
    with says(f"{tmp_path / name} must be a file, not a folder"):
        load(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GPT2_CONFIG)
    whole = Path.open

    def denied(path: Path, *args: Any, **more: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *args, **more)

    monkeypatch.setattr(Path, "open", denied)
    with says(f"{tmp_path / name} cannot be read: Permission denied"):
        load(tmp_path)


# -- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": [-Infinity]}', "-Infinity is not a JSON number"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' is given twice"),
        (b'{"a": {"b": 1, "b": 2}}', "the key 'b' is given twice"),
        (b'{"a": 1,}', "Expecting property name"),
        (b'{"a": 1', "Expecting ',' delimiter"),
        (b'{"a": 1} {', "Extra data"),
        ('{"a": "é"}'.encode("latin-1"), "'utf-8' codec can't decode"),
        ('{"a": 1}'.encode("utf-16"), "'utf-8' codec can't decode"),
        (b"[" * 100000, "maximum recursion depth exceeded"),
    ],
)
def test_what_is_not_json(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with says(f"{path} is not a JSON file: {reason}"):
        read_json(path)


@pytest.mark.parametrize(("content", "kind"), [(b"[]", "list"), (b"null", "NoneType"), (b'"a"', "str"), (b"1", "int")])
def test_what_is_not_an_object(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with says(f"{path} must hold a JSON object, not {kind}"):
        read_object(path)


def test_a_byte_order_mark_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"a": "é"}', encoding="utf-8-sig")
    assert read_object(path) == {"a": "é"}


# -- Weights ----------------------------------------------------------------------------------------------------------


def test_weights_that_are_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path, GPT2_CONFIG) / WEIGHTS
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    for size, reason in (
        (len(content) - 1, f"its tensors must end at byte {len(content)}, and the file has {len(content) - 1}: it is"),
        (start, f"its tensors must end at byte {len(content)}, and the file has {start}: it is cut short"),
        (start - 1, f"its header must end at byte {start}, and the file has {start - 1}: it is cut short"),
        (8, f"its header must end at byte {start}, and the file has 8: it is cut short"),
        (3, "its header must end at byte "),
    ):
        path.write_bytes(content[:size])
        with says(f"{path} is not a safetensors file: {reason}"):
            load(tmp_path)


@pytest.mark.parametrize("header", [b"[]", b"{", b"{}}", b'{"a": 1}', b'{"a": {"data_offsets": "x"}}', b'{"a": {}}'])
def test_a_header_that_is_none(tmp_path: Path, header: bytes) -> None:
    path = write(tmp_path, GPT2_CONFIG) / WEIGHTS
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with says(f"{path} is not a safetensors file: "):
        load(tmp_path)


def shard(folder: Path) -> dict[str, str]:
    """Store a checkpoint's weights in two files; what its index says."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    where = {}
    for part, some in enumerate((names[:9], names[9:])):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in some}, folder / file)
        where |= dict.fromkeys(some, file)
    index(folder, where)
    return where


def index(folder: Path, where: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}), encoding="utf-8")


def test_weights_in_several_files(tmp_path: Path) -> None:
    expected = load(write(tmp_path, GPT2_CONFIG)).tensors
    where = shard(tmp_path)
    found = load(tmp_path).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)

    # bfloat16, which is read at its place in its own file
    second = tmp_path / "model-00002-of-00002.safetensors"
    upper = {name: (t.view(np.uint32) >> 16).astype(np.uint16) for name, t in load_file(second).items()}
    write_raw(second, "BF16", upper)
    found = load(tmp_path).tensors
    for name, file in where.items():
        np.testing.assert_allclose(found[name], expected[name], rtol=2**-7 if file == second.name else 0)


def test_an_index_and_files_that_do_not_agree(tmp_path: Path) -> None:
    write(tmp_path, GPT2_CONFIG)
    where = shard(tmp_path)
    first, second = sorted(set(where.values()))
    for wrong in ({}, [], None, {"wte.weight": 1}):
        index(tmp_path, wrong)
        with says(f"{tmp_path / INDEX}: weight_map must be an object of file names by tensor name"):
            load(tmp_path)
    for outside in ("../model.safetensors", "/model.safetensors", "a/b.safetensors"):
        index(tmp_path, where | {"wte.weight": outside})
        with says(f"{tmp_path / INDEX}: weight_map must name files in its own folder, not {outside!r}"):
            load(tmp_path)
    index(tmp_path, where | {"more.weight": first})
    with says(f"{tmp_path / INDEX}: more.weight must be in {first}, and is not"):
        load(tmp_path)
    index(tmp_path, where | {"wte.weight": first})
    with says(f"{tmp_path / INDEX}: wte.weight must be in {first}, and is not"):
        load(tmp_path)
    index(tmp_path, {name: file for name, file in where.items() if name != "wte.weight"})
    with says(f"{tmp_path / INDEX}: weight_map must name every tensor; wte.weight is missing"):
        load(tmp_path)
    index(tmp_path, where)
    save_file(load_file(tmp_path / first) | {"wte.weight": np.zeros(3, np.float32)}, tmp_path / first)
    with says(f"wte.weight is in two files: {tmp_path / first} and {tmp_path / second}"):
        load(tmp_path)
    (tmp_path / second).write_bytes(POINTER)
    with says(f"{tmp_path / second} is not a safetensors file: it is a Git LFS pointer"):
        load(tmp_path)
    (tmp_path / second).unlink()
    with says(f"{tmp_path / second} is missing: {INDEX} names it"):
        load(tmp_path)
