"""Attribution where applications run: ASGI, Django and Celery. Each module is imported only by whoever uses it."""
