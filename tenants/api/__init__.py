"""What all HTTP views share: authentication, problems, bodies, queries, cursors, the OpenAPI document."""
