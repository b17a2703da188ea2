"""Real PostgreSQL and Valkey from wheels, for `manage.py up`, the demo and the tests. Imports no Django."""
