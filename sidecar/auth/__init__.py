"""Who is calling, and whether it may."""
