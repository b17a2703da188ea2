"""What is wrong with a document, and where."""

from __future__ import annotations

from dataclasses import dataclass

ERRORS_MAX = 100
# What a message repeats of the file.
QUOTE_LENGTH_MAX = 60


@dataclass(frozen=True, slots=True)
class FileError:
    """What is wrong, and the fix. `path` is a place such as `policies[2].limits[0].amount`; "" is the whole."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class PolicyFileError(Exception):
    """Policies that cannot be taken as they are."""

    def __init__(self, *errors: FileError) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors


def join_path(path: str, key: str) -> str:
    key = key if len(key) <= QUOTE_LENGTH_MAX else f"{key[:QUOTE_LENGTH_MAX]}…"
    return f"{path}.{key}" if path else key


def quoted(text: str) -> str:
    return repr(text if len(text) <= QUOTE_LENGTH_MAX else f"{text[:QUOTE_LENGTH_MAX]}…")


def refused(path: str, message: str) -> PolicyFileError:
    return PolicyFileError(FileError(path, message))


def raise_any(errors: list[FileError]) -> None:
    if len(errors) > ERRORS_MAX:
        more = FileError("", f"and {len(errors) - ERRORS_MAX} more errors")
        errors = [*errors[:ERRORS_MAX], more]
    if errors:
        raise PolicyFileError(*errors)
