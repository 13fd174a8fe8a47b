"""Encrypted backups: files of the age format (https://age-encryption.org/v1), which the program ``age`` reads too."""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from findings_orm.arguments import check_fields, checked
from findings_orm.errors import StorageIntegrityError, StorageUnavailableError, StorageValidationError
from findings_orm.process import block

AGE_HEAD = b"age-encryption.org/"
_PUBLIC = "age1"
_IDENTITY = "AGE-SECRET-KEY-1"
_PIPE = 1024 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """The keys of one file, or of a variable: what is encrypted for them, and what they open.

    Attributes:
        public: public keys (``age1...``), also those of the secret ones.
        secret: secret keys (``AGE-SECRET-KEY-1...``). Without one a backup can be made, but not read.
    """

    public: tuple[str, ...]
    secret: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    @checked
    def of_text(cls, text: str, where: str = "key") -> Key:
        """Return the keys of a text: one a line; empty lines and lines that begin with ``#`` don't count.

        Raises:
            StorageValidationError: a line is no key, or there is none. The message does not show it.
        """
        age = _load_pyrage()
        public, secret = [], []
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()  # noqa: PLW2901  # nothing else is wanted of it
            if not line or line.startswith("#"):
                continue
            try:
                if line.upper().startswith(_IDENTITY):
                    public.append(str(age.x25519.Identity.from_str(line).to_public()))
                    secret.append(line)
                else:
                    public.append(str(age.x25519.Recipient.from_str(line)))
            except (age.IdentityError, age.RecipientError, ValueError):
                rule = f"{where}, line {number}: must be an age key ({_PUBLIC}... or {_IDENTITY}...)"
                raise StorageValidationError(rule, field="key") from None
        if not public:
            raise StorageValidationError(f"{where}: holds no key", field="key")
        return cls(tuple(public), tuple(secret))

    @classmethod
    @checked
    def of_file(cls, path: str | os.PathLike[str]) -> Key:
        """Return the keys of a file.

        Raises:
            StorageUnavailableError: it can't be read.
            StorageValidationError: as `of_text`.
        """
        try:
            text = pathlib.Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StorageUnavailableError(f"{path}: the key can't be read: {error}") from error
        return cls.of_text(text, str(path))

    @classmethod
    def generate(cls) -> Key:
        """Return a new secret key."""
        return cls.of_text(str(_load_pyrage().x25519.Identity.generate()))


def _load_pyrage() -> Any:
    try:
        import pyrage  # type: ignore[import-untyped]  # it ships no types
    except ImportError as error:
        raise StorageUnavailableError(
            "encrypted backups need pyrage: pip install 'findings-orm[backup]'"
        ) from error
    return pyrage


@block
def encrypting_stream(stream: BinaryIO, key: Key) -> Iterator[BinaryIO]:
    """Yield a stream; what is written to it goes to `stream` encrypted."""
    age = _load_pyrage()
    recipients = [age.x25519.Recipient.from_str(one) for one in key.public]
    reading, writing = os.pipe()

    watched = _Watched(stream)

    def work() -> None:
        with os.fdopen(reading, "rb", buffering=_PIPE) as source:
            try:
                age.encrypt_io(source, watched, recipients)
            finally:
                if watched.failure is not None:
                    raise watched.failure

    with _run_beside(work), os.fdopen(writing, "wb", buffering=_PIPE) as target:
        yield target


class _Watched:
    """A stream that remembers that writing failed: pyrage says nothing of a failure of its last bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._stream.flush()


@block
def decrypting_stream(stream: BinaryIO, where: str, key: Key) -> Iterator[BinaryIO]:
    """Yield a stream to read what is in the encrypted `stream`.

    Raises:
        StorageValidationError: there is no secret key.
        StorageIntegrityError: the keys don't open it, or it is damaged.
    """
    age = _load_pyrage()
    if not key.secret:
        raise StorageValidationError(f"{where}: is encrypted; opening it takes a secret key", field="key")
    identities = [age.x25519.Identity.from_str(one) for one in key.secret]
    reading, writing = os.pipe()

    def work() -> None:
        with os.fdopen(writing, "wb", buffering=_PIPE) as target, suppress(BrokenPipeError):
            try:
                age.decrypt_io(stream, target, identities)
            except (age.DecryptError, OSError) as error:
                if not _is_broken_pipe(error):
                    raise StorageIntegrityError(f"{where}: can't be decrypted: {error}") from error

    with _run_beside(work), os.fdopen(reading, "rb", buffering=_PIPE) as source:
        yield source


def _is_broken_pipe(error: BaseException) -> bool:
    return isinstance(error, BrokenPipeError) or "Broken pipe" in str(error)


@block
def _run_beside(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a thread while the block runs; its error is raised in place of the block's, which follows from it."""
    failed: list[BaseException] = []

    def run_work() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised by the thread that waits
            failed.append(error)

    thread = threading.Thread(target=run_work, name="age", daemon=True)
    thread.start()
    try:
        yield
    except (StorageIntegrityError, BrokenPipeError):
        thread.join()
        if failed:
            raise failed[0] from None
        raise
    finally:
        thread.join()
    if failed:
        raise failed[0]
