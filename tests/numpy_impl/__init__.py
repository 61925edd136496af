"""A third twin, of NumPy alone, for tests of what core does around a network: the modules and names of the other two."""

from core.twin import Twin

TWIN = Twin(__name__)
EXPORT_FORMATS: dict[str, tuple[str, str]] = {}
