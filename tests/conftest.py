"""Settings of the whole suite."""

from hypothesis import settings

# no test depends on how fast the machine is
settings.register_profile("edge", deadline=None)
settings.load_profile("edge")
