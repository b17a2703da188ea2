#!/usr/bin/env python
import os
import sys

try:
    from django.core.management import execute_from_command_line
except ImportError as error:
    sys.exit(f"{error}. Run `make setup` once, and then `.venv/bin/python manage.py ...`.")

from tokvigil_site import launch, unreachable

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")
    with launch.prepared(sys.argv[1:]), unreachable.explained():
        execute_from_command_line(sys.argv)
