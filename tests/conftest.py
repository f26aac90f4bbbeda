"""What holds for every test."""

from hypothesis import settings

# How long an example takes is the machine's doing; a test that hangs is ended by its timeout.
settings.register_profile("sidecar", parent=settings(), deadline=None)
settings.load_profile("sidecar")
