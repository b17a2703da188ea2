"""What models cost, and how many tokens a text has. Knows nothing of counting."""
