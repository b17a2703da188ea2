"""How long the product waits for its servers, and what it does while one is away. It does not know what it asks."""
