pytest_plugins = ["audit.testing"]
