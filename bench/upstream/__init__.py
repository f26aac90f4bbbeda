"""What stands behind the proxies: cheap, and of the same cost for each of them."""
