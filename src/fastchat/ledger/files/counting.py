"""The number of shared files in a ledger, for operators."""

from __future__ import annotations

from fastchat.ledger.connecting import FAILED, bounded, connect, ledger_error
from fastchat.ledger.schema import check_schema
from fastchat.ledger.url import EngineUrl

__all__ = ["count_files"]

_TOTALS = (
    "SELECT coalesce(sum(files), 0)::bigint, coalesce(sum(bytes), 0)::bigint FROM file_changes"
)


async def count_files(url: EngineUrl) -> tuple[int, int]:
    """Return the number of stored files, and how many bytes they count in quotas.

    Raises SettingError if the database has no such ledger, and LedgerError if the server cannot be
    reached.
    """
    db = await connect(url)
    try:
        with bounded(db):
            await check_schema(db, url.schema)
            files, size = await db.fetchrow(_TOTALS)
    except FAILED as error:
        raise ledger_error(error) from error
    finally:
        db.terminate()
    return files, size
