#!/usr/bin/env python
import os
import sys

from django.core.management import execute_from_command_line

from tokvigil_site import launch, unreachable

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")
    with launch.prepared(sys.argv[1:]), unreachable.explained():
        execute_from_command_line(sys.argv)
