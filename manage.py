#!/usr/bin/env python
import os
import sys

from django.core.management import execute_from_command_line

from tokvigil_site import launch

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokvigil_site.settings")
    with launch.prepared(sys.argv[1:]):
        execute_from_command_line(sys.argv)
