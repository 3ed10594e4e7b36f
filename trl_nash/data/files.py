# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Which files become datasets. The ending says how a file is read, in any case, and behind it `.gz` or `.zst` may stand.

Training reads files through `datasets`, which keeps them on the disk; `trl-nash judge` reads rows as they are.
"""

import csv
import glob
import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO


ENCODING = "utf-8-sig"  # UTF-8, with or without the mark that Windows begins a file with
# How `datasets` reads what a name ends in.
BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {"encoding": ENCODING}),
    ".parquet": ("parquet", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".txt": ("text", {"encoding": ENCODING}),
}
COMPRESSED = (".gz", ".zst")
FORMATS = f"{', '.join(list(BUILDERS)[:-1])} or {list(BUILDERS)[-1]}, perhaps with {' or '.join(COMPRESSED)} behind it"
_ROWS_IN = "data"  # where a JSON file that is an object has its rows


def ending_of(name: str | Path) -> str | None:
    """What a file's name ends in, in small letters and without what it is compressed by; `None` if nobody reads it."""
    path = Path(str(name).lower())
    path = path.with_suffix("") if path.suffix in COMPRESSED else path
    return path.suffix if path.suffix in BUILDERS else None


def load_splits(name: str, config: str | None = None, streaming: bool = False, **options):
    """
    The splits of a dataset: a file, a folder that `save_to_disk` wrote, a folder of files, or a dataset of the hub.

    Args:
        name (`str`): path or hub id. A path that exists is never taken for a hub id.
        config (`str`, *optional*): name of the configuration, of hub datasets and folders.
        streaming (`bool`, *optional*, defaults to `False`): whether rows are read as they are needed.
        options: of [`~datasets.load_dataset`], for hub datasets and folders.

    Returns:
        `dict` of splits, or the dataset itself where it was saved without.

    Raises:
        `FileNotFoundError`: if a file is missing.
        `ValueError`: if it cannot be read.
    """
    import datasets

    path = Path(name)
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            return datasets.load_from_disk(name)
    elif is_file(name):
        return _load_file(name, streaming)
    try:
        return datasets.load_dataset(name, name=config, streaming=streaming, **options)
    except Exception as error:
        if not path.is_dir():
            raise
        raise ValueError(f"the folder {name} cannot be read as a dataset: {error}") from error


def is_file(name: str) -> bool:
    """Whether the name of a dataset is a file's, which need not be there, and not a folder's or one of the hub."""
    path = Path(name)
    return path.is_file() or (ending_of(name) is not None and not path.is_dir())


def check_file(name: str) -> None:
    """
    Refuses what `datasets` cannot read, as far as it is seen without reading.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if it is empty, or its name is none that is read.
        `ImportError`: if what it is compressed by is not installed.
    """
    path = _checked(name)
    if path.stat().st_size == 0:
        raise ValueError(f"{name}: the file is empty.")
    if path.suffix.lower() in COMPRESSED and set("[]") & set(path.name):
        raise ValueError(f"{name} cannot be unpacked by `datasets`, because of the brackets in its name: rename it.")


def _load_file(name: str, streaming: bool):
    import datasets

    check_file(name)
    path = Path(name)
    builder, options = BUILDERS[ending_of(name)]
    if ending_of(name) == ".json" and _has_its_rows_inside(path):
        options = options | {"field": _ROWS_IN}
    kind = ending_of(name)[1:]
    try:
        # Brackets in a name are no pattern.
        splits = datasets.load_dataset(
            builder, data_files=glob.escape(str(path.absolute())), streaming=streaming, **options
        )
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"{name} cannot be read as {kind}: {error.__cause__ or error}") from error
    if kind == "txt":
        splits = splits.filter(_is_not_blank).rename_column("text", "prompt")
    return splits


def _is_not_blank(row: dict[str, Any]) -> bool:
    return row["text"].strip() != ""


def take_split(splits, wanted: str, name: str, option: str):
    """
    A split by its name, or a part of one as `datasets` writes it: `train[:10%]`.

    Args:
        splits (`dict` or `Dataset`): what [`load_splits`] returned.
        wanted (`str`): the split.
        name (`str`): of the dataset, for the message.
        option (`str`): how the user chooses, for the message.

    Raises:
        `ValueError`: if there is none.
    """
    import datasets

    if not isinstance(splits, dict):  # saved to disk without splits
        splits = {"train": splits}
    if wanted in splits:
        return splits[wanted]
    if "[" in wanted:
        sizes = {split: len(rows) for split, rows in splits.items() if hasattr(rows, "__len__")}
        try:
            parts = datasets.ReadInstruction.from_spec(wanted).to_absolute(sizes)
            rows = [splits[part.splitname].select(range(part.from_ or 0, _end(part, sizes))) for part in parts]
            return datasets.concatenate_datasets(rows)
        except (ValueError, AssertionError):
            pass  # said below
    raise ValueError(
        f"{name} has no split {wanted!r}, it has {', '.join(map(repr, splits))}: choose with {option}."
    ) from None


