"""How Django writes the times that no page of ours writes itself: as tenants/console/display.py does."""
