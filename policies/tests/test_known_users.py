"""What a process remembers of end users: the ones it sees most stay, however many others come once."""

from policies.deciding.known_users import KnownUsers


def test_the_least_recently_used_is_dropped() -> None:
    known = KnownUsers(kept_max=3)
    for user_id in ("a", "b", "c"):
        known.remember(1, user_id, f"0{user_id}")
    assert known.find(1, "a") == "0a"
    known.remember(1, "d", "0d")
    assert [known.find(1, user_id) for user_id in ("a", "b", "c", "d")] == ["0a", None, "0c", "0d"]


def test_remembering_again_is_using() -> None:
    known = KnownUsers(kept_max=2)
    for user_id, record in (("a", "0"), ("b", "0"), ("a", "1"), ("c", "0")):
        known.remember(1, user_id, record)
    assert [known.find(1, user_id) for user_id in ("a", "b", "c")] == ["1", None, "0"]


def test_environments_do_not_share() -> None:
    known = KnownUsers(kept_max=2)
    known.remember(1, "a", "0")
    assert known.find(2, "a") is None
    known.forget_all()
    assert known.find(1, "a") is None
