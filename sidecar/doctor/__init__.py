"""What is wrong with an installation, and why a request is answered as it is."""
