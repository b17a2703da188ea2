from tokvigil_site.tests.embedded.servers import actor, home, open_folder, shared_folder

__all__ = ["actor", "home", "open_folder", "shared_folder"]
