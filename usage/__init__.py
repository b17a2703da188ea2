"""What calls use: counted live, recorded for good, priced.

The vocabulary on top of the folder (`money`, `windows`, `amounts`, `assessment`, `limit_state`) is pure. Below it are
rooms, each with a sentence in its `__init__` and a wall that import-linter holds (pyproject.toml):

    api | admin | management  >  analytics  >  settling  >  counting | ledger  >  prices  >  vocabulary

`models.py` is only the door by which Django finds the models of the rooms.
"""
