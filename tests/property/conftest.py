"""Laws are judged by what they find, not by how long an example takes: machines of tests are busy ones."""

from hypothesis import settings

settings.register_profile("laws", deadline=None)
settings.load_profile("laws")
