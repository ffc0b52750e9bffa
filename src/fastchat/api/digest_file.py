"""Files of operators with the digests of secrets: the keys of the API, and incoming webhooks.

A file is a JSON object with one array. Each entry is an object with the same fields, among them
`sha256`, the digest of a secret. The secret itself is in no file.

For a change, a new file takes the place of the old one in one step, so a server that reads it
meanwhile finds either all old entries or all new ones. A lock on the directory lets two commands
run one after the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from fastchat.errors import SettingError

__all__ = ["MAX_ENTRIES", "DigestFile", "check_created", "check_digest", "digest_of", "table"]

logger = logging.getLogger("fastchat.api")

MAX_ENTRIES = 1000
#: A key with many long patterns of rooms has some 10 kB, and most entries have 300 bytes.
MAX_FILE_BYTES = 1 << 20
_DIGEST = re.compile("[0-9a-f]{64}")


class _Entry(Protocol):
    @property
    def sha256(self) -> str: ...


Entry = TypeVar("Entry", bound=_Entry)


class DigestFile(Generic[Entry]):
    """A kind of file. Errors about a file are a sentence (SettingError) that shows no digest.

    * `flag`: the setting that names the file.
    * `noun`: what an entry is; its plural is the name of the array, and `fastchat NOUN new` makes
      one.
    * `fields`: the names of the fields of an entry, all of which it must have.
    * `unique`: those of them that no two entries have in common.
    * `parse`: makes an entry of the values of its fields, or raises ValueError.
    * `describe`: the reverse.
    """

    def __init__(
        self,
        flag: str,
        noun: str,
        *,
        fields: Sequence[str],
        unique: Sequence[str],
        parse: Callable[..., Entry],
        describe: Callable[[Entry], Mapping[str, Any]],
    ) -> None:
        self._flag = flag
        self._noun = noun
        self._array = f"{noun}s"
        self._fields = tuple(fields)
        self._unique = tuple(unique)
        self._parse = parse
        self._describe = describe

    def read(self, file: Path) -> list[Entry]:
        """Read the entries in a file, and warn if others can read it. Raises SettingError."""
        try:
            with file.open("rb") as opened:
                data = opened.read(MAX_FILE_BYTES + 1)
                mode = os.fstat(opened.fileno()).st_mode
        except FileNotFoundError:
            raise self.error(
                file, f"does not exist; `fastchat {self._noun} new` makes it"
            ) from None
        except OSError as error:
            raise self.error(file, f"cannot be read: {error.strerror}") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            logger.warning(
                "other users of this machine can use %s, the file of %s; run: chmod go= %s",
                file,
                self._flag,
                shlex.quote(str(file)),
            )
        return self.parse(file, data)

    def parse(self, file: Path, data: bytes) -> list[Entry]:
        """The entries in the content of a file. Raises SettingError."""
        if len(data) > MAX_FILE_BYTES:
            raise self.error(file, f"has more than {MAX_FILE_BYTES:,} bytes")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            raise self.error(file, "is not valid JSON") from None
        if (
            type(content) is not dict
            or set(content) != {self._array}
            or type(content[self._array]) is not list
        ):
            raise self.error(
                file, f'must be a JSON object with one field, "{self._array}", which is an array'
            )
        found = content[self._array]
        if len(found) > MAX_ENTRIES:
            raise self.error(file, f"has more than {MAX_ENTRIES:,} {self._array}")
        entries = [self._entry(file, number, fields) for number, fields in enumerate(found, 1)]
        for field in self._unique:
            values = [getattr(entry, field) for entry in entries]
            if len(set(values)) < len(values):
                raise self.error(file, f"has two {self._array} with the same {field}")
        return entries

    @contextlib.contextmanager
    def changing(self, file: Path) -> Iterator[list[Entry]]:
        """The entries of a file, which are written when the block ends without an exception.

        A file that does not exist has no entries, and is created. Raises SettingError if the file
        cannot be read or written; then it has not changed.
        """
        try:
            real = Path(os.path.realpath(file))  # a link stays a link
            directory = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unwritable(file, error) from None
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            entries = self.read(file) if os.path.lexists(real) else []
            yield entries
            self._write(real, entries)
            os.fsync(directory)
        except OSError as error:
            raise self._unwritable(file, error) from None
        finally:
            os.close(directory)

    def check_room_for_more(self, file: Path, entries: Sequence[Entry]) -> None:
        """Raise SettingError if a file can have no more entries."""
        if len(entries) >= MAX_ENTRIES:
            raise self.error(file, f"has {MAX_ENTRIES:,} {self._array}, and can have no more")

    def error(self, file: Path, what: str) -> SettingError:
        """The error of which `what` says the rest of the sentence, without the full stop."""
        return SettingError(f"{self._flag} {file} {what}.")

    def _entry(self, file: Path, number: int, fields: Any) -> Entry:
        """One entry of a file; `number` names it in errors."""
        which = f"has a {self._noun}, number {number}"
        if type(fields) is not dict or set(fields) != set(self._fields):
            raise self.error(file, f"{which}, whose fields are not {', '.join(self._fields)}")
        try:
            return self._parse(**fields)
        except ValueError as error:
            raise self.error(file, f"{which}, which is wrong: {error}") from None

    def _write(self, file: Path, entries: Sequence[Entry]) -> None:
        """Replace a file by one with these entries, for the owner of the old one only."""
        content = {self._array: [dict(self._describe(entry)) for entry in entries]}
        new = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="utf-8") as opened:
                # The server can run as another user than the operator, who may be root.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    owner = file.stat()
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                json.dump(content, opened, indent=1, ensure_ascii=False)
                opened.write("\n")
                opened.flush()
                os.fsync(descriptor)
            os.replace(new, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise

    def _unwritable(self, file: Path, error: OSError) -> SettingError:
        return self.error(file, f"cannot be written: {error.strerror}")


def digest_of(text: str) -> str:
    """The digest of a secret, as files have it."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_digest(value: object) -> str:
    """Return the digest in an entry unchanged. Raises ValueError."""
    if type(value) is str and _DIGEST.fullmatch(value):
        return value
    raise ValueError("sha256 must have 64 hexadecimal digits")


def check_created(value: object) -> str:
    """Return the time in an entry unchanged. Raises ValueError."""
    if type(value) is str and value.isprintable():
        return value
    raise ValueError("created must be a time")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts in columns, under their titles."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))
    return "\n".join(lines)
