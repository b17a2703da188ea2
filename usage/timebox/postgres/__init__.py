"""PostgreSQL as Django's database backend (`ENGINE`): Django's own, on connections that never wait without end."""
