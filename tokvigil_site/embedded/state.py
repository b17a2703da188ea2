"""What a home remembers between starts: where its data is, its ports and its passwords."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tokvigil_site.embedded import files
from tokvigil_site.embedded.errors import StackError
from tokvigil_site.embedded.ports import HOST
from tokvigil_site.embedded.process import Account

STATE_FILE = "stack.json"
# The owner made the database and migrates it; it is a superuser and stays with the stack. The application's role owns
# nothing, so what SQL through the application can do ends at what it was granted (audit/roles.py).
OWNER = "tokvigil"
APPLICATION = "tokvigil_app"
DATABASE = "tokvigil"
PASSWORD_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`password` is the application's, for both servers. Homes from before there was an owner have none for it."""

    home: str
    data: str
    password: str
    postgres_port: int
    valkey_port: int
    durable: bool
    owner_password: str = ""

    @property
    def database_url(self) -> str:
        return self._database_url(APPLICATION, self.password)

    @property
    def owner_url(self) -> str:
        return self._database_url(OWNER, self.owner_password)

    def _database_url(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{password}@{HOST}:{self.postgres_port}/{DATABASE}"

    @property
    def redis_url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.valkey_port}/0"


def new_password() -> str:
    """Safe in a URL and in the servers' configuration without quoting."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def read(home: Path) -> State | None:
    """None if the home is new. Raises StackError if the state cannot be read."""
    file = home / STATE_FILE
    try:
        state = State(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise StackError(
            f"{file} belongs to another user: run this as that user, or set DATABASE_URL and REDIS_URL."
        ) from error
    except (ValueError, TypeError) as error:
        raise StackError(
            f"{file} is damaged ({error}): delete {home} to begin anew, its data is lost."
        ) from error
    return state if state.home == str(home) else _moved(state, home)


def write(state: State) -> None:
    home = Path(state.home)
    files.write_secret(home / STATE_FILE, json.dumps(asdict(state), indent=1) + "\n", account=_owner(home))


def _moved(state: State, home: Path) -> State | None:
    """A home that was moved or copied here: data inside came along, data elsewhere stays the original's."""
    if state.data != state.home:
        return None
    return replace(state, home=str(home), data=str(home))


def _owner(home: Path) -> Account | None:
    """Root working in a user's home must not lock that user out."""
    owner = home.stat()
    return Account(uid=owner.st_uid, gid=owner.st_gid) if os.geteuid() == 0 else None
