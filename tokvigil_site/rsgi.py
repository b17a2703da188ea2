"""What granian runs, see `tokvigil_site/serving`."""

from tokvigil_site.wsgi import application as wsgi_application  # first, for it sets Django up

from tokvigil_site.serving.bridge import Bridge  # isort: skip

application = Bridge(wsgi_application)
