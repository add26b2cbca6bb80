"""A site's database read from outside, while its daemon may be running."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.errors import DataError, MissingInputError, UnavailableError
from edge.record import batches
from edge.record.batches import BatchRow, ChartRow
from edge.record.store import SCHEMA_VERSION


class BatchReader:
    """The quality over batches of a site whose daemon may be running: reads, changes nothing."""

    def __init__(self, file: Path) -> None:
        """Open the database.

        Raises:
            MissingInputError: there is none.
            UnavailableError: it cannot be read now. DataError: it is damaged, or of another version.
        """
        if not file.is_file():
            raise MissingInputError(
                f"{file}: no database", hint="it is made by edge run; check paths.state in config.toml"
            )
        self._file = file
        try:
            self._db = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from None
        try:
            ((version,),) = self._rows("PRAGMA user_version", ())
            if version != SCHEMA_VERSION:
                older = version < SCHEMA_VERSION
                raise DataError(
                    f"{file}: written by {'an older' if older else 'a newer'} edge (schema {version}, this "
                    f"one knows {SCHEMA_VERSION})",
                    hint="start the daemon of this version once" if older else "install the newer version",
                )
        except BaseException:  # whatever it is: no open database is left
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def spc_charts(self, recipe: str | None = None, view: str | None = None) -> list[ChartRow]:
        """As `Store.spc_charts`."""
        return batches.charts(self._rows, recipe, view)

    def spc_batches(self, chart: ChartRow, last: int) -> list[BatchRow]:
        """As `Store.spc_batches`."""
        return batches.rows(self._rows, chart, last)

    def _rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from None

    def _failed(self, error: sqlite3.DatabaseError) -> UnavailableError | DataError:
        if isinstance(error, sqlite3.OperationalError):
            return UnavailableError(
                f"{self._file}: {error}",
                hint="run it as the daemon's user, who may write beside the database, and check the disk",
            )
        return DataError(f"{self._file}: not a usable database: {error}", hint="see edge run")