def _end(part, sizes: dict[str, int]) -> int:
    return sizes[part.splitname] if part.to is None else part.to


def read_rows(name: str) -> list[dict[str, Any]]:
    """
    The rows of a file as they are: cells of CSV are text, and rows may have different columns.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if it cannot be read.
    """
    path, ending = _checked(name), ending_of(name)
    try:
        if ending == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        with _open(path) as file:
            return _READERS[ending](file)
    except (ValueError, RecursionError, csv.Error, EOFError) as error:  # of json, pyarrow and UTF-8; csv; gzip
        raise ValueError(f"{name} cannot be read as {ending[1:]}: {error}") from None


def first_row(name: str) -> dict[str, Any] | None:
    """The first row of a file as it is, of which most need not be read; `None` if it has none, or cannot be read."""
    try:
        path, ending = _checked(name), ending_of(name)
        if ending == ".parquet":
            import pyarrow.parquet

            return next(pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1)).to_pylist()[0]
        with _open(path) as file:
            if ending == ".json":
                return _read_json(file)[0]
            if ending in (".csv", ".tsv"):
                return next(csv.DictReader(file, delimiter="\t" if ending == ".tsv" else ","))
            line = next(filter(str.strip, file))
            return {"prompt": line.rstrip("\r\n")} if ending == ".txt" else _objects([json.loads(line)])[0]
    except (ValueError, RecursionError, csv.Error, EOFError, OSError, StopIteration, IndexError):
        return None


def _checked(name: str) -> Path:
    """The path of a file that can be read."""
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such file.")
    if ending_of(name) is None:
        raise ValueError(f"{name} ends in no format that is read: {FORMATS}.")
    if path.suffix.lower() == ".zst":
        try:
            import zstandard  # noqa: F401
        except ImportError:
            raise ImportError(
                f"{name} is compressed by Zstandard: pip install zstandard, or unpack it with `unzstd`."
            ) from None
    return path


def _open(path: Path) -> TextIO:
    """A file as text, unpacked."""
    suffix = path.suffix.lower()
    if suffix == ".zst":
        import zstandard

        return io.TextIOWrapper(
            zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True), encoding=ENCODING, newline=""
        )
    if suffix == ".gz":
        return gzip.open(path, "rt", encoding=ENCODING, newline="")
    return path.open(encoding=ENCODING, newline="")


def _has_its_rows_inside(path: Path) -> bool:
    """Whether a JSON file is `{"data": [...]}`, and not a line of JSON for each row."""
    with _open(path) as file:
        start = file.read(4096).lstrip()
        if not start.startswith("{"):
            return False
        try:
            value, _ = json.JSONDecoder().raw_decode(start + file.read())
        except (ValueError, RecursionError):
            return False
    return isinstance(value.get(_ROWS_IN), list)


def _read_jsonl(file: TextIO) -> list[dict]:
    rows = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: {error}") from None
    return _objects(rows)


def _read_json(file: TextIO) -> list[dict]:
    text = file.read()
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return _read_jsonl(io.StringIO(text))  # many a .json file has a line for each row
    if isinstance(rows, dict) and isinstance(rows.get(_ROWS_IN), list):
        rows = rows[_ROWS_IN]
    if not isinstance(rows, list):
        raise ValueError(f'it holds a {type(rows).__name__} and not a list of rows, or {{"{_ROWS_IN}": [...]}}.')
    return _objects(rows)


def _read_csv(file: TextIO, delimiter: str = ",") -> list[dict]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than some answers have
    rows = list(csv.DictReader(file, delimiter=delimiter))
    for number, row in enumerate(rows):
        if None in row:
            raise ValueError(f"row {number} (from 0) has more cells than the heading has.")
        if row.get("completions") is not None:
            try:
                row["completions"] = json.loads(row["completions"])
            except json.JSONDecodeError:
                raise ValueError(f"`completions` of row {number} (from 0) is not a list in JSON.") from None
    return rows


def _read_tsv(file: TextIO) -> list[dict]:
    return _read_csv(file, "\t")


def _read_txt(file: TextIO) -> list[dict]:
    return [{"prompt": line.rstrip("\r\n")} for line in file if line.strip()]


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".tsv": _read_tsv, ".txt": _read_txt}


def _objects(rows: Iterable) -> list[dict]:
    rows = list(rows)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} (from 0) is not an object of columns but {row!r:.80}.")
    return rows
