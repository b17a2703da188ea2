"""The web server: an event loop reads bodies, under one deadline; threads run the WSGI application on whole requests.

A client that sends slowly costs a connection and some memory, never a thread. `command` starts granian, which calls
`tokvigil_site.rsgi:application`.
"""

# From the end of a request's headers to the end of its body.
BODY_DEADLINE_S = 10.0
