"""Every run on record: a line of JSON each, and its evidence beside. What is there is not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.accuracy import evidence as stored
from edge.accuracy.evidence import Evidence
from edge.artifacts import sha256_of
from edge.errors import CannotWriteError, DataError

SCHEMA = "edge/accuracy-run/1"

Record = Mapping[str, Any]


class Ledger:
    """`FILE.jsonl`, appended to; of several lines of one run the last counts."""

    def __init__(self, file: Path, work: Path) -> None:
        """Reads what is there; a last line without its end, of a run that was cut off, is not.

        Raises:
            DataError: it is another kind of file.
        """
        self.file, self._folder = file, work / "evidence"
        self._records: dict[str, Record] = {}
        self._whole = True
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read: {error}", hint="name another --out") from None
        lines = text.split("\n")
        self._whole = lines[-1] == ""
        for number, line in enumerate(lines[:-1], 1):
            self._read(line, number)

    def _read(self, line: str, number: int) -> None:
        try:
            record = json.loads(line) if line else {"schema": SCHEMA, "key": ""}
            known = isinstance(record, dict) and record.get("schema") == SCHEMA
        except ValueError:
            known = line.startswith(f'{{"schema": "{SCHEMA}"')  # cut off, and gone on after it
            record = {"key": ""}
        if not known:
            raise DataError(
                f"{self.file}:{number}: not a run of edge bench accuracy",
                hint="name another --out, or delete it",
            )
        self._records[record["key"]] = record

    def find(self, key: str) -> Record | None:
        """What is known of a run, done or failed."""
        return self._records.get(key)

    def holds(self, key: str, code: str | None = None) -> bool:
        """Whether a run is done (by that code, where one is given), and its evidence is as it was."""
        record, file = self._records.get(key, {}), self._evidence_file(key)
        if record.get("status") != "done" or (code is not None and record.get("code") != code):
            return False
        return file.is_file() and sha256_of(file) == record.get("evidence_sha256")

    def evidence(self, key: str) -> Evidence:
        """Of a run that the ledger holds."""
        return stored.load(self._evidence_file(key))

    def add(self, record: Record, evidence: Evidence | None = None) -> None:
        """Evidence first: a line without it would count for nothing.

        Raises:
            CannotWriteError: the disk does not take it.
        """
        facts = {"schema": SCHEMA, **record}
        if evidence is not None:
            file = self._evidence_file(record["key"])
            stored.save(file, evidence)
            facts["evidence_sha256"] = sha256_of(file)
        line = json.dumps(facts, allow_nan=False, ensure_ascii=False) + "\n"
        try:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(line if self._whole else "\n" + line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise CannotWriteError(
                f"{self.file}: {error.strerror}", hint="check space and permissions"
            ) from None
        self._whole = True
        self._records[record["key"]] = facts

    def _evidence_file(self, key: str) -> Path:
        return self._folder / f"{key[:16]}.npz"
