"""What all pages of the console share: who sees and changes what, forms that lose no change, and how values look."""
