"""Changes of an environment's policies: published, drafted, copied, rolled back; and whom they hit."""
