"""A third twin, of NumPy alone, with the modules and names of the other two: tests of core and eval run over it."""

from core.twin import Twin

TWIN = Twin(__name__)
EXPORT_FORMATS: dict[str, tuple[str, str]] = {}
